"""Models that are there already, side by side on benchmarks: `python jobs/evaluate_model.py --model BASE --model M`."""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stic_ray import launch, preflight, recipes, storage
from stic_ray.command_line import add_log_format, finish
from stic_ray.config import Config, Evaluation, Mode, Model, parse_config, read_yaml, to_tree
from stic_ray.evaluate import layout
from stic_ray.evaluate.predict import Candidate
from stic_ray.job_specs import Job
from stic_ray.report.markdown import RESERVED

_PAPER = "llava-1.5-7b"  # whose prompts are for models of the papers' kind
_UNUSED = (  # parts of a recipe that measuring does not need
    *("unlabeled", "annotated", "imported", "instructions", "vig", "contrast", "hub"),
    *("stage1", "stage1_control", "stage2", "stage2_control"),
)
_NEEDED = ("seed", "negatives", "sampling")  # of every configuration, and not used here
_ADAPTER = "adapter_config.json"
_JOB = Job(
    function="compare_models",
    script="jobs/evaluate_model.py",
    console="stic-evaluate-model",
    description="",
    needs=frozenset({"evaluation"}),
    examples=(),
)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measure models on benchmarks, each against the first, with paired bootstrap intervals.",
        epilog="Benchmarks lie below DATA in a folder each, named as here, with their authors' files in it; each says "
        "what it looked for and did not find. Without --benchmarks those of the configuration are taken: the embedded "
        "world's, or `evaluation` of your own file.",
    )
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="[NAME=]DIR",
        help="a checkpoint directory, or one with a peft adapter (any fsspec URI); repeat it to compare",
    )
    parser.add_argument("--benchmarks", metavar="A,B", help=f"which: {', '.join(layout.NAMES)}")
    parser.add_argument("--data", metavar="URI", help="the folder that has the benchmarks' folders")
    parser.add_argument(
        "--describe-first", action="store_true", help="ask everything with the model's own description in front, too"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="the questions of N images a benchmark, drawn by hash")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--config", metavar="FILE", help="a YAML file with settings: prompts, engine, evaluation, ...")
    chosen.add_argument("--recipe", help=f"a named recipe; default: {recipes.EMBEDDED}, with --benchmarks {_PAPER}")
    add_log_format(parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, like engine.type=Vllm")
    return parser.parse_intermixed_args(argv)


def resolve(arguments: argparse.Namespace) -> tuple[Config, dict[str, Candidate]]:
    """What the command line means.

    Raises:
        ValueError: anything in it is wrong; the message names the argument or field and the remedy.
    """
    if bool(arguments.benchmarks) != bool(arguments.data):
        raise ValueError("--benchmarks and --data go together: give both, or neither for the configuration's own")
    arguments.recipe = arguments.recipe or (_PAPER if arguments.benchmarks else recipes.EMBEDDED)
    tree = launch.read_tree(arguments)
    paper = read_yaml(recipes.read(_PAPER), _PAPER)
    tree = {name: paper[name] for name in _NEEDED} | tree | dict.fromkeys(_UNUSED)
    tree |= {"rounds": 1, "name": tree.get("name", "model") + "-evaluation"}
    if arguments.benchmarks:
        tree["evaluation"] = {**(tree.get("evaluation") or {}), "test": {}, "dev": {}}
    named = dict(_named(model) for model in arguments.model)
    if len(named) < len(arguments.model):
        raise ValueError("--model: two models have one name: write them as NAME=DIR")
    for name in named:
        if name in RESERVED or not name:
            raise ValueError(f"--model {name}: another entry of the summary is called so: write it as NAME=DIR")
    bases = {name: _base(storage.absolute(uri)) for name, uri in named.items()}
    first = next(iter(bases.values()))[0]
    tree["model"] = {"dtype": "float32", **(tree.get("model") or {}), "path": first}
    if arguments.benchmarks:
        tree["evaluation"]["test"] = _located(arguments)
    config = preflight.absolute(parse_config(tree, arguments.overrides))
    assert config.evaluation is not None  # as the recipes have it, or made above
    if not arguments.benchmarks:
        config = replace(config, evaluation=_asked(config.evaluation, arguments))
    dtype = config.model.dtype
    candidates = {
        name: Candidate(model=Model(path=path, dtype=dtype), adapter=adapter) for name, (path, adapter) in bases.items()
    }
    return config, candidates


def _named(text: str) -> tuple[str, str]:
    """The name and the URI of a model; what is called merged or adapter is known by the folder around it."""
    name, separator, uri = text.partition("=")
    if separator and "/" not in name:
        return name, uri
    parts = [part for part in text.rstrip("/").split("/") if part not in ("merged", "adapter", "")]
    return parts[-1] if parts else "model", text


def _base(uri: str) -> tuple[str, str]:
    """A checkpoint and the adapter on it, of a directory with either.

    Raises:
        ValueError: the adapter does not say where its checkpoint is.
    """
    where = storage.join(uri, _ADAPTER)
    with storage.reaching(f"--model {uri}"):
        if not storage.exists(where):
            return uri, ""
        text = storage.read_text(where)
    try:
        base = json.loads(text)["base_model_name_or_path"]
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"--model {uri}: its {_ADAPTER} is damaged: save the adapter again") from None
    if not base or not storage.exists(storage.join(storage.absolute(str(base)), "config.json")):
        raise ValueError(
            f"--model {uri} is an adapter on {base}, which is no directory here: give the merged model, or set "
            f"base_model_name_or_path in its {_ADAPTER}"
        )
    return storage.absolute(str(base)), uri


def _modes(arguments: argparse.Namespace) -> tuple[Mode, ...]:
    return ("direct", "describe_first") if arguments.describe_first else ("direct",)


def _located(arguments: argparse.Namespace) -> Mapping[str, Any]:
    names = [name.strip() for name in arguments.benchmarks.split(",") if name.strip()]
    data = storage.absolute(arguments.data)
    with storage.reaching(f"--data {data}"):
        found = layout.locate(names, data, modes=_modes(arguments), limit=arguments.limit)
    return {name: to_tree(benchmark) for name, benchmark in found.items()}


def _asked(evaluation: Evaluation, arguments: argparse.Namespace) -> Evaluation:
    """A configuration's own benchmarks, as the command line asks them."""
    changes: dict[str, Any] = {}
    if arguments.describe_first:
        changes["modes"] = _modes(arguments)
    if arguments.limit is not None:
        changes["limit"] = arguments.limit
    test = {name: replace(benchmark, **changes) for name, benchmark in evaluation.test.items()}
    return replace(evaluation, test=test, dev={})


def main(argv: list[str] | None = None) -> int:
    """Measure and compare; exit status 2 for a mistake in the call or its inputs."""
    arguments = _parse(argv)
    return finish(lambda: _compare(arguments, argv or sys.argv[1:]), arguments.log)


def _compare(arguments: argparse.Namespace, called: list[str]) -> str:
    """What the job ends with."""
    config, candidates = resolve(arguments)
    for candidate in candidates.values():
        preflight.check_places(replace(config, model=candidate.model), _JOB)
    from stic_ray import pipeline

    program = ["python", _JOB.script] if sys.argv[0].endswith(".py") else [_JOB.console]
    return pipeline.compare_models(config, candidates, [*program, *called])


if __name__ == "__main__":
    sys.exit(main())
