"""What is known of a sweep before Ray is asked for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from stic_ray import recipes, trials
from stic_ray.config import (
    Choice,
    Config,
    GridSearch,
    LogUniform,
    Objective,
    OptunaSearch,
    Pbt,
    RandomSearch,
    Uniform,
    parse_config,
    read_yaml,
    to_tree,
)
from stic_ray.sweep_plan import check_trials, plan_of, points


def _with(config: Config, **changes: Any) -> Config:
    assert config.sweep is not None
    return replace(config, sweep=replace(config.sweep, **changes))


def test_trial_trains_no_control_and_is_measured_on_dev_alone(embedded_sweep: Config) -> None:
    plan = plan_of(embedded_sweep)
    assert plan.home.endswith("runs/embedded-sweep") and plan.num_reports == 2
    found = plan.config_of([{"stage1.loss.alpha": 1e-5, "stage2.selection.keep_share": 0.5}])
    assert found.stage1 is not None and found.stage1.loss.alpha == 1e-5  # type: ignore[union-attr]
    assert found.stage2 is not None and found.stage2.selection.keep_share == 0.5  # type: ignore[union-attr]
    assert found.stage1_control is None and found.stage2_control is None
    assert found.evaluation is not None and not found.evaluation.test and found.evaluation.dev


def test_random_settings_are_drawn_by_seed_each_once_and_readable(embedded_sweep: Config) -> None:
    space = {"stage1.lr": LogUniform(low=1e-5, high=1e-2), "stage1.loss.beta": Uniform(low=0.1, high=0.3)}
    first = points(plan_of(_with(embedded_sweep, space=space, trials=50)))
    assert first == points(plan_of(_with(embedded_sweep, space=space, trials=50)))
    assert first != points(plan_of(_with(embedded_sweep, space=space, trials=50, seed=1)))
    assert first[:5] == points(plan_of(_with(embedded_sweep, space=space, trials=5)))  # more trials keep the first
    rates, betas = [each["stage1.lr"] for each in first], [each["stage1.loss.beta"] for each in first]
    assert all(1e-5 <= rate <= 1e-2 for rate in rates) and all(0.1 <= beta <= 0.3 for beta in betas)
    assert 15 <= sum(rate < 10**-3.5 for rate in rates) <= 35  # half below the middle of its logarithm
    assert all(len(f"{beta:g}") <= 6 for beta in betas)


def test_choice_that_has_fewer_values_than_there_are_trials_is_tried_once_each(embedded_sweep: Config) -> None:
    space = {"seed": Choice(values=(1, 2, 3))}
    assert {each["seed"] for each in points(plan_of(_with(embedded_sweep, space=space)))} == {1, 2, 3}
    assert len(points(plan_of(_with(embedded_sweep, space=space)))) == 3


def test_grid_is_every_combination(embedded_sweep: Config) -> None:
    space = {"seed": Choice(values=(1, 2)), "unlabeled.sample": Choice(values=(5, 6))}
    found = points(plan_of(_with(embedded_sweep, space=space, search=GridSearch())))
    assert [tuple(each.values()) for each in found] == [(1, 5), (1, 6), (2, 5), (2, 6)]


def test_optuna_begins_with_the_trials_that_there_are(embedded_sweep: Config, tmp_path: Any) -> None:
    config = replace(_with(embedded_sweep, search=OptunaSearch()), runs=str(tmp_path))
    plan = plan_of(config)
    assert points(plan) == []
    values = {"stage1.loss.alpha": 2.0, "stage2.selection.keep_share": 0.5}
    trials.write(plan.home, trials.Trial(id="x", number=0, schedule=(values,)))
    assert points(plan) == [values]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"stage1.los.alpha": Uniform(low=0, high=1)}}, "unknown setting stage1.los: did you mean"),
        ({"space": {"stage1.lr": Uniform(low=-1, high=1)}}, "stage1.lr is -1.0: it must be above 0"),
        ({"space": {"stage1.lr": Choice(values=(1e-3, -2.0))}}, "stage1.lr is -2.0: it must be above 0"),
        ({"space": {"execution.batch_size": Choice(values=(1, 2))}}, "sweep.space has execution.batch_size"),
        ({"space": {"name": Choice(values=("a", "b"))}}, "sweep.space has name"),
        (
            {"space": {"evaluation.resamples": Choice(values=(50, 60))}},
            "evaluation.resamples: trials are to be",
        ),
        ({"space": {"stage2_control.lr": Uniform(low=1e-4, high=1e-3)}}, "stage2_control.lr: trials train no controls"),
        ({"space": {"rounds": Choice(values=(1, 2))}}, "rounds: trials are compared after the same trainings"),
        ({"space": {"stage1.lr": Choice(values=(1, 1.0))}}, "which are one setting"),
        ({"space": {"": Choice(values=(1, 2))}}, "sweep.space: "),
        ({"objectives": (Objective(figure="pope/accuracy", mode="max"),)}, "evaluation.dev has no 'pope', only"),
    ],
)
def test_sweep_that_cannot_be_is_refused_by_field(
    embedded_sweep: Config, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plan_of(_with(embedded_sweep, **changes))


def test_setting_of_a_stage_that_is_null_is_refused_by_both_names(embedded_sweep: Config) -> None:
    with pytest.raises(ValueError, match=r"sweep.space has stage1.loss.alpha, and stage1 is null: set stage1, or take"):
        plan_of(replace(embedded_sweep, stage1=None, stage1_control=None))


def test_few_values_are_drawn_in_an_instant_however_many_trials_are_asked_for(embedded_sweep: Config) -> None:
    space = {"stage1.lr": Choice(values=(1e-3, 2e-3))}
    assert len(points(plan_of(_with(embedded_sweep, space=space, trials=10**9)))) == 2


def test_folder_with_trials_of_other_settings_is_refused(embedded_sweep: Config, tmp_path: Path) -> None:
    plan = plan_of(replace(embedded_sweep, runs=str(tmp_path)))
    check_trials(plan)
    trials.write(plan.home, trials.Trial(id="x", number=0, schedule=({"stage1.loss.alpha": 2.0},)))
    with pytest.raises(ValueError, match=r"config.yaml is missing.* whose trials stand there is not known: give"):
        check_trials(plan)
    (Path(plan.home) / "config.yaml").write_text(yaml.safe_dump(to_tree(plan.config)))
    assert plan.config.stage1 is not None
    goes_on = _with(plan.config, trials=30, max_concurrent=1, search=OptunaSearch())
    check_trials(plan_of(replace(goes_on, stage1_control=None, execution=replace(goes_on.execution, batch_size=7))))
    other = replace(plan.config, stage1=replace(plan.config.stage1, epochs=7))
    with pytest.raises(ValueError, match=r"trials of other settings \(stage1.epochs was 2 and is 7\): give the sweep"):
        check_trials(plan_of(other))
    with pytest.raises(ValueError, match=r"sweep.space"):
        check_trials(plan_of(_with(plan.config, space={"stage1.lr": Uniform(low=1e-4, high=1e-3)})))


def test_sweep_without_what_it_needs_is_refused(embedded_sweep: Config) -> None:
    tree = recipes.expand(read_yaml(recipes.read("embedded"), ""))
    with pytest.raises(ValueError, match="sweep is null"):
        plan_of(parse_config(tree, []))
    evaluation = embedded_sweep.evaluation
    assert evaluation is not None
    with pytest.raises(ValueError, match="dev is empty"):
        plan_of(replace(embedded_sweep, evaluation=replace(evaluation, dev={})))
    with pytest.raises(ValueError, match="stage1 and stage2 are null"):
        plan_of(replace(embedded_sweep, stage1=None, stage1_control=None, stage2=None, stage2_control=None))


def test_population_is_of_settings_of_stage1_alone_and_reports_every_segment(embedded_sweep: Config) -> None:
    space = {"stage1.lr": LogUniform(low=1e-4, high=1e-2)}
    config = _with(embedded_sweep, space=space, scheduler=Pbt(segments=3), max_concurrent=None)
    plan = plan_of(config)
    assert plan.num_reports == 3
    found = plan.config_of([{"stage1.lr": 1e-3}, {"stage1.lr": 2e-3}])
    assert found.stage2 is None and len(found.stage1_before) == 1
    for wrong in (
        {"space": {"stage2.lr": LogUniform(low=1e-4, high=1e-2)}},
        {"max_concurrent": 2},
        {"search": OptunaSearch()},
        {"trials": 1},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            _with(config, **wrong)
    with pytest.raises(ValueError, match="rounds"):
        plan_of(replace(config, rounds=2))
    assert isinstance(config.sweep and config.sweep.search, RandomSearch)
