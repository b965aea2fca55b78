"""Where a sweep stands, as its folder tells."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stic_ray import deliver, leases, trials
from stic_ray.config import Config, to_tree
from stic_ray.report import sweep_folder
from stic_ray.standing import FINISHED, RunNote
from stic_ray.status_command import main
from stic_ray.trials import Figure, Trial

_FIGURES = {
    "describe_simple/chair_i": Figure(value=20.04, low=18, high=22),
    "questions/accuracy": Figure(value=85, low=84, high=86),
}


@pytest.fixture
def sweep(embedded_sweep: Config, tmp_path: Path) -> str:
    """Three trials of twelve: one finished after 100 seconds, one failed, one in work at stage 1."""
    home = str(tmp_path / "runs" / "embedded-sweep")
    deliver.write_config(embedded_sweep, home, ["jobs/sweep.py"])
    sweep_folder.begin(home, _FIGURES, "jobs/sweep.py")
    values = [{"stage1.loss.alpha": alpha, "stage2.selection.keep_share": 0.5} for alpha in (1.0, 2.0, 3.0)]
    first, second, third = (
        Trial(id=trials.id_of(each), number=number, schedule=(each,)) for number, each in enumerate(values)
    )
    trials.write(home, replace(first.reported("stage1", _FIGURES, 100.0), state="finished"))
    trials.write(home, replace(second, state="failed", error="the loss is not finite"))
    trials.write(home, third)
    _note(home, embedded_sweep)
    note = _note(trials.folder(home, third.id), embedded_sweep)
    note.role("stage1", str(tmp_path / "store" / "stage1-0"), "in work")
    return home


def _note(home: str, config: Config) -> RunNote:
    note = RunNote(home, holder=leases.this_process("embedded-sweep"), config=to_tree(config))
    note.role("questions", "gone", "made")
    return note


def test_status_of_a_sweep_tells_its_trials_and_how_long_it_takes(
    sweep: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([sweep]) == 0
    said = capsys.readouterr().out
    assert "state  in work: run 'embedded-sweep'" in said
    assert "trials 3 of 12 begun: 1 finished, 1 failed, 1 running" in said
    assert "until  in about 15 min 50 s" in said  # 9 to come and half of one, 100 s each, one at once
    assert "20.0" in said and "the loss is not finite" in said and "stage1: for" in said


def test_status_of_a_sweep_as_json(sweep: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([sweep, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [trial["state"] for trial in told["trials"]] == ["finished", "failed", "running"]
    assert list(told["in_work"].values()) == [["stage1"]]
    assert told["front"] == [told["trials"][0]["id"]] and told["num_trials"] == 12


def test_finished_sweep_says_no_time(sweep: str, embedded_sweep: Config, capsys: pytest.CaptureFixture[str]) -> None:
    _note(sweep, embedded_sweep).end(FINISHED)
    assert main([sweep]) == 0
    assert "until" not in capsys.readouterr().out
