"""Where a sweep stands, as its folder tells."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from stic_ray import deliver, leases, sweep_status, trials
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
    assert "trials 3 of 12 begun: 1 finished, 1 failed, 1 running" in said
    assert re.search(r"^state  in work for \d+ s: run 'embedded-sweep'", said, re.M)
    assert re.search(r"^until  about \d\d:\d\d:\d\d, in 8 min (20|19) s$", said, re.M)  # 10 of 100 s, two at once
    assert "the loss is not finite" in said and "stage1: for" in said


def test_status_of_a_sweep_has_the_table_that_a_sweep_ends_with(sweep: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([sweep]) == 0
    said = capsys.readouterr().out
    assert "describe_simple/chair_i (min)" in said and "questions/accuracy (max)" in said
    assert re.search(r"^\w{8}\*.*20\.0 \[18\.0, 22\.0\].*finished$", said, re.M)
    assert re.search(r"^base .*20\.0 \[18\.0, 22\.0\]", said, re.M)


def test_time_left_of_a_sweep_does_not_jump_between_two_trials(sweep: str) -> None:
    """As many work at once as may, whether they run at this moment or not; what they have worked counts."""
    found = sweep_status.look_at(sweep)
    running = found.found.trials[2]
    before = found.seconds_left
    trials.write(sweep, replace(running.reported("stage1", _FIGURES, 100.0), state="stopped"))
    after = sweep_status.look_at(sweep).seconds_left
    assert before == pytest.approx(1000 / 2, abs=2) and after == pytest.approx(900 / 2, abs=2)


def test_first_trial_makes_what_all_share_and_counts_only_while_alone(sweep: str) -> None:
    first, second, third = sweep_status.look_at(sweep).found.trials
    trials.write(sweep, replace(first, reports=(replace(first.reports[0], seconds=9000.0),)))
    trials.write(sweep, replace(second.reported("stage1", _FIGURES, 100.0), state="stopped"))
    trials.write(sweep, replace(third.reported("stage1", _FIGURES, 60.0), state="stopped"))
    assert sweep_status.look_at(sweep).seconds_left == pytest.approx(9 * 80 / 2)


def test_sweep_without_a_limit_takes_the_most_that_worked_at_once(sweep: str, embedded_sweep: Config) -> None:
    assert embedded_sweep.sweep is not None
    free = replace(embedded_sweep, sweep=replace(embedded_sweep.sweep, max_concurrent=None))
    deliver.write_config(free, sweep, ["jobs/sweep.py"])
    assert sweep_status.look_at(sweep).seconds_left == pytest.approx(1000, abs=2)
    notes = [_note(trials.folder(sweep, trial.id), free) for trial in sweep_status.look_at(sweep).found.trials]
    for note in notes:
        note.role("stage1", "gone", "in work")
    assert sweep_status.look_at(sweep).seconds_left == pytest.approx(1000 / 3, abs=2)


def test_table_says_whose_figures_a_stopped_trial_has(sweep: str) -> None:
    told = "stopped trials: figures of their stage-1 model"
    assert told not in sweep_folder.write(sweep)
    third = sweep_status.look_at(sweep).found.trials[2]
    trials.write(sweep, replace(third.reported("stage1", _FIGURES, 60.0), state="stopped"))
    assert told in sweep_folder.write(sweep).splitlines()


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
