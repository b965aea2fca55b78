"""Ray Tune over settings of a configuration: a trial is a run whose models are measured on dev after each training.

Trials share the store: what does not depend on the swept settings is made once, and what two of them want at the same
moment by one, while the other waits. Each trial's file is the truth of it: a sweep that goes on tells Tune what the
files say, and Tune's own state is thrown away.
"""

import itertools
import logging
import math
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator, SearchAlgorithm, Searcher

from stic_ray import deliver, pipeline, storage, trials
from stic_ray.cluster import check_pool, check_training, connected
from stic_ray.config import (
    Choice,
    Config,
    Domain,
    GridSearch,
    LogUniform,
    OptunaSearch,
    Sweep,
)
from stic_ray.evaluate.intervals import Bootstrap
from stic_ray.evaluate.measured import Measured
from stic_ray.evaluate.predict import Candidate
from stic_ray.evaluate.questions import task_of
from stic_ray.evaluate.summary import split_block
from stic_ray.report import sweep_folder
from stic_ray.report.collect import read_rows
from stic_ray.report.markdown import figure_of
from stic_ray.report.sweep_page import say_settings
from stic_ray.run import Run
from stic_ray.train.driver import ray_storage
from stic_ray.train.job import METRICS, TENSORBOARD
from stic_ray.train.trackers import Told, tell_trial
from stic_ray.trials import Figure, Report, Trial

logger = logging.getLogger(__name__)
_TRIAL_CPUS = 0.01  # a trial waits for its stages, which take what they need
_DIGITS = 4  # of a number that is drawn: it is read by people
_TUNE = "tune"  # Tune's own files, while it works


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
        return (self.config.rounds if self.config.stage1 is not None else 0) + (self.config.stage2 is not None)

    def config_of(self, values: Mapping[str, Any]) -> Config:
        """A trial's configuration: measured on dev alone, without controls.

        Raises:
            ValueError: a setting does not exist or may not have that value.
        """
        config = trials.config_with(self.config, values)
        assert config.evaluation is not None  # `plan_of` refuses it
        return replace(
            config,
            name=f"{config.name}-{trials.id_of(values)}",
            evaluation=replace(config.evaluation, test={}),
            stage1_control=None,
            stage2_control=None,
            execution=replace(config.execution, trackers=()),  # told by trial, not by training: see trackers
            hub=None,
        )


def run(config: Config, command: list[str]) -> str:
    """Try what `config.sweep` says, or go on with it, and write `runs/NAME/`; returns the closing summary.

    Raises:
        ValueError: the sweep cannot be as it is written, inputs that cannot be used, or every trial failed.
    """
    plan = plan_of(config)
    with connected():
        _begin(plan, command)
        _try(plan)
    return sweep_folder.write(plan.home)


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
    if config.evaluation is None or not config.evaluation.dev:
        raise ValueError("evaluation.dev is empty: trials are ranked on dev, so name benchmarks of dev images there")
    tasks = {task_of(name, mode) for name, each in config.evaluation.dev.items() for mode in each.modes}
    for objective in sweep.objectives:
        task = objective.figure.partition("/")[0]
        if task not in tasks:
            raise ValueError(
                f"sweep.objectives has {objective.figure!r}: evaluation.dev has no {task!r}, only "
                f"{', '.join(sorted(tasks))}"
            )
    plan = Plan(config=config, home=storage.join(config.runs, config.name))
    for values in _ends(sweep.space):
        plan.config_of(values)
    return plan


def _ends(space: Mapping[str, Domain]) -> Iterator[dict[str, Any]]:
    """Every value of a choice and the ends of a range, each beside the first of the others: settings that must be."""
    each = {path: _values(domain) for path, domain in space.items()}
    first = {path: values[0] for path, values in each.items()}
    for path, values in each.items():
        yield from ({**first, path: value} for value in values)


def _values(domain: Domain) -> tuple[Any, ...]:
    return domain.values if isinstance(domain, Choice) else (domain.low, domain.high)


def _begin(plan: Plan, command: list[str]) -> None:
    """Measure the base model on dev: what trials are held against, and the proof that they can be measured."""
    config = plan.config_of(next(_ends(plan.sweep.space)))
    with Run(config, name=plan.config.name, checks=(check_pool, check_training)) as this:
        measured = pipeline.evaluate_models(this, {"base": Candidate(model=config.model)})
        this.deliver()
    deliver.write_config(plan.config, plan.home, command)
    sweep_folder.begin(plan.home, _figures_of("base", measured, plan), shlex.join(command))


def _figures_of(model: str, measured: Mapping[str, Measured], plan: Plan) -> dict[str, Figure]:
    """A model's objectives on dev.

    Raises:
        ValueError: an objective is no figure of its benchmark, or has no value.
    """
    dev = measured["dev"]
    assert plan.config.evaluation is not None
    bootstrap = Bootstrap(resamples=plan.config.evaluation.resamples, seed=plan.config.seed)
    blocks = split_block({model: dev.predictions[model]}, dev.truth, bootstrap)
    found = {}
    for objective in plan.sweep.objectives:
        path = tuple(objective.figure.split("/"))
        value = figure_of(blocks[model], path)
        if not isinstance(value, float) or math.isnan(value):
            there = ", ".join(sorted(_flat(blocks[model].get(path[0], {}), path[0])))
            raise ValueError(f"sweep.objectives has {objective.figure!r}, and dev has no such figure: {there}")
        low, high = figure_of(blocks["intervals"][model], path)
        found[objective.figure] = Figure(value=value, low=low, high=high)
    return found


def _flat(block: Mapping[str, Any], parent: str) -> Iterator[str]:
    for name, value in block.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{parent}/{name}")
        else:
            yield f"{parent}/{name}"


def _try(plan: Plan) -> None:
    """All trials that are not yet finished, by Tune."""
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # ours: see command_line
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a failed trial reports nothing
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # which prints whatever it is told
    work = storage.join(plan.home, _TUNE)
    storage.remove(work)
    path, filesystem = ray_storage(work)
    points = _points(plan)
    tuner = tune.Tuner(
        tune.with_resources(partial(run_trial, plan=plan), {"CPU": _TRIAL_CPUS}),
        param_space={path: _domain(domain) for path, domain in plan.sweep.space.items()},
        tune_config=tune.TuneConfig(
            num_samples=max(len(points), plan.sweep.num_trials),
            search_alg=_search(plan, points),
            scheduler=_scheduler(plan),
            max_concurrent_trials=_concurrency(plan),
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="sweep", storage_path=path, storage_filesystem=filesystem, callbacks=[_Follow(plan)], verbose=0
        ),
    )
    tuner.fit()
    storage.remove(work)


def _points(plan: Plan) -> list[dict[str, Any]]:
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
        value = math.exp(rng.uniform(math.log(domain.low), math.log(domain.high)))
    else:
        value = rng.uniform(domain.low, domain.high)
    return min(max(float(f"{value:.{_DIGITS}g}"), domain.low), domain.high)


def _domain(domain: Domain) -> Any:
    """What Tune checks a setting against, and Optuna draws it from."""
    if isinstance(domain, Choice):
        return tune.choice(list(domain.values))
    kind = tune.loguniform if isinstance(domain, LogUniform) else tune.uniform
    return kind(domain.low, domain.high)


def _search(plan: Plan, points: list[dict[str, Any]]) -> SearchAlgorithm | Searcher:
    sweep = plan.sweep
    if not isinstance(sweep.search, OptunaSearch):
        return BasicVariantGenerator(points_to_evaluate=points, max_concurrent=_concurrency(plan))
    from stic_ray.optuna_search import FinishedOnly

    return FinishedOnly(
        num_reports=plan.num_reports,
        metric=[objective.figure for objective in sweep.objectives],
        mode=[objective.mode for objective in sweep.objectives],
        points_to_evaluate=points or None,
        seed=sweep.seed,
    )


def _scheduler(plan: Plan) -> TrialScheduler | None:
    asha, first = plan.sweep.scheduler, plan.sweep.objectives[0]
    if asha is None or plan.num_reports < 2:
        return None
    return ASHAScheduler(
        metric=first.figure,
        mode=first.mode,
        grace_period=1,
        max_t=plan.num_reports,
        reduction_factor=asha.reduction_factor,
    )


def _concurrency(plan: Plan) -> int:
    """How many trials work at once: as many as find room to train, where nobody said."""
    if plan.sweep.max_concurrent is not None:
        return plan.sweep.max_concurrent
    execution, have = plan.config.execution, ray.cluster_resources()
    need = {"CPU": execution.train_cpus, "GPU": execution.train_gpus}
    room = [have.get(kind, 0.0) / (execution.num_train_workers * each) for kind, each in need.items() if each > 0]
    return max(1, int(min(room)))


class _Follow(tune.Callback):  # type: ignore[misc]  # Ray has no stubs
    """Writes down what Tune decides of trials, and says how they do."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial begins, or is told again."""
        if _known(self._plan, trial.config) is None:
            number = int(trial.trial_id.rpartition("_")[2])
            _write(self._plan, Trial(number=number, values=trial.config))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial has trained a stage."""
        told = ", ".join(f"{each.figure} {result[each.figure]:.1f}" for each in self._plan.sweep.objectives)
        logger.info("%s: %s after %s", _title(trial.config), told, result["after"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has ended, or was stopped."""
        found = _known(self._plan, trial.config)
        assert found is not None  # it began
        if found.state == "running":
            found = replace(found, state="stopped")
            _write(self._plan, found)
        logger.info("%s: %s%s", _title(trial.config), found.state, f": {found.error}" if found.error else "")
        if not found.told and found.state != "failed":
            _tell_trackers(self._plan, found)
            _write(self._plan, replace(found, told=True))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process has failed."""
        found = _known(self._plan, trial.config)
        assert found is not None
        error = str(getattr(trial, "pickled_error_file", None) or "its process died")
        _write(self._plan, replace(found, state="failed", error=error))
        logger.error("%s: failed: %s", _title(trial.config), error)


def _tell_trackers(plan: Plan, trial: Trial) -> None:
    """TensorBoard and whoever else is asked for: a trial's settings, objectives and curves."""
    lines = []
    step = 0
    for report, rows in zip(trial.reports, _rows_by_report(plan, trial), strict=True):
        lines += [(step + number, row) for number, row in rows]
        step += max((number for number, _ in rows), default=0)
        lines.append((step, {f"dev/{name}": figure.value for name, figure in report.figures.items()}))
    told = Told(
        name=f"{plan.config.name}-{trial.id}",
        group=plan.config.name,
        settings=trial.values,
        figures={name: figure.value for name, figure in trial.figures.items()},
        lines=lines,
    )
    tell_trial(told, storage.join(plan.home, TENSORBOARD, trial.id), plan.config.execution.trackers)


def _rows_by_report(plan: Plan, trial: Trial) -> list[list[tuple[int, dict[str, float]]]]:
    """A trial's metrics, step by step, of the training before each report."""
    rows = read_rows(storage.join(trials.folder(plan.home, trial.id), METRICS))
    found = []
    for report in trial.reports:
        start = f"{report.model}/"
        own = [(step, {name: value for name, value in row.items() if name.startswith(start)}) for step, row in rows]
        found.append([(step, row) for step, row in own if row])
    return found


def _known(plan: Plan, values: Mapping[str, Any]) -> Trial | None:
    return trials.read(plan.home, trials.id_of(values))


def _write(plan: Plan, trial: Trial) -> None:
    trials.write(plan.home, trial)


def _title(values: Mapping[str, Any]) -> str:
    return f"trial {trials.id_of(values)} ({say_settings(values)})"


def run_trial(values: Mapping[str, Any], *, plan: Plan) -> None:
    """One trial, in a process of its own: train, and report the newest model's figures after each training.

    What it reported before is told again; where it had ended, that is all.
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("stic_ray").setLevel(logging.INFO)
    trial = _known(plan, values) or Trial(number=0, values=values)
    for report in trial.reports:
        _tell(report)
    if trial.state in ("finished", "stopped"):
        return
    trial = replace(trial, state="running", error="")
    try:
        for report in _train(plan, trial):
            trial = trial.reported(report)
            if len(trial.reports) == plan.num_reports:
                trial = replace(trial, state="finished")
            _write(plan, trial)
            _tell(report)  # the last that is done for a trial which is stopped
    except ValueError as error:
        _write(plan, replace(trial, state="failed", error=str(error)))


def _tell(report: Report) -> None:
    tune.report({"after": report.model, **{name: figure.value for name, figure in report.figures.items()}})


def _train(plan: Plan, trial: Trial) -> Iterator[Report]:
    """The reports that a trial has not made yet, each after what it leaves is written."""
    config = plan.config_of(trial.values)
    place = trials.folder(plan.config.name, trial.id)
    started = time.monotonic()
    with Run(config, name=place, checks=(check_pool, check_training), waits=True) as this:
        models = {"base": Candidate(model=config.model)}
        for number, trained in enumerate(pipeline.train(this)):
            newest = [name for name in trained if not name.endswith("_control")][-1]
            models = {name: Candidate(model=model) for name, model in trained.items()}
            measured = pipeline.evaluate_models(this, models)
            if number >= len(trial.reports):
                figures = _figures_of(newest, measured, plan)
                deliver.write_trial(this, measured)
                yield Report(model=newest, figures=figures, seconds=time.monotonic() - started)
                started = time.monotonic()
