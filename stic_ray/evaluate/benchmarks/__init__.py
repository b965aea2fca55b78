"""Every benchmark in a file: how its questions are read, and how its answers become figures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from stic_ray import config
from stic_ray.config import JUDGED, Benchmark
from stic_ray.evaluate.benchmarks import (
    amber,
    chair,
    chartqa,
    cvbench,
    docvqa,
    llava_bench,
    mathvista,
    mmbench,
    mmhal,
    mmvet,
    multiple_choice,
    object_hal,
    pope,
    scienceqa,
    short_answers,
    textvqa,
)
from stic_ray.evaluate.measures import Item, Measure, Verdicts, verdict_id
from stic_ray.records import Prediction

_MODULES: Mapping[type, Any] = {
    config.Amber: amber,
    config.Chair: chair,
    config.ChartQa: chartqa,
    config.CvBench: cvbench,
    config.DocVqa: docvqa,
    config.LlavaBench: llava_bench,
    config.MathVista: mathvista,
    config.MmBench: mmbench,
    config.MmHal: mmhal,
    config.MmVet: mmvet,
    config.MultipleChoice: multiple_choice,
    config.ObjectHal: object_hal,
    config.Pope: pope,
    config.ScienceQa: scienceqa,
    config.ShortAnswers: short_answers,
    config.TextVqa: textvqa,
}


def read_items(benchmark: Benchmark) -> Iterator[Item]:
    """The questions of a benchmark, in its files' order.

    Raises:
        ValueError: a file is missing, empty or not of the benchmark's format; the message names file, place, field and
            remedy.
    """
    items: Iterator[Item] = _MODULES[type(benchmark)].read(benchmark)
    return items


def measure_of(benchmark: Benchmark, rows: Sequence[Prediction], verdicts: Verdicts) -> Measure:
    """How the benchmark's answers become figures; `rows` are all that will be counted: see `measurable`."""
    judged = (verdicts,) if isinstance(benchmark, JUDGED) else ()
    made: Measure = _MODULES[type(benchmark)].measure(benchmark, rows, *judged)
    return made


def measurable(benchmark: Benchmark, rows: Sequence[Prediction], verdicts: Verdicts) -> list[Prediction]:
    """The answers that have what a figure needs: a judge's verdict where one reads them, a gold answer elsewhere."""
    if isinstance(benchmark, JUDGED):
        return [row for row in rows if verdict_id(row) in verdicts]
    return [row for row in rows if row.answers or isinstance(benchmark, config.Chair)]


def judge_prompt(benchmark: Benchmark) -> str:
    """The words around what the judge is asked of a judged benchmark's answers."""
    prompt: str = _MODULES[type(benchmark)].PROMPT
    return prompt


def judge_question(benchmark: Benchmark) -> Callable[[Prediction], str]:
    """What the judge is asked of an answer to a judged benchmark."""
    ask: Callable[[Prediction], str] = _MODULES[type(benchmark)].ask
    return ask


def read_verdict(benchmark: str, text: str) -> tuple[list[float], list[str]] | None:
    """What a judge says of an answer to a benchmark, by the name of its type; None where it says nothing that can be
    read."""
    found: tuple[list[float], list[str]] | None = _MODULES[getattr(config, benchmark)].read_verdict(text)
    return found
