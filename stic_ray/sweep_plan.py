"""What a sweep is going to do, before Ray is asked for: its checks, its trials' configurations, the settings drawn."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stic_ray import storage, trials
from stic_ray.config import Choice, Config, Domain, GridSearch, LogUniform, OptunaSearch, Pbt, Sweep, flatten, to_tree
from stic_ray.evaluate.questions import task_of
from stic_ray.report.folder import read_config

_DIGITS = 4  # of a number that is drawn: it is read by people
_MAX_MISSES = 1000  # draws in a row that are settings which there are
_NOT_TRIED = {
    **dict.fromkeys(("name", "store", "runs", "hub", "sweep", "execution"), "models do not depend on it"),
    **dict.fromkeys(("stage1_control", "stage2_control"), "trials train no controls"),
    **dict.fromkeys(("rounds", "stage1_before"), "trials are compared after the same trainings"),
    "evaluation": "trials are to be measured alike",
}
# What a sweep that goes on may change: no figure of a trial depends on it.
_FREE = (
    *("store", "runs", "hub", "execution", "evaluation.test", "stage1_control", "stage2_control"),
    *("sweep.trials", "sweep.max_concurrent", "sweep.search"),
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A sweep as every trial knows it: the configuration that its settings are laid over, and its folder."""

    config: Config
    home: str

    @property
    def sweep(self) -> Sweep:
        """What is tried."""
        assert self.config.sweep is not None  # `plan_of` refuses it
        return self.config.sweep

    @property
    def num_reports(self) -> int:
        """How often a trial that is not stopped is measured."""
        if isinstance(self.sweep.scheduler, Pbt):
            return self.sweep.scheduler.segments
        return (self.config.rounds if self.config.stage1 is not None else 0) + (self.config.stage2 is not None)

    def config_of(self, schedule: Sequence[Mapping[str, Any]]) -> Config:
        """The configuration of a trial with these settings, one after another: measured on dev alone, without controls.

        Raises:
            ValueError: a setting does not exist or may not have that value.
        """
        config = trials.config_with(self.config, schedule)
        assert config.evaluation is not None  # `plan_of` refuses it
        return replace(
            config,
            name=f"{config.name}-{trials.id_of(schedule[-1])}",
            evaluation=replace(config.evaluation, test={}),
            stage1_control=None,
            stage2=None if isinstance(self.sweep.scheduler, Pbt) else config.stage2,
            stage2_control=None,
            execution=replace(config.execution, trackers=()),  # told by trial, not by training
            hub=None,
            sweep=None,
        )


def plan_of(config: Config) -> Plan:
    """The plan of a configuration's sweep.

    Raises:
        ValueError: there is none, or its settings or objectives are not of this configuration.
    """
    sweep = config.sweep
    if sweep is None:
        raise ValueError("sweep is null: say what is tried, or take a recipe that does, like --recipe embedded-sweep")
    if config.stage1 is None and config.stage2 is None:
        raise ValueError("stage1 and stage2 are null: set one, since trials train")
    if isinstance(sweep.scheduler, Pbt) and (config.rounds > 1 or config.stage1_before):
        raise ValueError("sweep.scheduler is Pbt: set rounds=1 and stage1_before=[], since it makes a schedule itself")
    if config.evaluation is None or not config.evaluation.dev:
        raise ValueError("evaluation.dev is empty: trials are ranked on dev, so name benchmarks of dev images there")
    tasks = {task_of(name, mode) for name, each in config.evaluation.dev.items() for mode in each.modes}
    for objective in sweep.objectives:
        task = objective.figure.partition("/")[0]
        if task not in tasks:
            there = ", ".join(sorted(tasks))
            raise ValueError(f"sweep.objectives has {objective.figure!r}: evaluation.dev has no {task!r}, only {there}")
    plan = Plan(config=config, home=storage.join(config.runs, config.name))
    for path in sweep.space:
        part = path.partition(".")[0]
        if part in _NOT_TRIED:
            raise ValueError(f"sweep.space has {path}: {_NOT_TRIED[part]}, so there is nothing to try: take it out")
        if part in ("stage1", "stage2") and getattr(config, part) is None:
            raise ValueError(f"sweep.space has {path}, and {part} is null: set {part}, or take {path} out")
    tried: list[tuple[Config, Mapping[str, Any]]] = []
    for values in ends(sweep.space):
        try:
            found = plan.config_of([values])
        except ValueError as error:
            raise ValueError(f"sweep.space: {error}") from None
        for other, same in tried:
            if trials.id_of(values) != trials.id_of(same) and replace(other, name=found.name) == found:
                raise ValueError(f"sweep.space has {same} and {values}, which are one setting: take one out")
        tried.append((found, values))
    return plan


def check_trials(plan: Plan) -> None:
    """Whether the trials that stand in a sweep's folder are this sweep's.

    Raises:
        ValueError: they are of other settings, whose figures would be told as those of this configuration.
    """
    if not trials.read_all(plan.home):
        return
    remedy = f"give the sweep a name of its own (name=...), or remove {plan.home}"
    try:
        before = flatten(to_tree(read_config(plan.home)))
    except ValueError as error:
        raise ValueError(f"{error}; whose trials stand there is not known: {remedy}") from None
    now = flatten(to_tree(plan.config))
    differ = [
        path
        for path in sorted(before.keys() | now.keys())
        if before.get(path) != now.get(path) and not any(f"{path}.".startswith(f"{free}.") for free in _FREE)
    ]
    if differ:
        told = ", ".join(f"{path} was {before.get(path)!r} and is {now.get(path)!r}" for path in differ[:3])
        raise ValueError(f"{plan.home} holds trials of other settings ({told}): {remedy}")


def ends(space: Mapping[str, Domain]) -> Iterator[dict[str, Any]]:
    """Every value of a choice and the ends of a range, each beside the first of the others: settings that must be."""
    each = {path: _values(domain) for path, domain in space.items()}
    first = {path: values[0] for path, values in each.items()}
    for path, values in each.items():
        yield from ({**first, path: value} for value in values)


def _values(domain: Domain) -> tuple[Any, ...]:
    return domain.values if isinstance(domain, Choice) else (domain.low, domain.high)


def points(plan: Plan) -> list[dict[str, Any]]:
    """The settings that are tried first: all of them where they do not depend on what others reached, else those that
    this sweep began with before."""
    sweep = plan.sweep
    if isinstance(sweep.search, GridSearch):
        values = [_values(domain) for domain in sweep.space.values()]
        return [dict(zip(sweep.space, each, strict=True)) for each in itertools.product(*values)]
    if isinstance(sweep.search, OptunaSearch):
        return [dict(trial.values) for trial in trials.read_all(plan.home)]
    return _drawn(sweep)


def _drawn(sweep: Sweep) -> list[dict[str, Any]]:
    """Settings drawn by the sweep's seed, each once; fewer than asked for where there are no more."""
    rng = np.random.default_rng(sweep.seed)
    found: dict[str, dict[str, Any]] = {}
    misses = 0
    while len(found) < sweep.trials and misses < _MAX_MISSES:
        values = {path: _draw(domain, rng) for path, domain in sweep.space.items()}
        misses = misses + 1 if trials.id_of(values) in found else 0
        found.setdefault(trials.id_of(values), values)
    return list(found.values())


def _draw(domain: Domain, rng: np.random.Generator) -> Any:
    if isinstance(domain, Choice):
        return domain.values[int(rng.integers(len(domain.values)))]
    if isinstance(domain, LogUniform):
        return rounded(math.exp(rng.uniform(math.log(domain.low), math.log(domain.high))), domain)
    return rounded(rng.uniform(domain.low, domain.high), domain)


def rounded(value: float, domain: Domain) -> float:
    """A number of a range with few digits, and inside of it."""
    assert not isinstance(domain, Choice)
    return min(max(float(f"{value:.{_DIGITS}g}"), domain.low), domain.high)
