"""Training on two sharded workers gives what one gives."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from e2e_project import Project
from safetensors.torch import load_file

from stic_ray.train.job import MERGED, METRICS

pytestmark = pytest.mark.slow


def only(store: Path, stage: str) -> Path:
    (found,) = store.glob(f"{stage}-*")
    return found


def test_two_workers_train_as_one_does(finished: Project, tmp_path: Path) -> None:
    projects = [finished.copy(tmp_path / name) for name in ("one", "two")]
    for project, settings in zip(
        projects, ((), ("execution.num_train_workers=2", "execution.row_tokens=1")), strict=True
    ):
        shutil.rmtree(only(project.store, "stage1"))
        project.finish("stage1.steps=20", "stage2=null", *settings)
    one, two = (only(project.store, "stage1") for project in projects)
    lines = [[json.loads(line) for line in (stage / METRICS).read_text().splitlines()] for stage in (one, two)]
    assert [line["step"] for line in lines[0]] == list(range(1, len(lines[0]) + 1))
    losses = [[line["loss"] for line in each] for each in lines]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    assert len(losses[0]) == 20
    expected, found = (load_file(stage / MERGED / "model.safetensors") for stage in (one, two))
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, atol=1e-4, rtol=0)
    base = load_file(finished_model(finished))
    assert any(not torch.equal(base[name], expected[name]) for name in base.keys() & expected.keys())


def finished_model(finished: Project) -> Path:
    """The weights that the run started from."""
    config = (finished.run_home / "config.yaml").read_text()
    path = next(line.split(": ", 1)[1] for line in config.splitlines() if line.strip().startswith("path:"))
    return Path(path) / "model.safetensors"
