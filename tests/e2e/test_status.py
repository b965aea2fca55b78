"""`jobs/status.py` on a run that works, is killed in the middle, and is finished by the same command."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from e2e_project import ROOT, Project
from heads import end

from stic_ray import artifacts
from stic_ray.standing import STANDING
from stic_ray.status import look, to_json

pytestmark = pytest.mark.slow

_TIMEOUT_S = 240.0


def _status(run: Path) -> tuple[int, dict[str, Any]]:
    """The exit status, and what is said in JSON."""
    command = [sys.executable, str(ROOT / "jobs" / "status.py"), str(run), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    return done.returncode, json.loads(done.stdout) if done.stdout else {}


def _stage(told: dict[str, Any], role: str) -> dict[str, Any]:
    return next((stage for stage in told.get("stages", ()) if stage["role"] == role), {})


def _await_in_work(project: Project, driver: "subprocess.Popen[bytes]", role: str) -> dict[str, Any]:
    """The status when a stage says how far it is; asked in this process, since a training here takes seconds."""
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        assert driver.poll() is None and time.monotonic() < deadline
        if (project.run_home / STANDING).exists():
            told: dict[str, Any] = json.loads(to_json(look(str(project.run_home))))
            if _stage(told, role).get("state") == "in work" and _stage(told, role)["done"] is not None:
                return told
        time.sleep(0.2)


def test_status_follows_a_run_over_a_kill_to_its_end(finished: Project, project: Project) -> None:
    (project.home / "own.yaml").write_text((finished.home / "own.yaml").read_text())  # the same inputs, another store
    project.take(finished, "samples")
    driver = subprocess.Popen(
        project.command(),
        cwd=project.home,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _await_in_work(project, driver, "responses")
        assert _status(project.run_home)[0] == 0
        told = _await_in_work(project, driver, "stage1")
        assert told["state"] == "in work" and f"process {driver.pid} on" in told["holder"]
        assert _stage(told, "images")["state"] == "made" and _stage(told, "images")["rejects"]
        assert 0 < _stage(told, "stage1")["done"] <= _stage(told, "stage1")["total"]
        assert _stage(told, "stage1")["figures"]["loss"] > 0
        assert _stage(told, "descriptions")["state"] == "to come"
        driver.kill()
        driver.wait()
        code, told = _status(project.run_home)
        assert (code, told["state"], _stage(told, "stage1")["state"]) == (1, "left", "left")
        assert _stage(told, "stage1")["seconds_left"] is None
    finally:
        end(driver)
    project.finish()
    code, told = _status(project.run_home)
    assert (code, told["state"]) == (0, "finished")
    made = artifacts.read_references(str(project.run_home))
    assert {stage["role"]: stage["uri"] for stage in told["stages"]} == made
    assert _stage(told, "responses")["state"] == _stage(told, "samples")["state"] == "reused"
    assert _stage(told, "stage1")["state"] == "made"


def test_run_that_a_stage_ended_says_which_and_why(project: Project) -> None:
    (project.home / "images" / "broken.jpg").write_bytes(b"no image")
    done = project.run("execution.max_reject_rate=0", job="build_preferences.py")
    assert done.returncode == 2
    code, told = _status(project.home / "runs" / "own-preferences")
    assert (code, told["state"]) == (1, "failed")
    assert _stage(told, "images")["state"] == "failed"
    assert "1 of 25 inputs were rejected" in _stage(told, "images")["reason"]
    assert told["reason"] == _stage(told, "images")["reason"]
