"""The command line of a run: settings read and checked in an instant, before anything heavy is imported."""

import argparse
import importlib
import importlib.util
import logging
import os
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from stic_ray import recipes, sources, storage
from stic_ray.checkpoint import check_checkpoint, other_tokens
from stic_ray.command_line import add_log_format, finish
from stic_ray.config import (
    AllTokens,
    Benchmark,
    Config,
    Endpoint,
    Evaluation,
    Instructions,
    Lora,
    MaskedPairs,
    OwnModel,
    Selection,
    VigSelection,
    locations,
    parse_config,
    read_yaml,
    to_tree,
)
from stic_ray.engines import check_engine
from stic_ray.exchange import incoming

# Set by `ray job submit` for its entrypoint.
_SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"

_SECRET = re.compile(r"://[^/@]*:[^/@]+@")

_EPILOG = """\
settings are dotted keys, each checked before any work starts:
{examples}
  store=s3://bucket/store runs=...      where artifacts and runs go (any fsspec URI)
--show-config prints every setting with its value.
"""


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

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a command line starts: a function of a module by name, so that nothing heavy is imported before."""

    function: str
    script: str
    console: str
    description: str
    needs: frozenset[str]  # which inputs are looked at before it starts
    examples: tuple[str, ...]  # settings that matter to it, for --help
    stages: tuple[str, ...] = ()  # that it trains, with their controls
    module: str = "stic_ray.pipeline"
    recipe: str = recipes.EMBEDDED  # where no configuration is given


PIPELINE = Job(
    function="run",
    script="jobs/stic_pipeline.py",
    console="stic-pipeline",
    description="Self-train a vision-language model on unlabeled images (STIC), and measure what it gained.",
    needs=frozenset({"pairs", "instructions", "evaluation"}),
    examples=(
        "name=other                            another run beside the first; it shares what it can",
        "seed=1                                another run seed",
        "stage1.loss.alpha=1e-3                the regulariser's weight: stage 1 and what follows is made anew",
        "unlabeled.uri=s3://bucket/photos      your images",
    ),
    stages=("stage1", "stage2"),
)
PREFERENCES = Job(
    function="build_preferences",
    script="jobs/build_preferences.py",
    console="stic-build-preferences",
    description="Preference pairs: of the model's own answers to unlabeled images, or of annotated data.",
    needs=frozenset({"pairs"}),
    examples=(
        "unlabeled.uri=s3://bucket/photos      your images",
        "unlabeled.sample=1000                 so many of them, drawn",
        "sampling.temperature=0.7              how the answers are drawn",
        "negatives.per_positive=2              so many dispreferred answers for each preferred one",
    ),
)
DESCRIPTIONS = Job(
    function="describe_samples",
    script="jobs/describe.py",
    console="stic-describe",
    description="Describe the images of the instruction samples with model.path; nothing is trained.",
    needs=frozenset({"instructions"}),
    examples=(
        "model.path=runs/mine/stage1/merged    who describes",
        "instructions.uri=samples.json         whose images, with instructions.images=FOLDER",
        "instructions.sample=1000              so many samples, drawn",
    ),
)


IMPORT = Job(
    function="import_pairs",
    script="jobs/import_pairs.py",
    console="stic-import-pairs",
    description="Preference pairs of another tool into the store, where runs with the same settings find them.",
    needs=frozenset({"imported"}),
    examples=(
        "imported.uri=pairs.jsonl              a file of records, or a data set that save_to_disk wrote",
        "imported.format=trl                   whose: trl, llama_factory, ms_swift, llava, bpo, stic",
        "imported.images=photos                where image paths start, if not beside the file",
    ),
)
SCORES = Job(
    function="score_samples",
    script="jobs/score_vig.py",
    console="stic-score-vig",
    description="Visual information gain of every answer token of instruction samples or pairs; nothing is trained.",
    needs=frozenset({"instructions"}),
    examples=(
        "vig='{blind: {type: Blur, radius: 0.2}}'     what stands for no image",
        "instructions.uri=samples.json         whose answers, with instructions.images=FOLDER",
        "instructions.category=dataset         the samples' field that says their data set",
        "instructions=null                     score the pairs (unlabeled, annotated, imported) instead, as with",
        "                                      --recipe embedded-together",
    ),
)
SELECTION = Job(
    function="select_samples",
    script="jobs/select_samples.py",
    console="stic-select-samples",
    description="Which samples and tokens stage2.selection takes, by their gain; nothing is trained.",
    needs=frozenset({"instructions"}),
    examples=(
        "--recipe embedded-vig                 with gains to select by",
        "stage2.selection.keep_share=0.5       another threshold; nothing is scored again",
        "stage2.selection.strata=[category]    a threshold for each kind of sample",
    ),
)
SFT = Job(
    function="train_sft",
    script="jobs/train_sft.py",
    console="stic-train-sft",
    description="Fine-tune model.path on instruction samples (stage2, with its selection), and measure what it gained.",
    needs=frozenset({"instructions", "evaluation"}),
    examples=(
        "--recipe embedded-vig stage2.selection.keep_share=0.5",
        "                                      on the samples that need their image most",
        "stage2_control=null                   without the control beside it",
    ),
    stages=("stage2",),
)

SWEEP = Job(
    function="run",
    module="stic_ray.sweep",
    script="jobs/sweep.py",
    console="stic-sweep",
    description="Try settings side by side (sweep), and write the best as a configuration of its own.",
    needs=frozenset({"pairs", "instructions", "evaluation"}),
    examples=(
        "--recipe embedded-sweep               alpha of stage 1 against the share of samples kept for stage 2",
        "sweep.trials=20 sweep.max_concurrent=4",
        "sweep.search.type=OptunaSearch        settings by what others reached (extra sweep)",
        "sweep.scheduler=null                  no trial is stopped early",
        "sweep.space='{stage1.loss.beta: {type: LogUniform, low: 0.02, high: 0.5}}'",
    ),
    stages=("stage1", "stage2"),
    recipe="embedded-sweep",
)


def parse_arguments(argv: list[str] | None, job: Job = PIPELINE) -> argparse.Namespace:
    """The command line; exits with usage on a wrong one."""
    parser = argparse.ArgumentParser(
        description=job.description,
        epilog=_EPILOG.format(examples="\n".join(f"  {example}" for example in job.examples)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_configuration(parser, job.recipe)
    if job is PREFERENCES:
        parser.add_argument(
            "--method",
            choices=sorted(_SOURCES),
            help="only the pairs of unlabeled images (stic) or of annotated data (bpo); without it of all that is set",
        )
    parser.add_argument("--show-config", action="store_true", help="print the resolved configuration and stop")
    return parser.parse_intermixed_args(argv)


def add_configuration(parser: argparse.ArgumentParser, recipe: str) -> None:
    """The arguments that name a configuration, what overrides it, and how to log."""
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--config", metavar="FILE", help="a YAML file with the whole configuration")
    chosen.add_argument(
        "--recipe",
        default=recipe,
        help=f"a named recipe (default: %(default)s): {', '.join(recipes.names())}",
    )
    add_log_format(parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that override the configuration")


def read_tree(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings of the file or the recipe that the command line names, before its overrides.

    Raises:
        ValueError: the file cannot be read, or there is no such recipe.
    """
    if arguments.config:
        try:
            text = Path(arguments.config).read_text()
        except OSError as error:
            raise ValueError(f"--config {arguments.config}: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise ValueError(f"--config {arguments.config}: no UTF-8 text: give a YAML file") from None
        return recipes.expand(read_yaml(text, arguments.config))
    return recipes.expand(read_yaml(recipes.read(arguments.recipe), f"recipe {arguments.recipe}"))


def resolve_config(arguments: argparse.Namespace) -> Config:
    """The configuration that the command line means, its locations made absolute.

    Raises:
        ValueError: anything in it is wrong; the message names the field and the remedy.
    """
    return absolute(parse_config(read_tree(arguments), arguments.overrides))


def absolute(config: Config) -> Config:
    """A configuration whose locations workers with another working directory find.

    Raises:
        ValueError: a location cannot be, or a submitted job would leave its results in its temporary copy.
    """
    _refuse_relative_when_submitted(config)
    return parse_config(_absolute(config), [])


_SOURCES = {"stic": "unlabeled", "bpo": "annotated"}  # what a method makes pairs of


def _only(config: Config, method: str) -> Config:
    """A configuration whose pairs are one method's alone; raises ValueError where it has nothing to make them of."""
    source = _SOURCES[method]
    if getattr(config, source) is None:
        raise ValueError(f"--method {method}: {source} is null: set it, or take a recipe that does, like embedded-bpo")
    return replace(
        config,
        unlabeled=config.unlabeled if method == "stic" else None,
        contrast=config.contrast if method == "stic" else None,
        annotated=config.annotated if method == "bpo" else None,
        imported=None,
    )


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
    for number, tracker in enumerate(tree["execution"]["trackers"]):
        if tracker.get("uri"):
            tracker["uri"] = _tracked(f"execution.trackers[{number}].uri", tracker["uri"])
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


def _tracked(field: str, uri: str) -> str:
    """A folder made absolute, the address of a server or a database as it is."""
    if "://" not in uri and uri != "databricks":
        return _located(field, uri)
    if _SECRET.search(uri):
        raise ValueError(
            f"{field} holds a password, and settings are written into the run's folder: give it through MLflow's "
            "environment (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD)"
        )
    return uri


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
    needed = {
        f"execution.trackers has {type(tracker).__name__}": (type(tracker).__name__.lower(), "the extra track")
        for tracker in config.execution.trackers
    }
    for name, training in config.trainings().items():
        if any(map(name.startswith, job.stages)) and isinstance(training.weights, Lora) and training.weights.quantize:
            needed[f"{name}.weights.quantize is true"] = ("bitsandbytes", "bitsandbytes")
    for why, (module, what) in needed.items():
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


def main(argv: list[str] | None = None, job: Job = PIPELINE) -> int:
    """Run a job; exit status 0 when it is done, 2 for a mistake in the call or its inputs."""
    arguments = parse_arguments(argv, job)
    return finish(lambda: _do(job, arguments, argv or sys.argv[1:]), arguments.log)


def _do(job: Job, arguments: argparse.Namespace, called: list[str]) -> str:
    """What the job ends with."""
    if job is SCORES and "instructions=null" in arguments.overrides:
        arguments.overrides.append("stage2=null")  # which needs them; this job trains nothing
    config = resolve_config(arguments)
    if getattr(arguments, "method", None):
        config = _only(config, arguments.method)
    if arguments.show_config:
        return yaml.safe_dump(to_tree(config), sort_keys=False)
    check_places(config, job)
    if job is PIPELINE and config.vig is not None and not any(each.selection for each in config.trainings().values()):
        logger.warning("vig is set, and no stage has a selection that uses it: nothing is scored for it")
    # As it was called: the job of a checkout, or the command that the package installs.
    program = ["python", job.script] if sys.argv[0].endswith(".py") else [job.console]
    work = getattr(importlib.import_module(job.module), job.function)
    ending: str = work(config, command=[*program, *called])
    return ending


def build_preferences(argv: list[str] | None = None) -> int:
    """`main` of the pairs alone."""
    return main(argv, PREFERENCES)


def import_pairs(argv: list[str] | None = None) -> int:
    """`main` of another tool's pairs alone."""
    return main(argv, IMPORT)


def score_vig(argv: list[str] | None = None) -> int:
    """`main` of the gains alone."""
    return main(argv, SCORES)


def select_samples(argv: list[str] | None = None) -> int:
    """`main` of the selection alone."""
    return main(argv, SELECTION)


def train_sft(argv: list[str] | None = None) -> int:
    """`main` of stage 2 alone."""
    return main(argv, SFT)


def sweep(argv: list[str] | None = None) -> int:
    """`main` of a sweep."""
    return main(argv, SWEEP)


def describe(argv: list[str] | None = None) -> int:
    """`main` of the descriptions alone."""
    return main(argv, DESCRIPTIONS)
