"""The questions of all benchmarks as an artifact: an image's stand together, whichever benchmark asks them."""

import heapq
import time
from collections.abc import Iterator
from itertools import groupby

from stic_ray import artifacts, storage
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import DAR_SUFFIX, Benchmark, Config, Evaluation, Mode, locations, to_tree
from stic_ray.evaluate.benchmarks import read_items
from stic_ray.evaluate.benchmarks.short_answers import RESERVED_CATEGORY
from stic_ray.evaluate.measures import Item
from stic_ray.flow import finish_stage
from stic_ray.records import Question, make_id, make_seed
from stic_ray.sources import image_id

CODE_VERSION = 3
_ROWS_PER_FILE = 4096


def task_of(benchmark: str, mode: Mode) -> str:
    """What a benchmark's questions are called when they are asked in a mode."""
    return benchmark + (DAR_SUFFIX if mode == "describe_first" else "")


def modes_of(benchmark: Benchmark, infused: str) -> list[Mode]:
    """How a benchmark is asked; without a template for it (`prompts.infused`), nothing is described first."""
    return [mode for mode in benchmark.modes if mode == "direct" or infused]


def plan(config: Config, evaluation: Evaluation) -> Plan:
    """The artifact of all splits' questions."""
    identity = {
        "splits": {
            split: {name: [to_tree(each), _versions(each)] for name, each in benchmarks.items()}
            for split, benchmarks in evaluation.splits().items()
        },
        "describe_and_respond": bool(config.prompts.infused),
    }
    return Plan(stage="questions", code_version=CODE_VERSION, identity=identity, kind=Question.__name__)


def _versions(benchmark: Benchmark) -> dict[str, str]:
    return {
        name: storage.listing_version(uri) if storage.is_directory(uri) else storage.file_version(uri)
        for name, uri in locations(benchmark)
    }


def run(config: Config, evaluation: Evaluation, plan: Plan) -> Artifact:
    """Make the artifact.

    Raises:
        ValueError: a benchmark's file is missing or is not of its format.
    """
    start = time.monotonic()
    questions = [
        question
        for split, benchmarks in evaluation.splits().items()
        for name, benchmark in benchmarks.items()
        for question in read(benchmark, split=split, name=name, infused=config.prompts.infused)
    ]
    questions.sort(key=lambda question: (question.image_id, question.id))
    uri = storage.join(config.store, plan.name)
    part: list[Question] = []
    for _, asked in groupby(questions, key=lambda question: question.image_id):
        part += asked
        if len(part) >= _ROWS_PER_FILE:
            artifacts.write_rows(uri, part, Question, [])
            part = []
    artifacts.write_rows(uri, part, Question, [])
    artifacts.remove_duplicates(uri, "image_id")
    figures = {"seconds": round(time.monotonic() - start, 3)}
    return finish_stage(store=config.store, plan=plan, num_units=len(questions), figures=figures, max_reject_rate=0.0)


def read(benchmark: Benchmark, *, split: str, name: str, infused: str) -> Iterator[Question]:
    """Every question of a benchmark in every mode, in its files' order, with its instruction below it. A benchmark of
    text alone has nothing to describe and is asked directly.

    Raises:
        ValueError: a file is missing or is not of the benchmark's format.
    """
    items = list(read_items(benchmark))
    _check(items, benchmark, name)
    items = _limited(items, benchmark.limit)
    modes = modes_of(benchmark, infused if any(item.image_uri for item in items) else "")
    for item in items:
        for mode in modes:
            yield _question(item, benchmark, split=split, task=task_of(name, mode))


def _check(items: list[Item], benchmark: Benchmark, name: str) -> None:
    """Whether there are questions, and each category has a place of its own among the figures, where / divides.

    Raises:
        ValueError: with the benchmark's file.
    """
    uri = next((uri for _, uri in locations(benchmark)), "")
    if not items:
        raise ValueError(f"{name} ({uri}) holds no question: correct the benchmark's path or leave it out")
    for names in ({item.category for item in items} | {RESERVED_CATEGORY}, {item.group for item in items}):
        for each in names:
            parts = each.split("/")
            for end in range(1, len(parts)):
                whole = "/".join(parts[:end])
                if whole in names:
                    raise ValueError(f"{name} ({uri}): {each!r} would be a part of the category {whole!r}: rename one")


def _limited(listed: list[Item], limit: int | None) -> list[Item]:
    if limit is None:
        return listed
    images = {item.image or item.key for item in listed}
    taken = set(heapq.nsmallest(limit, images, key=lambda image: (make_seed("limit", image), image)))
    return [item for item in listed if (item.image or item.key) in taken]


def _question(item: Item, benchmark: Benchmark, *, split: str, task: str) -> Question:
    return Question(
        id=make_id(split, task, item.category, item.image, item.key),
        split=split,
        task=task,
        key=item.key,
        image_id=image_id(f"{split}/{item.image_uri or f'{task}/{item.key}'}"),
        image_uri=item.image_uri,
        text="\n".join([item.text, *([benchmark.instruction] if benchmark.instruction else [])]),
        answers=list(item.answers),
        choices=list(item.choices),
        form=item.form,
        context=item.context,
        category=item.category,
        group=item.group,
    )
