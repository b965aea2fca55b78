"""How much a configuration's inputs hold: by a listing of their sources, or as somebody says."""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from stic_ray import sources
from stic_ray.config import Benchmark, Config, Evaluation, Images, Instructions
from stic_ray.evaluate.benchmarks import read_items
from stic_ray.evaluate.questions import read as read_questions
from stic_ray.exchange import incoming

GIVEN = ("images", "samples", "annotated", "questions")
Inputs = Mapping[str, float]
"""Images, samples, annotated samples and questions of a run, by source."""


def count_inputs(config: Config, given: Inputs) -> dict[str, float]:
    """What a run of this configuration reads; `given` says how much sources hold that are not to be listed.

    Raises:
        ValueError: a source cannot be read.
    """
    counts: dict[str, Callable[[], int]] = {}
    if config.unlabeled is not None:
        counts["images"] = partial(_count_images, config.unlabeled, config.seed)
    if config.instructions is not None:
        counts["samples"] = partial(_count_samples, config.instructions, config.seed)
    if config.annotated is not None:
        counts["annotated"] = partial(_count_samples, config.annotated.data, config.seed)
    if config.evaluation is not None:
        counts["questions"] = partial(_count_questions, config, config.evaluation)
    most = {what: float(number) for what, (_, number) in caps(config).items()}
    return {
        what: min(given[what], most.get(what, math.inf)) if what in given else float(count())
        for what, count in counts.items()
    }


def caps(config: Config) -> dict[str, tuple[str, int]]:
    """How many a run takes at most of a source that may hold more, with the setting that says so."""
    found: dict[str, tuple[str, int | None]] = {}
    if config.unlabeled is not None:
        name = "limit" if config.unlabeled.sample is None else "sample"
        found["images"] = (f"unlabeled.{name}", getattr(config.unlabeled, name))
    if config.instructions is not None:
        found["samples"] = ("instructions.sample", config.instructions.sample)
    if config.annotated is not None:
        found["annotated"] = ("annotated.data.sample", config.annotated.data.sample)
    return {what: (name, most) for what, (name, most) in found.items() if most is not None}


def _count_images(source: Images, seed: int) -> int:
    """Of a source that says how many it takes, no more are counted than that."""
    found = sources.list_images(source, seed)  # type: ignore[arg-type]  # the union's base
    return sum(1 for _ in itertools.islice(found, source.sample or source.limit))


def _count_samples(source: Instructions, seed: int) -> int:
    samples, rejects = incoming.read_instructions(source, seed)
    return len(samples) + len(rejects)


def _count_questions(config: Config, evaluation: Evaluation) -> int:
    infused = config.prompts.infused
    return sum(
        1
        for split, benchmarks in evaluation.splits().items()
        for name, benchmark in benchmarks.items()
        for _ in read_questions(benchmark, split=split, name=name, infused=infused)
    )


def part_of(config: Config, share: float, inputs: Inputs, name: str) -> Config:
    """The same configuration on a share of its inputs, drawn as it draws, under another name: a small run of it.

    A training whose steps are set takes as many fewer; benchmarks keep their part of the questions.
    """

    def of(what: str) -> int:
        return max(1, math.ceil(share * inputs[what]))

    changed = replace(config, name=name)
    if config.unlabeled is not None:
        changed = replace(changed, unlabeled=replace(config.unlabeled, sample=of("images"), limit=None))
    if config.instructions is not None:
        changed = replace(changed, instructions=replace(config.instructions, sample=of("samples")))
    if config.annotated is not None:
        data = replace(config.annotated.data, sample=of("annotated"))
        changed = replace(changed, annotated=replace(config.annotated, data=data))
    if config.evaluation is not None:
        changed = replace(changed, evaluation=_limited(config.evaluation, share))
    for stage, training in config.trainings().items():
        if training.steps is not None:
            changed = replace(changed, **{stage: replace(training, steps=max(1, math.ceil(share * training.steps)))})  # type: ignore[arg-type]
    return changed


def _limited(evaluation: Evaluation, share: float) -> Evaluation:
    def limited(benchmarks: Mapping[str, Benchmark]) -> dict[str, Benchmark]:
        return {name: replace(each, limit=_limit(each, share)) for name, each in benchmarks.items()}

    return replace(evaluation, test=limited(evaluation.test), dev=limited(evaluation.dev))


def _limit(benchmark: Benchmark, share: float) -> int:
    images = {item.image or item.key for item in read_items(benchmark)}
    return max(1, math.ceil(share * min(len(images), benchmark.limit or len(images))))
