"""Ray Tune over settings of a configuration: a trial is a run whose models are measured on dev after each training.

Trials share the store: what does not depend on the swept settings is made once, and what two of them want at the same
moment by one, while the other waits. Each trial's file is the truth of it: a sweep that goes on tells Tune what the
files say, and Tune's own state is thrown away.
"""

import logging
import math
import os
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator, SearchAlgorithm, Searcher

from stic_ray import deliver, logs, pipeline, storage, trials
from stic_ray.cluster import check_pool, check_training, connected
from stic_ray.config import Asha, Choice, Config, Domain, LogUniform, OptunaSearch, Pbt
from stic_ray.evaluate.intervals import Bootstrap
from stic_ray.evaluate.measured import Measured
from stic_ray.evaluate.predict import Candidate
from stic_ray.evaluate.summary import split_block
from stic_ray.population import Population
from stic_ray.report import sweep_folder
from stic_ray.report.collect import read_rows
from stic_ray.report.markdown import figure_of, figure_paths
from stic_ray.report.sweep_page import say_settings
from stic_ray.run import Run
from stic_ray.sweep_plan import Plan, check_trials, ends, plan_of, points, rounded
from stic_ray.train.driver import ray_storage
from stic_ray.train.job import METRICS, TENSORBOARD
from stic_ray.train.trackers import Told, tell_trial
from stic_ray.trials import Figure, Report, Trial

logger = logging.getLogger(__name__)
_TRIAL_CPUS = 0.01  # a trial waits for its stages, which take what they need
_MAX_DEATHS = 3  # of a trial's process, as with its node; each time it goes on from the store
_OF_NAMED = ("chair_i", "chair_s")  # errors of what captions name: 0 where they name nothing
_TUNE = "tune"  # Tune's own files, while it works
_AGAIN = "again"
_SCHEDULE = "schedule.json"  # of a population's member: all of its state, since models stand in the store


def run(config: Config, command: list[str]) -> str:
    """Try what `config.sweep` says, or go on with it, and write `runs/NAME/`; returns the closing summary.

    Raises:
        ValueError: the sweep cannot be as it is written, inputs that cannot be used, or every trial failed.
    """
    plan = plan_of(config)
    check_trials(plan)
    with connected(), _of_sweep(plan) as this, logs.about(plan.config.name, ""):
        _begin(plan, this, command)
        _try(plan)
    return sweep_folder.write(plan.home)


def _of_sweep(plan: Plan) -> Run:
    """The run of the sweep itself, beside those of its trials."""
    config = replace(plan.config_of([next(ends(plan.sweep.space))]), name=plan.config.name)
    return Run(config, name=config.name, checks=(check_pool, check_training))


def _begin(plan: Plan, this: Run, command: list[str]) -> None:
    """Measure the base model on dev: what trials are held against, and the proof that they can be measured."""
    measured = pipeline.evaluate_models(this, {"base": Candidate(model=plan.config.model)})
    this.deliver()
    deliver.write_config(plan.config, plan.home, command)
    sweep_folder.begin(plan.home, _figures_of("base", measured, plan), shlex.join(command))


def _figures_of(model: str, measured: Mapping[str, Measured], plan: Plan) -> dict[str, Figure]:
    """A model's objectives on dev.

    Raises:
        ValueError: an objective is no figure of its benchmark, or has no value; the model's captions name nothing.
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
            there = ", ".join(sorted("/".join(each) for each in figure_paths(blocks[model]) if each[0] == path[0]))
            raise ValueError(f"sweep.objectives has {objective.figure!r}, and dev has no such figure: {there}")
        if path[-1] in _OF_NAMED and figure_of(blocks[model], (*path[:-1], "recall")) == 0:
            raise ValueError(
                f"captions of {model} name nothing that is there ({path[0]}): what they get wrong says nothing"
            )
        low, high = figure_of(blocks["intervals"][model], path)
        found[objective.figure] = Figure(value=value, low=low, high=high)
    return found


def _try(plan: Plan) -> None:
    """All trials that have not ended, by Tune."""
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # ours: see command_line
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a failed trial reports nothing
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # which prints whatever it is told
    work = storage.join(plan.home, _TUNE)
    storage.remove(work)
    path, filesystem = ray_storage(work)
    first = points(plan)
    trainable = run_member if isinstance(plan.sweep.scheduler, Pbt) else run_trial
    tuner = tune.Tuner(
        tune.with_resources(partial(trainable, plan=plan), {"CPU": _TRIAL_CPUS}),
        param_space={path: _domain(domain) for path, domain in plan.sweep.space.items()},
        tune_config=tune.TuneConfig(
            num_samples=max(len(first), plan.sweep.num_trials) if _learns(plan) else len(first),
            search_alg=_search(plan, first),
            scheduler=_scheduler(plan),
            max_concurrent_trials=_concurrency(plan),
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=tune.FailureConfig(max_failures=_MAX_DEATHS),
            callbacks=[_Follow(plan)],
            verbose=0,
        ),
    )
    tuner.fit()
    storage.remove(work)


def _learns(plan: Plan) -> bool:
    """Whether what is tried depends on what others reached."""
    return isinstance(plan.sweep.search, OptunaSearch)


def _domain(domain: Domain) -> Any:
    """What Tune checks a setting against, and Optuna draws it from."""
    if isinstance(domain, Choice):
        return tune.choice(list(domain.values))
    kind = tune.loguniform if isinstance(domain, LogUniform) else tune.uniform
    return kind(domain.low, domain.high)


def _search(plan: Plan, first: list[dict[str, Any]]) -> SearchAlgorithm | Searcher:
    if not _learns(plan):
        return BasicVariantGenerator(points_to_evaluate=first, max_concurrent=_concurrency(plan))
    from stic_ray.optuna_search import FinishedOnly

    return FinishedOnly(
        num_reports=plan.num_reports,
        metric=[objective.figure for objective in plan.sweep.objectives],
        mode=[objective.mode for objective in plan.sweep.objectives],
        points_to_evaluate=first or None,
        seed=plan.sweep.seed,
    )


def _scheduler(plan: Plan) -> TrialScheduler | None:
    scheduler, first = plan.sweep.scheduler, plan.sweep.objectives[0]
    if isinstance(scheduler, Pbt):
        return Population(
            plan.sweep.seed,
            time_attr="training_iteration",
            metric=first.figure,
            mode=first.mode,
            perturbation_interval=1,
            hyperparam_mutations={path: _mutations(domain) for path, domain in plan.sweep.space.items()},
            quantile_fraction=scheduler.quantile,
            resample_probability=scheduler.resample,
            custom_explore_fn=partial(_inside, plan.sweep.space),
        )
    if not isinstance(scheduler, Asha) or plan.num_reports < 2:
        return None
    return _DecidesOnce(
        metric=first.figure,
        mode=first.mode,
        grace_period=1,
        max_t=plan.num_reports,
        reduction_factor=scheduler.reduction_factor,
    )


class _DecidesOnce(ASHAScheduler):  # type: ignore[misc]  # Ray has no stubs
    """What a sweep that goes on is told again stops nobody: the trial was let go on then, or has ended by itself."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """The decision on a report; ASHA compares others with it in either case."""
        decision: str = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if result[_AGAIN] else decision


def _mutations(domain: Domain) -> Any:
    """A choice as a list, of which a neighbour is taken, a range as what Tune draws from."""
    return list(domain.values) if isinstance(domain, Choice) else _domain(domain)


def _inside(space: Mapping[str, Domain], values: dict[str, Any]) -> dict[str, Any]:
    """Settings that were changed a little, brought back into their ranges."""
    ranges = {path: domain for path, domain in space.items() if not isinstance(domain, Choice)}
    return values | {path: rounded(values[path], domain) for path, domain in ranges.items()}


def _concurrency(plan: Plan) -> int:
    """How many trials work at once: as many as find room to train, where nobody said."""
    if plan.sweep.max_concurrent is not None:
        return plan.sweep.max_concurrent
    if isinstance(plan.sweep.scheduler, Pbt):
        return plan.sweep.trials
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
        if self._known(trial) is None:
            self._write(_new(self._plan, trial.trial_id, trial.config))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial has trained a stage."""
        if result[_AGAIN]:
            return
        told = ", ".join(f"{each.figure} {result[each.figure]:.1f}" for each in self._plan.sweep.objectives)
        logger.info("%s: %s after %s", self._title(trial), told, result["after"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has ended, or was stopped."""
        found = self._known(trial)
        assert found is not None  # it began
        if found.state == "running":
            found = replace(found, state="stopped")
            self._write(found)
        logger.info("%s: %s%s", self._title(trial), found.state, f": {found.error}" if found.error else "")
        if not found.told and found.state != "failed":
            _tell_trackers(self._plan, found)
            self._write(replace(found, told=True))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process has failed."""
        found = self._known(trial)
        assert found is not None  # it began
        error = str(trial.get_error() or "its process died").strip().rpartition("\n")[2]
        self._write(replace(found, state="failed", error=error))
        logger.error("%s: failed: %s", self._title(trial), error)

    def _known(self, trial: Any) -> Trial | None:
        return trials.read(self._plan.home, _id(self._plan, trial.trial_id, trial.config))

    def _write(self, trial: Trial) -> None:
        trials.write(self._plan.home, trial)

    def _title(self, trial: Any) -> str:
        return f"trial {_id(self._plan, trial.trial_id, trial.config)} ({say_settings(trial.config)})"


def _id(plan: Plan, tune_id: str, values: Mapping[str, Any]) -> str:
    """A trial's id: by its settings, and in a population, whose settings change, by its number."""
    return f"member-{_number(tune_id)}" if isinstance(plan.sweep.scheduler, Pbt) else trials.id_of(values)


def _number(tune_id: str) -> int:
    return int(tune_id.rpartition("_")[2])


def _new(plan: Plan, tune_id: str, values: Mapping[str, Any]) -> Trial:
    """A trial that begins now, after all that have begun."""
    number = _number(tune_id) if isinstance(plan.sweep.scheduler, Pbt) else len(trials.read_all(plan.home))
    return Trial(id=_id(plan, tune_id, values), number=number, schedule=(dict(values),))


def _tell_trackers(plan: Plan, trial: Trial) -> None:
    """TensorBoard and whoever else is asked for: a trial's settings, objectives and curves, its trainings in a row."""
    rows = read_rows(storage.join(trials.folder(plan.home, trial.id), METRICS))
    by_training: dict[str, list[tuple[int, Mapping[str, float]]]] = {}
    for step, row in rows:
        by_training.setdefault(next(iter(row)).rpartition("/")[0], []).append((step, row))
    lines: list[tuple[int, Mapping[str, float]]] = []
    end = 0
    for report, each in zip(trial.reports, by_training.values(), strict=True):
        own = [(end + step, row) for step, row in each]
        end = own[-1][0]
        lines += [*own, (end, {f"dev/{name}": figure.value for name, figure in report.figures.items()})]
    told = Told(
        name=f"{plan.config.name}-{trial.id}",
        group=plan.config.name,
        settings=trial.values,
        figures={name: figure.value for name, figure in trial.figures.items()},
        lines=lines,
    )
    tell_trial(told, storage.join(plan.home, TENSORBOARD, trial.id), plan.config.execution.trackers)


def run_trial(values: Mapping[str, Any], *, plan: Plan) -> None:
    """One trial, in a process of its own: train, and report the newest model's figures after each training.

    What it reported before is told again; where it had ended, that is all.
    """
    new = _new(plan, tune.get_context().get_trial_id(), values)
    trial = trials.read(plan.home, new.id) or new
    for report in trial.reports:
        _tell(report, again=True)
    if trial.state in ("running", "failed"):
        _work(plan, replace(trial, state="running", error=""), _train(plan, trial))


def run_member(values: Mapping[str, Any], *, plan: Plan) -> None:
    """One member of a population, as `run_trial`: what it trains goes on from the model of the schedule that Tune hands
    it, its own or that of a better one."""
    new = _new(plan, tune.get_context().get_trial_id(), values)
    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        _work(plan, replace(new, schedule=()), _train_segments(plan, replace(new, schedule=()), values))
        return
    with checkpoint.as_directory() as folder:
        done = trials.parse((Path(folder) / _SCHEDULE).read_text())
    done = replace(done, id=new.id, number=new.number, state="running")
    _work(plan, done, _train_segments(plan, done, values))


def _work(plan: Plan, trial: Trial, reported: Iterator[Trial]) -> None:
    """Write down and tell what a trial reports, until it has ended or failed."""
    logs.start(logs.TEXT)
    try:
        for trial in reported:
            if len(trial.reports) == plan.num_reports:
                trial = replace(trial, state="finished")
            trials.write(plan.home, trial)
            # The last that is done for a trial which is stopped.
            _tell(trial.reports[-1], trial if isinstance(plan.sweep.scheduler, Pbt) else None)
    except ValueError as error:
        trials.write(plan.home, replace(trial, state="failed", error=str(error)))


def _tell(report: Report, member: Trial | None = None, *, again: bool = False) -> None:
    """Report to Tune, for the first time or again, with a member's schedule for those that take it over."""
    figures = {name: figure.value for name, figure in report.figures.items()}
    told = {"after": report.model, _AGAIN: again, **figures}
    if member is None:
        tune.report(told)
        return
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / _SCHEDULE).write_text(trials.as_text(member))
        tune.report(told, checkpoint=tune.Checkpoint.from_directory(folder))


def _train(plan: Plan, trial: Trial) -> Iterator[Trial]:
    """The trial after each report that it has not made yet, when what it leaves is written."""
    config, started = plan.config_of(trial.schedule), time.monotonic()
    with _run(plan, config, trial) as this:
        for number, models in enumerate(pipeline.train(this)):
            figures = _measure(plan, this, models)
            if number >= len(trial.reports):
                trial = trial.reported(_newest(models), figures, time.monotonic() - started)
                yield trial
                started = time.monotonic()


def _train_segments(plan: Plan, trial: Trial, values: Mapping[str, Any]) -> Iterator[Trial]:
    """The same of a member, which trains stage 1 once more with these settings until its schedule is whole."""
    while len(trial.schedule) < plan.num_reports:
        started = time.monotonic()
        trial = replace(trial, schedule=(*trial.schedule, dict(values)))
        with _run(plan, plan.config_of(trial.schedule), trial) as this:
            *_, models = pipeline.train(this)
            figures = _measure(plan, this, models)
        trial = trial.reported(_newest(models), figures, time.monotonic() - started)
        yield trial


def _run(plan: Plan, config: Config, trial: Trial) -> Run:
    place = trials.folder(plan.config.name, trial.id)
    return Run(config, name=place, checks=(check_pool, check_training), waits=True)


def _newest(models: Mapping[str, Any]) -> str:
    return [name for name in models if not name.endswith("_control")][-1]


def _measure(plan: Plan, this: Run, models: Mapping[str, Any]) -> dict[str, Figure]:
    """The objectives of the newest model; what a trial leaves is written then."""
    measured = pipeline.evaluate_models(this, {name: Candidate(model=model) for name, model in models.items()})
    deliver.write_trial(this, measured)
    return _figures_of(_newest(models), measured, plan)
