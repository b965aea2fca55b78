"""Where a run stands, told from what is noted alone."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stic_ray import artifacts, leases, storage
from stic_ray.artifacts import Plan
from stic_ray.config import parse_config, read_yaml, to_tree
from stic_ray.leases import Lease
from stic_ray.recipes import read
from stic_ray.standing import FAILED, FINISHED, IN_WORK, INTERRUPTED, MADE, REUSED, ProgressNote, RunNote
from stic_ray.status import GONE, LEFT, TO_COME, look, tell
from stic_ray.status_command import main

_PLAN = Plan(stage="responses", code_version=1, identity={}, kind="Response")


def _config() -> Any:
    return to_tree(parse_config(read_yaml(read("embedded"), "embedded"), ["name=own"]))


def _note(home: str, **holder: Any) -> RunNote:
    return RunNote(home, holder={**leases.this_process("own"), **holder}, config=_config())


def _gone() -> dict[str, Any]:
    """A process of this host that has ended."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return {"pid": child, "started": "1"}


def _commit(store: str, plan: Plan = _PLAN) -> str:
    counts = {"rows": 7, "rejects": 2, "rejects_by_reason": {"no image": 2}}
    return artifacts.commit(store, plan, {"inputs": 9, "inputs_per_s": 3.0, "seconds": 3.0}, counts).uri


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder, or a bucket on a real S3 server, for store and runs."""
    bucket: Callable[[str], str] = request.getfixturevalue
    return str(tmp_path) if request.param == "local" else bucket("s3_bucket")


def test_live_run_says_who_how_far_how_fast_and_what_comes(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    home, store = f"{place}/runs/own", f"{place}/store"
    note = _note(home)
    note.role("images", _commit(store), REUSED)
    uri = storage.join(store, "responses-0123456789abcdef")
    with Lease(uri, "own"):
        note.role("responses", uri, IN_WORK)
        progress = ProgressNote(uri, total=400)
        progress.write(40)
        time.sleep(0.2)
        progress.write(100, rejects={"too long": 3})
        status = look(home)
        assert main([home]) == 0
    assert status.state == IN_WORK and status.knows_rest
    stages = {stage.role: stage for stage in status.stages}
    assert (stages["images"].state, stages["images"].done, stages["images"].rejects) == (REUSED, 7, {"no image": 2})
    responses = stages["responses"]
    assert (responses.state, responses.done, responses.total) == (IN_WORK, 100, 400)
    assert responses.per_s is not None and responses.seconds_left == pytest.approx(300 / responses.per_s)
    assert "run 'own' (process" in responses.holder and responses.rejects == {"too long": 3}
    assert status.seconds_left == responses.seconds_left
    assert [stages[role].state for role in ("pairs", "stage1", "predictions_stage2_control")] == [TO_COME] * 3
    said = capsys.readouterr().out
    assert "100 of 400 units (25%)" in said and "left" in said and "3 rejects (3: too long)" in said


def test_killed_run_is_left_and_has_no_speed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home, store = str(tmp_path / "runs" / "own"), str(tmp_path / "store")
    note = _note(home, **_gone())
    uri = storage.join(store, "stage1-0123456789abcdef")
    ProgressNote(uri, total=24).write(12, figures={"loss": float("nan"), "tokens_per_s": 100.0})
    checkpoint = {"step": 10, "at": time.time() - 90}
    storage.write_bytes(f"{uri}/checkpoints/step-00000010-a/checkpoint.json", json.dumps(checkpoint).encode())
    storage.write_bytes(f"{uri}/checkpoints/step-00000012-a/metrics.jsonl", b"")  # was being written
    note.role("stage1", uri, IN_WORK)
    status = look(home)
    (stage, *_) = status.stages
    assert (status.state, stage.state) == (LEFT, LEFT)
    assert (stage.done, stage.total, stage.per_s, stage.seconds_left) == (12, 24, None, None)
    assert stage.checkpoint_step == 10 and stage.checkpoint_age_s == pytest.approx(90, abs=5)
    assert main([home, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["state"] == LEFT and told["stages"][0]["figures"] == {"loss": None, "tokens_per_s": 100.0}
    assert "12 of 24 steps (50%)" in tell(status) and "loss not finite" in tell(status)
    assert "the same command goes on from what is committed" in tell(status)


def test_stage_that_was_committed_before_the_kill_is_made(tmp_path: Path) -> None:
    home, store = str(tmp_path / "runs" / "own"), str(tmp_path / "store")
    note = _note(home, **_gone())
    note.role("responses", _commit(store), IN_WORK)
    assert look(home).stages[0].state == MADE


def test_run_on_another_host_lives_while_it_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = str(tmp_path / "runs" / "own")
    _note(home, host="elsewhere").role("responses", str(tmp_path / "responses-1"), IN_WORK)
    assert look(home).state == IN_WORK
    later = time.time() + 2 * leases.LEASE_S
    monkeypatch.setattr(time, "time", lambda: later)
    assert look(home).state == LEFT


@pytest.mark.parametrize(
    ("ended", "reason", "status"), [(FINISHED, "", 0), (FAILED, "too many rejects", 1), (INTERRUPTED, "", 1)]
)
def test_ended_run_says_how(
    ended: str, reason: str, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = str(tmp_path / "runs" / "own")
    note = _note(home)  # a process that still lives may have ended its run
    state = {FINISHED: MADE, FAILED: FAILED, INTERRUPTED: MADE}[ended]
    note.role("responses", _commit(str(tmp_path / "store")) if state == MADE else str(tmp_path / "r-1"), state, reason)
    note.end(ended, reason)
    assert main([home]) == status
    said = capsys.readouterr().out
    assert f"state  {ended} after" in said and reason in said
    assert (TO_COME in said) is (ended != FINISHED)


def test_artifact_that_was_removed_since_is_gone(tmp_path: Path) -> None:
    home = str(tmp_path / "runs" / "own")
    note = _note(home)
    uri = _commit(str(tmp_path / "store"))
    note.role("responses", uri, MADE)
    note.end(FINISHED)
    storage.remove(uri)
    assert look(home).stages[0].state == GONE


def test_part_of_the_method_alone_has_no_list_of_what_comes(tmp_path: Path) -> None:
    home = str(tmp_path / "runs" / "own-gains")
    _note(home).role("samples", str(tmp_path / "samples-1"), IN_WORK)
    status = look(home)
    assert not status.knows_rest and [stage.role for stage in status.stages] == ["samples"]
    assert "stages that follow are listed once they begin" in tell(status)


def test_run_of_an_earlier_version_is_told_from_its_references(tmp_path: Path) -> None:
    home = tmp_path / "runs" / "own"
    home.mkdir(parents=True)
    (home / "artifacts.json").write_text(json.dumps({"responses": _commit(str(tmp_path / "store"))}))
    status = look(str(home))
    assert (status.state, status.stages[0].state) == (FINISHED, MADE)
    assert tell(status).startswith(f"run    {home}\nstate  finished\n")


def test_folder_without_a_run_is_a_mistake_of_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "give the directory of a run" in said and said.count("\n") == 1


def test_watch_ends_with_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = str(tmp_path / "runs" / "own")
    note = _note(home)
    note.role("responses", str(tmp_path / "responses-1"), IN_WORK)

    def finish_at_the_second_look(seconds: float) -> None:
        assert seconds == 30
        note.end(FINISHED)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(time, "sleep", finish_at_the_second_look)
        assert main([home, "--watch", "30", "--json"]) == 0
    assert [json.loads(line)["state"] for line in capsys.readouterr().out.splitlines()] == [IN_WORK, FINISHED]
