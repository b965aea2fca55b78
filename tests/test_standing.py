"""What a run and its stages write down of themselves."""

import time
from pathlib import Path

import pytest

from stic_ray import standing, stopping
from stic_ray.standing import (
    FAILED,
    FINISHED,
    IN_WORK,
    INTERRUPTED,
    MADE,
    ProgressNote,
    RunNote,
    StageProgress,
    Ticker,
    read_progress,
    read_standing,
)


def test_speed_is_that_of_the_last_minutes() -> None:
    progress = StageProgress(done=100, total=400, at=1060.0, recent=[(1000.0, 40), (1030.0, 70), (1060.0, 100)])
    assert progress.per_s == pytest.approx(1.0)
    assert progress.seconds_left == pytest.approx(300.0)


@pytest.mark.parametrize("recent", [[], [(1000.0, 40)], [(900.0, 40), (1000.0, 40)]], ids=["none", "first", "still"])
def test_speed_is_unknown_where_nothing_came_out(recent: list[tuple[float, int]]) -> None:
    progress = StageProgress(done=40, total=400, at=1000.0, recent=recent)
    assert progress.per_s is None and progress.seconds_left is None


def test_note_forgets_what_was_longer_ago_than_speeds_are_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    note = ProgressNote(str(tmp_path), total=1000)
    for done in range(0, 1000, 10):
        note.write(done, rejects={"too long": 1})
        now[0] += 10.0
    found = read_progress(str(tmp_path))
    assert found is not None
    assert (found.done, found.total, found.rejects) == (990, 1000, {"too long": 1})
    assert len(found.recent) <= 31 and found.at - found.recent[0][0] <= 300.0
    assert found.per_s == pytest.approx(1.0)


def test_damaged_progress_is_none(tmp_path: Path) -> None:
    assert read_progress(str(tmp_path)) is None
    (tmp_path / "progress.json").write_text('{"step": 3}')
    assert read_progress(str(tmp_path)) is None


def test_run_note_holds_roles_and_the_end(tmp_path: Path) -> None:
    note = RunNote(str(tmp_path), holder={"pid": 1}, config={"name": "own"})
    assert read_standing(str(tmp_path)) is None
    note.role("responses", "/s/responses-1", IN_WORK)
    note.role("pairs", "/s/pairs-1", FAILED, "too many rejects")
    note.role("responses", "/s/responses-1", MADE)
    note.end(FINISHED)
    note.beat()  # says nothing else
    found = read_standing(str(tmp_path))
    assert found is not None and found.ended == FINISHED and found.config == {"name": "own"}
    assert {role: entry.state for role, entry in found.roles.items()} == {"responses": MADE, "pairs": FAILED}
    assert found.roles["pairs"].reason == "too many rejects"


def test_run_that_is_ended_from_outside_was_interrupted(tmp_path: Path) -> None:
    notes = {name: RunNote(str(tmp_path / name), holder={}, config={}) for name in ("working", "finished")}
    for note in notes.values():
        note.begin()
    notes["finished"].end(FINISHED)
    assert standing._note_interruptions in stopping._duties
    standing._note_interruptions()  # alone: leases are given up for good
    found = {name: read_standing(str(tmp_path / name)) for name in notes}
    assert {name: each and each.ended for name, each in found.items()} == {
        "working": INTERRUPTED,
        "finished": FINISHED,
    }


def test_run_note_holds_no_secret_of_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "a-key-that-a-server-repeats")
    note = RunNote(str(tmp_path), holder={}, config={})
    note.role("verdicts", "/s/verdicts-1", FAILED, "refused: a-key-that-a-server-repeats")
    note.end(FAILED, "verdicts: refused: a-key-that-a-server-repeats")
    found = read_standing(str(tmp_path))
    assert found is not None and found.reason == "verdicts: refused: [JUDGE_KEY]"
    assert found.roles["verdicts"].reason == "refused: [JUDGE_KEY]"


def test_damaged_standing_is_a_mistake_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "standing.json").write_text("{")
    with pytest.raises(ValueError, match=r"standing\.json is damaged: remove it"):
        read_standing(str(tmp_path))


def test_note_that_cannot_be_written_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "runs").write_text("a file where a folder should be")
    note = RunNote(str(tmp_path / "runs" / "own"), holder={}, config={})
    note.role("responses", "/s/responses-1", IN_WORK)
    assert "cannot be reached" in caplog.text


def test_ticker_calls_at_once_again_and_at_a_good_end() -> None:
    calls: list[float] = []
    with Ticker(lambda: calls.append(time.monotonic()), every_s=0.05):
        assert len(calls) == 1
        time.sleep(0.3)
        during = len(calls)
    assert during > 1 and len(calls) == during + 1


def test_ticker_outlives_a_place_that_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise OSError("no space left")

    with Ticker(fail, every_s=0.05):
        time.sleep(0.3)
    assert len(calls) > 2 and "no space left" in caplog.text
