"""What several attempts at an artifact have added up is in its record, the killed ones' part included."""

import time
from pathlib import Path

import pytest

from stic_ray import storage
from stic_ray.attempts import Attempt


def test_sums_are_over_all_attempts_and_of_each_the_last_note(tmp_path: Path) -> None:
    killed, last = Attempt(str(tmp_path)), Attempt(str(tmp_path))
    killed.note({"seconds": 1.0, "new_tokens": 5.0})
    killed.note({"seconds": 2.5, "new_tokens": 9.0})
    last.note({"seconds": 4.0, "requests": 3.0})
    assert last.sums_of_all() == {"seconds": 6.5, "new_tokens": 9.0, "requests": 3.0}


@pytest.mark.parametrize("damage", [b"", b'{"seconds": 1', b"[1]", b'{"seconds": "x"}', b'{"seconds": null}', b"\xff"])
def test_a_damaged_note_is_left_out(tmp_path: Path, damage: bytes) -> None:
    attempt = Attempt(str(tmp_path))
    attempt.note({"seconds": 2.0})
    (tmp_path / "attempts" / "other.json").write_bytes(damage)
    assert attempt.sums_of_all() == {"seconds": 2.0}


def test_an_attempt_without_a_note_leaves_nothing(tmp_path: Path) -> None:
    assert Attempt(str(tmp_path)).sums_of_all() == {}
    assert list(tmp_path.iterdir()) == []


def test_note_sometimes_writes_no_more_than_every_few_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    attempt = Attempt(str(tmp_path))
    noted = []

    def look() -> dict[str, float]:
        noted.append(clock[0])
        return {"seconds": clock[0]}

    for clock[0] in (105.0, 110.0, 112.0, 121.0):
        attempt.note_sometimes(look)
    assert noted == [110.0, 121.0]
    assert len(storage.list_files(str(tmp_path / "attempts"))) == 1
