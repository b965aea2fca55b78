"""Rounds of stage 1: each is by the model of the one before, and none is done twice."""

import json
from pathlib import Path

import pytest
from e2e_project import Project, audit

from stic_ray import artifacts
from stic_ray.records import Pair

pytestmark = pytest.mark.slow

LEFT_OUT = ("stage2=null", "stage2_control=null")


def test_every_round_is_written_referenced_and_started_by_the_one_before(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "rounds")
    before = project.made()
    project.finish("rounds=2", *LEFT_OUT)
    added = sorted(name.rpartition("-")[0] for name in project.made() - before)
    assert added == ["pair_scores", "pairs", "responses", "stage1"]  # the first round is the run that was there
    lineage = json.loads((project.run_home / "artifacts.json").read_text())
    one_round = ["responses", "pairs", "pairs_scores", "stage1"]
    rounds = [f"{role}{suffix}" for suffix in ("_round1", "") for role in one_round]
    assert list(lineage) == ["listing", "images", "unique", *rounds]
    made = {role: artifacts.load(uri) for role, uri in lineage.items()}
    first = made["stage1_round1"].fingerprint
    for role in ("responses", "pairs_scores", "stage1"):
        assert made[role].record["parents"]["model"] == first != made[f"{role}_round1"].record["parents"]["model"]
    one, two = (
        {pair.image_id: pair for pair in artifacts.read(lineage[role], Pair)} for role in ("pairs_round1", "pairs")
    )
    assert one.keys() & two.keys()
    assert any(one[image].prompt != two[image].prompt for image in one.keys() & two.keys())  # drawn anew
    assert {pair.id for pair in one.values()}.isdisjoint(pair.id for pair in two.values())
    for name in ("stage1_round1", "stage1"):
        for part in ("adapter/adapter_model.safetensors", "merged/model.safetensors"):
            assert (project.run_home / name / part).is_file()
    lines = [json.loads(line) for line in (project.run_home / "metrics.jsonl").read_text().splitlines()]
    assert [sum(f"{name}/loss" in line for line in lines) for name in ("stage1_round1", "stage1")] == [
        made[name].record["steps"] for name in ("stage1_round1", "stage1")
    ]
    assert audit(project.run_home).returncode == 0

    project.finish(*LEFT_OUT)
    assert not (project.run_home / "stage1_round1").exists()
    assert json.loads((project.run_home / "artifacts.json").read_text())["stage1"] == lineage["stage1_round1"]
