"""What is looked at before a job starts: its places made absolute, its inputs there, its outputs writable."""

import importlib.util
import os
import re
from typing import Any

from stic_ray import sources, storage
from stic_ray.checkpoint import check_checkpoint, other_tokens
from stic_ray.config import (
    AllTokens,
    Benchmark,
    Config,
    Endpoint,
    Evaluation,
    Instructions,
    Lora,
    MaskedPairs,
    Mlflow,
    OwnModel,
    Selection,
    VigSelection,
    locations,
    parse_config,
    to_tree,
)
from stic_ray.engines import check_engine
from stic_ray.exchange import incoming
from stic_ray.job_specs import PIPELINE, SCORES, SWEEP, Job
from stic_ray.report import collect, sweep_folder

# Set by `ray job submit` for its entrypoint.
_SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"

_SECRET = re.compile(r"://[^/@]*:[^/@]+@")

_PLACES = (
    "model.path",
    "vig.scorer.path",
    "unlabeled.uri",
    "unlabeled.images",
    "instructions.uri",
    "instructions.images",
    "annotated.data.uri",
    "annotated.data.images",
    "imported.uri",
    "imported.images",
)


def absolute(config: Config) -> Config:
    """A configuration whose locations workers with another working directory find.

    Raises:
        ValueError: a location cannot be, or a submitted job would leave its results in its temporary copy.
    """
    _refuse_relative_when_submitted(config)
    return parse_config(_absolute(config), [])


def _refuse_relative_when_submitted(config: Config) -> None:
    relative = [name for name in ("store", "runs") if storage.is_relative(getattr(config, name))]
    if _SUBMITTED in os.environ and relative:
        raise ValueError(
            f"{' and '.join(relative)} is a relative path, but a submitted job works in a temporary copy that is "
            "removed: set both store=URI and runs=URI to a place that lasts and that every node reaches"
        )


def _absolute(config: Config) -> dict[str, Any]:
    """A configuration's tree, every location made absolute, so that workers with another working directory find it."""
    tree: dict[str, Any] = to_tree(config)
    for name in ("store", "runs"):
        tree[name] = _located(name, tree[name])
    for place in _PLACES:
        *parents, name = place.split(".")
        part = tree
        for parent in parents:
            part = part.get(parent) or {}
        if part.get(name):
            part[name] = _located(place, part[name])
    for number, tracker in enumerate(config.execution.trackers):
        if isinstance(tracker, Mlflow):
            tree["execution"]["trackers"][number]["uri"] = _tracked(f"execution.trackers[{number}].uri", tracker)
    _locate_benchmarks(config.evaluation, tree["evaluation"])
    return tree


def _locate_benchmarks(evaluation: Evaluation | None, tree: Any) -> None:
    """Those of a configuration made absolute in its tree."""
    if evaluation is None:
        return
    parts: list[tuple[str, Benchmark | OwnModel, Any]] = [
        (f"evaluation.{split}.{name}", benchmark, tree[split][name])
        for split, benchmarks in evaluation.splits().items()
        for name, benchmark in benchmarks.items()
    ]
    if isinstance(evaluation.judge, OwnModel):
        parts.append(("evaluation.judge", evaluation.judge, tree["judge"]))
    for where, settings, part in parts:
        for field, uri in locations(settings):
            name, _, key = field.partition(".")
            target, last = (part[name], key) if key else (part, name)
            target[last] = _located(f"{where}.{field}", uri)


def _tracked(field: str, tracker: Mlflow) -> str:
    """A folder made absolute, the address of a server or a database as it is."""
    if tracker.is_folder:
        return _located(field, tracker.uri)
    if _SECRET.search(tracker.uri):
        raise ValueError(
            f"{field} holds a password, and settings are written into the run's folder: give it through MLflow's "
            "environment (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD)"
        )
    return tracker.uri


def _located(field: str, uri: str) -> str:
    if _SECRET.search(uri):
        raise ValueError(
            f"{field} holds a password, and URIs are written into records and reports: give it to fsspec through its "
            "environment or configuration files"
        )
    if uri.startswith("memory://"):
        raise ValueError(f"{field} {uri}: each process has a memory of its own: give a folder or a bucket")
    try:
        return storage.absolute(uri)
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None


def check_places(config: Config, job: Job = PIPELINE) -> None:
    """Everything that can be known to make a job fail before a worker starts.

    Raises:
        ValueError: an input is missing or empty, an output cannot be written, or the engine cannot serve the model.
    """
    with storage.reaching(f"model.path {config.model.path}"):
        check_checkpoint(config.model.path)
        check_engine(config)
    if config.vig is not None and config.vig.scorer is not None:
        with storage.reaching(f"vig.scorer.path {config.vig.scorer.path}"):
            check_checkpoint(config.vig.scorer.path)
            _check_scorer(job, config, config.vig.scorer.path)
    _check_packages(job, config)
    _check_data(_needs(job, config), config)
    if job.function != PIPELINE.function:
        _check_needed(job, config)
    if "evaluation" in job.needs and config.evaluation is not None:
        _check_evaluation(config.evaluation)
    for name in ("store", "runs"):
        _check_writable(name, getattr(config, name))
    if job.stages and config.hub is not None:
        from stic_ray import hub  # its HTTP client takes half a second

        hub.check(config.hub)


def _needs(job: Job, config: Config) -> frozenset[str]:
    """What a job looks at: scores are those of the pairs where there are no samples."""
    if job.function == SCORES.function and config.instructions is None:
        return frozenset({"pairs"})
    return job.needs


def _check_scorer(job: Job, config: Config, scorer: str) -> None:
    """A mask over the scorer's tokens means nothing to a model that has others."""
    for name, training in config.trainings().items():
        if not any(name.startswith(stage) for stage in job.stages):
            continue
        what = other_tokens(scorer, config.model.path) if _masks(training.selection) else ""
        if what:
            raise ValueError(
                f"vig.scorer.path {scorer}: its {what} is another than that of model.path, and {name}.selection masks "
                "the tokens that it scores: give it the model's tokenizer and template, or select whole answers"
            )


def _masks(selection: Selection | None) -> bool:
    if isinstance(selection, VigSelection):
        return not isinstance(selection.tokens, AllTokens)
    return isinstance(selection, MaskedPairs)


def _check_packages(job: Job, config: Config) -> None:
    """What a training imports, where Ray will run on this machine alone: a head may lack what its workers have."""
    if not job.stages or "RAY_ADDRESS" in os.environ:
        return
    needed = [
        (f"execution.trackers has {type(tracker).__name__}", module, "the extra track")
        for tracker in config.execution.trackers
        for module in (("mlflow", "alembic") if isinstance(tracker, Mlflow) else ("wandb",))
    ]
    for name, training in config.trainings().items():
        if any(map(name.startswith, job.stages)) and isinstance(training.weights, Lora) and training.weights.quantize:
            needed.append((f"{name}.weights.quantize is true", "bitsandbytes", "bitsandbytes"))
    for why, module, what in needed:
        if not importlib.util.find_spec(module):
            raise ValueError(f"{why}, and the package {module} is not installed here: install {what}, or leave it out")


def _check_data(needs: frozenset[str], config: Config) -> None:
    unlabeled, annotated, imported = config.unlabeled, config.annotated, config.imported
    if "pairs" in needs and unlabeled is not None:
        with storage.reaching(f"unlabeled.uri {unlabeled.uri}"):
            sources.check_images(unlabeled)
    if "pairs" in needs and annotated is not None:
        _check_instructions("annotated.data", annotated.data)
    if needs & {"pairs", "imported"} and imported is not None:
        with storage.reaching(f"imported.uri {imported.uri} or imported.images {imported.images}"):
            incoming.check(imported.uri, imported.images, "imported")
    if "instructions" in needs and config.instructions is not None:
        _check_instructions("instructions", config.instructions)


def _check_instructions(field: str, source: Instructions) -> None:
    with storage.reaching(f"{field}.uri {source.uri} or {field}.images {source.images}"):
        incoming.check_instructions(source, field)


def _check_needed(job: Job, config: Config) -> None:
    """A stage alone has nothing to do without its data, which a run may do without."""
    has_pairs = any(source is not None for source in (config.unlabeled, config.annotated, config.imported))
    if job.function == SCORES.function and config.instructions is None and not has_pairs:
        raise ValueError(
            "instructions, unlabeled, annotated and imported are null: set one, to have its answers scored"
        )
    needs = _needs(job, config)
    if "pairs" in needs and not has_pairs:
        raise ValueError("unlabeled, annotated and imported are null: set one of them, since pairs are made of it")
    if "imported" in needs and config.imported is None:
        raise ValueError("imported is null: say what, like imported.uri=pairs.jsonl imported.format=trl")
    if "instructions" in needs and config.instructions is None:
        raise ValueError("instructions is null: set it")


def _check_evaluation(evaluation: Evaluation) -> None:
    named = [
        (f"evaluation.{split}.{name}.{field}", uri)
        for split, benchmarks in evaluation.splits().items()
        for name, benchmark in benchmarks.items()
        for field, uri in locations(benchmark)
    ]
    for field, uri in named:
        with storage.reaching(f"{field} {uri}"):
            there = storage.exists(uri)
        if not there:
            raise ValueError(f"{field} {uri} does not exist")
    judge = evaluation.judge
    if isinstance(judge, OwnModel):
        with storage.reaching(f"evaluation.judge.path {judge.path}"):
            check_checkpoint(judge.path)
    if isinstance(judge, Endpoint) and judge.key_variable and not os.environ.get(judge.key_variable):
        raise ValueError(
            f"evaluation.judge.key_variable is {judge.key_variable}, which is not set in the environment: set it, here "
            "and in the runtime environment of a submitted job"
        )


def check_home(config: Config, job: Job) -> None:
    """Whether a job's folder is its own.

    Raises:
        ValueError: it holds a sweep and the job is a run, or the other way round: one would write over the other.
    """
    if job not in (PIPELINE, SWEEP):
        return
    home = storage.join(config.runs, config.name)
    what, file = ("a sweep", sweep_folder.JSON) if job is PIPELINE else ("a run", collect.SUMMARY)
    if storage.exists(storage.join(home, file)):
        raise ValueError(f"{home} holds {what}: give this one a name of its own (name=...)")


def _check_writable(name: str, uri: str) -> None:
    probe = storage.join(uri, f".writable-{os.getpid()}")
    with storage.reaching(f"{name} {uri}"):
        try:
            storage.write_bytes(probe, b"\0" * 65536)
            storage.remove(probe)
        except (OSError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or str(error) or "it is read-only"
            raise ValueError(
                f"{name} {uri} cannot be written: {reason}; set {name}= to a folder that can be "
                "written and has space left"
            ) from None
