"""Trials as they stand in a sweep's folder, and which of them nobody beats."""

from pathlib import Path

import pytest

from stic_ray import trials
from stic_ray.config import Config, Objective
from stic_ray.trials import Figure, Trial

_OBJECTIVES = (Objective(figure="chair/chair_i", mode="min"), Objective(figure="questions/accuracy", mode="max"))


def _trial(name: str, chair: float, accuracy: float, *, state: trials.State = "finished") -> Trial:
    figures = {"chair/chair_i": chair, "questions/accuracy": accuracy}
    new = Trial(id=name, number=0, schedule=({"seed": 1},), state=state)
    return new.reported("stage1", {key: Figure(value=each, low=each, high=each) for key, each in figures.items()}, 1.0)


_SOUND = trials.as_text(_trial("a", 20, 80))
_WRONG = (
    ["", "[]", "{}", '{"state": "gone"}', '{"state": "running", "reports": [3]}', "\xff"]
    + [
        _SOUND.replace(before, after)
        for before, after in (
            ('"number": 0', '"number": "none"'),
            ('"value": 20', '"value": null'),
            ('"low": 80', '"low": NaN'),
            ('"seconds": 1.0', '"seconds": Infinity'),
        )
    ]
    + [trials.as_text(Trial(id="a", number=0, schedule=({},), state="finished"))]
)


def test_front_has_the_trials_that_no_finished_one_beats_the_best_by_the_first_objective_first() -> None:
    tried = [
        _trial("worse", 20, 80),
        _trial("able", 18, 90),
        _trial("honest", 10, 70),
        _trial("same", 10, 70),
        _trial("stopped", 5, 99, state="stopped"),
        Trial(id="failed", number=0, schedule=({},), state="failed"),
    ]
    assert [trial.id for trial in trials.front(tried, _OBJECTIVES)] == ["honest", "same", "able"]
    assert [trial.id for trial in trials.front(tried, _OBJECTIVES[1:])] == ["able"]
    assert trials.front(tried[4:], _OBJECTIVES) == []


def test_trial_is_read_as_it_was_written_in_the_order_of_starts(tmp_path: Path) -> None:
    home = str(tmp_path)
    first = Trial(id="b", number=0, schedule=({"stage1.loss.alpha": 1e-5, "x": None},), state="failed", error="no")
    trials.write(home, Trial(id="c", number=2, schedule=(), state="failed"))  # a member that never trained
    second = _trial("a", 1, 2).reported("stage2", {"chair/chair_i": Figure(value=3, low=2, high=4)}, 2.5)
    for trial in (second, first):
        trials.write(home, trial)
    found = trials.read_all(home)
    assert found[:2] == [second, first] and [each.id for each in found] == ["a", "b", "c"]
    assert trials.read(home, "d") is None
    assert second.seconds == 3.5 and second.figures["chair/chair_i"].high == 4


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"state": "gone"}', '{"state": "running", "reports": [3]}', "\xff", *_WRONG]
)
def test_damaged_trial_is_named_with_the_remedy(tmp_path: Path, text: str) -> None:
    file = tmp_path / "trials" / "a" / "trial.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"trial\.json is damaged: remove it"):
        trials.read_all(str(tmp_path))


def test_id_depends_on_settings_and_not_on_their_order() -> None:
    assert trials.id_of({"a": 1, "b": 2.5}) == trials.id_of({"b": 2.5, "a": 1}) != trials.id_of({"a": 1, "b": 2.6})


def test_schedule_becomes_the_trainings_before_the_last(embedded_sweep: Config) -> None:
    found = trials.config_with(embedded_sweep, [{"stage1.lr": 1e-5}, {"stage1.lr": 0.002}, {"stage1.lr": 3e-4}])
    assert [training.lr for training in found.stage1_before] == [1e-5, 0.002]
    assert found.stage1 is not None and found.stage1.lr == 3e-4


def test_best_configuration_gives_controls_what_they_had_in_common_with_their_stage(embedded_sweep: Config) -> None:
    values = {"stage1.loss.alpha": 2.0, "stage1.lr": 3e-4, "stage2.selection.keep_share": 0.4, "stage2.epochs": 2}
    values |= {"stage1.steps": 7}  # null in both before
    apart = trials.config_with(embedded_sweep, [{"stage2_control.epochs": 3}])
    trial = Trial(id="a", number=0, schedule=({"stage1.lr": 1e-5}, values), state="finished")
    found = trials.config_of_best(apart, trial)
    assert found.stage1_control is not None and found.stage1_control.lr == 3e-4
    assert found.stage1_control.steps == 7
    assert found.stage2 is not None and found.stage2_control is not None
    assert found.stage2_control.selection == found.stage2.selection
    assert (found.stage2.epochs, found.stage2_control.epochs) == (2, 3)
    assert [training.lr for training in found.stage1_before] == [1e-5]
