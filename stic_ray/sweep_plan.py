"""What a sweep is going to do, before Ray is asked for: its checks, its trials' configurations, the settings drawn."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stic_ray import storage, trials
from stic_ray.config import Choice, Config, Domain, GridSearch, LogUniform, OptunaSearch, Pbt, Sweep
from stic_ray.evaluate.questions import task_of

_DIGITS = 4  # of a number that is drawn: it is read by people
_NOT_TRIED = ("name", "store", "runs", "hub", "sweep", "execution")  # they say where, not what


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
        if path.partition(".")[0] in _NOT_TRIED:
            raise ValueError(f"sweep.space has {path}: models do not depend on it, so there is nothing to try")
    for values in ends(sweep.space):
        plan.config_of([values])
    return plan


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
    for _ in range(100 * sweep.trials):
        values = {path: _draw(domain, rng) for path, domain in sweep.space.items()}
        found.setdefault(trials.id_of(values), values)
        if len(found) == sweep.trials:
            break
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
