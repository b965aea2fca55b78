"""Sweeps as they are written: what is read, and what a wrong one is told."""

from collections.abc import Mapping
from datetime import date
from typing import Any

import pytest

from stic_ray import recipes
from stic_ray.config import (
    Asha,
    Choice,
    GridSearch,
    LogUniform,
    Objective,
    RandomSearch,
    Sweep,
    parse_config,
    read_yaml,
    to_tree,
)

_SWEEP: dict[str, Any] = {
    "space": {
        "stage1.loss.alpha": {"type": "LogUniform", "low": 0.1, "high": 10},
        "stage2.selection.keep_share": {"type": "Choice", "values": [0.3, 0.5, 1.0]},
    },
    "objectives": [
        {"figure": "describe_simple/chair_i", "mode": "min"},
        {"figure": "questions/accuracy", "mode": "max"},
    ],
}


def _parse(tree: Mapping[str, Any]) -> Sweep:
    whole = recipes.expand(read_yaml(recipes.read("embedded"), "embedded"))
    sweep = parse_config({**whole, "sweep": tree}, []).sweep
    assert sweep is not None
    return sweep


def test_sweep_has_sensible_defaults_and_survives_writing() -> None:
    sweep = _parse(_SWEEP)
    assert sweep.space["stage1.loss.alpha"] == LogUniform(low=0.1, high=10.0)
    assert sweep.space["stage2.selection.keep_share"] == Choice(values=(0.3, 0.5, 1.0))
    assert sweep.objectives[0] == Objective(figure="describe_simple/chair_i", mode="min")
    assert (sweep.search, sweep.scheduler, sweep.trials, sweep.num_trials) == (RandomSearch(), Asha(), 12, 12)
    assert _parse(to_tree(sweep)) == sweep


def test_grid_has_a_trial_for_every_combination() -> None:
    space = {"a": {"type": "Choice", "values": [1, "x", None]}, "b": {"type": "Choice", "values": [True, False]}}
    sweep = _parse({**_SWEEP, "space": space, "search": {"type": "GridSearch"}, "scheduler": None})
    assert (sweep.search, sweep.num_trials) == (GridSearch(), 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": {}}, "space is {}"),
        ({"space": {"a": {"type": "Choice", "values": []}}}, "space.a.values is []"),
        ({"space": {"a": {"type": "Choice", "values": [1, 1]}}}, "no value stands twice"),
        ({"space": {"a": {"type": "LogUniform", "low": 0, "high": 1}}}, "space.a.low is 0.0: it must be above 0"),
        ({"space": {"a": {"type": "Uniform", "low": 2, "high": 1}}}, "space.a.high is 1.0: it must be above low (2)"),
        ({"space": {"a": {"type": "Gauss"}}}, "space.a.type is 'Gauss'"),
        ({"search": {"type": "GridSearch"}}, "space.stage1.loss.alpha is 'LogUniform': it must be a Choice, in a grid"),
        ({"objectives": []}, "objectives is []"),
        ({"objectives": [{"figure": "accuracy", "mode": "max"}]}, "objectives[0].figure is 'accuracy'"),
        ({"objectives": [{"figure": "a/b", "mode": "most"}]}, "objectives[0].mode is 'most'"),
        ({"scheduler": {"type": "Asha", "reduction_factor": 1}}, "scheduler.reduction_factor is 1"),
        (
            {"scheduler": {"type": "Pbt"}},
            "sweep.space is ['stage1.loss.alpha', 'stage2.selection.keep_share']: it must be settings of stage1 alone, "
            "which is all that Pbt trains: take out stage2.selection.keep_share, or set scheduler to Asha or null",
        ),
        ({"trials": 0}, "trials is 0"),
        ({"seed": -1}, "seed is -1: it must be 0 or more"),
        ({"space": {"a": {"type": "Choice", "values": [date(2020, 1, 1)]}}}, "space.a.values is"),
        ({"trails": 3}, "unknown setting sweep.trails: did you mean trials?"),
    ],
)
def test_wrong_sweep_is_told_by_field_and_remedy(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        _parse({**_SWEEP, **change})
    assert message in str(caught.value)
