"""A loss without a reference: no pair is scored, and what is too long is a reject before training all the same."""

from pathlib import Path

import pytest
from e2e_project import Project

from kill_rounds import audit, references
from stic_ray import artifacts
from stic_ray.records import Pair, Score

pytestmark = pytest.mark.slow

_LOSSES = {
    "without a reference": "stage1.loss={type: SimpoLoss, beta: 2, gamma: 0.5}",
    "with adapters off": "stage1.reference={type: AdapterOff}",
}


@pytest.mark.parametrize("setting", list(_LOSSES.values()), ids=list(_LOSSES))
def test_pairs_are_read_and_not_scored(finished: Project, tmp_path: Path, setting: str) -> None:
    project = finished.copy(tmp_path / "project")
    project.finish(setting, "stage2=null", "stage1.max_length=50", "stage1.validation=null")
    found = references(project.run_home)
    assert "pairs_tokens" in found and "pairs_scores" not in found
    pairs = {pair.id for pair in artifacts.read(found["pairs"], Pair)}
    kept = {row.item_id for row in artifacts.read(found["pairs_tokens"], Score)}
    rejects = artifacts.read_rejects(found["pairs_tokens"])
    assert kept | {reject.id for reject in rejects} == pairs and kept and rejects
    assert {reject.reason for reject in rejects} == {"longer than max_length 50 tokens"}
    assert audit(project.run_home) == []
