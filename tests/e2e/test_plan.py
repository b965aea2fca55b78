"""`python jobs/plan.py --calibrate`, as a user starts it: two small runs, measured once."""

import json
from pathlib import Path

import pytest
from e2e_project import NUM_IMAGES, Project

pytestmark = [pytest.mark.slow, pytest.mark.long]

_SIZE = 8
_ASKED = ("--calibrate", str(_SIZE), "--cluster", "{cpus: 2, node_hour_price: 1}")


def test_plan_measures_small_runs_once_and_tells_every_stage(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "planned")
    before = project.made()
    settings = [f"store={project.store}", f"runs={project.home / 'runs'}"]
    first = project.run(*_ASKED, "--json", *settings, job="plan.py")
    assert first.returncode == 0, first.stderr[-4000:]
    plan = json.loads(first.stdout)
    references = json.loads((project.home / "runs" / f"own-calibration-{2 * _SIZE}" / "artifacts.json").read_text())
    assert [stage["role"] for stage in plan["stages"]] == list(references)
    assert plan["inputs"]["images"] > NUM_IMAGES  # bad files are listed too
    by_role = {stage["role"]: stage for stage in plan["stages"]}
    assert by_role["listing"]["units"] == plan["inputs"]["images"]
    asked = by_role["responses"]
    assert asked["units"] == pytest.approx(NUM_IMAGES, rel=0.3)  # as many as were no bad files in the draw
    assert asked["requests"] == pytest.approx(2 * asked["units"])
    assert by_role["stage1"]["seconds"]["value"] > 1.0
    assert plan["seconds"]["low"] < plan["seconds"]["value"] < plan["seconds"]["high"]
    assert plan["money"]["value"] == pytest.approx(plan["seconds"]["value"] / 3600)
    made = project.made()
    assert made - before
    again = project.run(*_ASKED, *settings, job="plan.py")
    assert again.returncode == 0, again.stderr[-4000:]
    assert "stage1" in again.stdout and "money" in again.stdout
    assert project.made() == made
