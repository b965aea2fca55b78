"""Papers' figures stand beside ours: each names a figure that the benchmark shows."""

from dataclasses import replace

import pytest

from stic_ray import config
from stic_ray.config import Benchmark
from stic_ray.evaluate.benchmarks import measure_of
from stic_ray.report.published import _FIGURES
from tests.evaluate.answering import judged, predict

_BENCHMARKS: dict[str, Benchmark] = {
    "Chair": config.Chair(objects="o", images="i"),
    "ChartQa": config.ChartQa(questions={"human": "q"}, images="i"),
    "CvBench": config.CvBench(questions={"2D": "q"}),
    "LlavaBench": config.LlavaBench(questions="q", answers="a", context="c", images="i"),
    "MathVista": config.MathVista(questions="q", images="i"),
    "MmBench": config.MmBench(questions="q"),
    "MmHal": config.MmHal(questions="q", images="i"),
    "MmVet": config.MmVet(questions="q", images="i"),
    "Pope": config.Pope(questions={"random": "q"}, images="i"),
    "ScienceQa": config.ScienceQa(questions="q", images="i"),
    "TextVqa": config.TextVqa(questions="q", images="i"),
}
_NAMES = sorted({key for figures in _FIGURES.values() for key in figures})


@pytest.mark.parametrize(("benchmark", "figure"), _NAMES)
def test_published_figure_is_one_that_the_benchmark_shows(benchmark: str, figure: str) -> None:
    row = replace(predict("b", "0.png", "A", ["A"], "random"), form="4 made", choices=["x", "y"])
    verdicts = {judged(row).id: judged(row, [1.0, 1.0])}
    assert figure in measure_of(_BENCHMARKS[benchmark], [row], verdicts).main
