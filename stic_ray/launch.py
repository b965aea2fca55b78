"""The command line of a run: settings read in an instant, before anything heavy is imported."""

import argparse
import importlib
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from stic_ray import recipes
from stic_ray.command_line import add_log_format, finish
from stic_ray.config import Config, parse_config, read_yaml, to_tree
from stic_ray.job_specs import DESCRIPTIONS, IMPORT, PIPELINE, PREFERENCES, SCORES, SELECTION, SFT, SWEEP, Job
from stic_ray.preflight import absolute, check_home, check_places

_EPILOG = """\
settings are dotted keys, each checked before any work starts:
{examples}
  store=s3://bucket/store runs=...      where artifacts and runs go (any fsspec URI)
--show-config prints every setting with its value.
"""

logger = logging.getLogger(__name__)


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
    check_home(config, job)
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
