"""A sweep's page: every trial, setting and figure in it, safe, and open to every kind of sweep."""

import html
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stic_ray.config import Choice, Config, GridSearch, LogUniform, Objective
from stic_ray.report.curves import Curve
from stic_ray.report.sweep_page import SweepFacts, render
from stic_ray.trials import Figure, State, Trial, front

HOSTILE = "<script>alert(1)</script> \"'><img src=http://x.y onerror=z>"
CHAIR, ACCURACY = "describe_simple/chair_i", "questions/accuracy"


def _figures(*values: float) -> dict[str, Figure]:
    each = zip((CHAIR, ACCURACY, "pope/accuracy"), values, strict=False)
    return {name: Figure(value=value, low=value - 1, high=value + 2) for name, value in each}


def _trial(number: int, values: dict[str, Any], state: State = "finished", *figures: float) -> Trial:
    trial = Trial(id=f"t{number}", number=number, schedule=(values,), state=state, error=HOSTILE)
    return trial.reported("stage1", _figures(*figures), 30.0) if figures else trial


def _facts(config: Config, trials: list[Trial], **changes: Any) -> SweepFacts:
    assert config.sweep is not None
    config = replace(config, sweep=replace(config.sweep, **changes))
    assert config.sweep is not None
    curve = Curve(steps=np.arange(1.0, 9.0), values=np.linspace(2, 1, 8))
    return SweepFacts(
        config=config,
        command=f"python jobs/sweep.py {HOSTILE}",
        base=_figures(30, 85, 90),
        trials=trials,
        front=[trial.id for trial in front(trials, config.sweep.objectives)],
        best=f"# {HOSTILE}\n",
        curves={trial.id: {"stage1": {"loss": curve}} for trial in trials if trial.figures},
    )


def _values(alpha: float, share: float) -> dict[str, Any]:
    return {"stage1.loss.alpha": alpha, "stage2.selection.keep_share": share}


@pytest.fixture
def page(embedded_sweep: Config) -> str:
    trials = [
        _trial(0, _values(0.5, 0.4), "finished", 20, 84),
        _trial(1, _values(1.5, 0.9), "finished", 22, 88),
        _trial(2, _values(9.5, 0.9), "finished", 25, 83),
        _trial(3, _values(0.1, 0.3), "stopped", 26, 82),
        _trial(4, _values(5.0, 0.5), "failed"),
        _trial(5, _values(6.0, 0.5), "running"),
    ]
    return render(_facts(embedded_sweep, trials))


def test_page_has_every_trial_and_the_front_in_bold(page: str) -> None:
    for number in range(6):
        assert f">t{number}<" in page
    bold = re.findall(r"<td><strong>(t\d)</strong>", page)
    assert bold == ["t0", "t1"]
    page = html.unescape(page)
    assert "6 trials: 3 finished, 1 stopped early, 1 failed, 1 running" in page
    assert "Best by describe_simple/chair_i: trial t0" in page
    assert "20.0 [19.0, 22.0]" in page and "stopped after stage 1" in page and "running after nothing" in page


def test_page_draws_front_base_and_a_line_for_each_trial_that_was_measured(page: str) -> None:
    plane = page[page.index('aria-label="Pareto front"') :].partition("</svg>")[0]
    assert len(re.findall(r'<g class="k-front">', plane)) == 2 and plane.count('<g class="k-base">') == 1
    assert plane.count('<g class="k-finished">') == 1 and plane.count('<g class="k-stopped">') == 1
    lines = page[page.index('aria-label="Settings and figures"') :].partition("</svg>")[0]
    paths = re.findall(r'<polyline class="path (k-\w+)" points="([^"]+)"><title>(t\d)', lines)
    assert sorted(name for _, _, name in paths) == ["t0", "t1", "t2", "t3"]
    assert {kind for kind, _, name in paths if name in ("t0", "t1")} == {"k-front"}
    first = next(points for _, points, name in paths if name == "t0").split()
    alpha = float(first[0].partition(",")[2])
    assert alpha == pytest.approx(190 - 146 * (np.log(0.5 / 0.1) / np.log(100)), abs=0.1)  # on a logarithmic axis


def test_curves_are_dashed_for_stopped_trials_alone(embedded_sweep: Config) -> None:
    trials = [_trial(n, _values(0.5, 0.4), "stopped" if n % 3 else "finished", 20, 84) for n in range(12)]
    page = render(_facts(embedded_sweep, trials))
    charts = json.loads(page.partition('id="charts">')[2].partition("</script>")[0])
    lines = charts["stage1/loss"]["series"]
    assert [line["dashed"] for line in lines] == [bool(n % 3) for n in range(12)]
    finished = [line["color"] for line in lines if not line["dashed"]]
    assert len(set(finished)) == len(finished) == 4 and "dashed: stopped early" in page.partition('id="training"')[2]


def test_page_shows_hostile_texts_as_text(page: str) -> None:
    assert "<script>alert" not in page and "<img src=http" not in page
    assert "&#60;script" in page or "&lt;script" in page


def test_single_number_beside_the_seed_becomes_a_curve_of_means(embedded_sweep: Config) -> None:
    space = {"unlabeled.sample": Choice(values=(100, 200)), "seed": Choice(values=(0, 1))}
    trials = [
        _trial(number, {"unlabeled.sample": sample, "seed": number % 2}, "finished", chair, 85)
        for number, (sample, chair) in enumerate([(100, 30), (100, 20), (200, 10), (200, 12)])
    ]
    page = html.unescape(render(_facts(embedded_sweep, trials, space=space, search=GridSearch(), scheduler=None)))
    chart = page[page.index(f'aria-label="{CHAIR} ↓"') :].partition("</svg>")[0]
    notes = re.findall(r"<title>([^<]+)</title>", chart)
    assert [note.partition(",")[0] for note in notes] == ["sample 100: 25.0", "sample 200: 11.0"]


@pytest.mark.parametrize(
    ("trials", "changes"),
    [
        ([], {}),
        ([_trial(0, _values(0.5, 0.4), "failed")], {}),
        ([_trial(0, _values(0.5, 0.4), "finished", 20, 84)], {"objectives": (Objective(figure=CHAIR, mode="min"),)}),
        (
            [_trial(n, {"a": HOSTILE if n else None}, "finished", 20, 84) for n in range(2)],
            {"space": {"a": Choice(values=(None, HOSTILE))}},
        ),
        (
            [_trial(n, {"a": n + 1.0}, "finished", n, n, n) for n in range(3)],
            {
                "space": {"a": LogUniform(low=0.5, high=9)},
                "objectives": tuple(
                    Objective(figure=figure, mode="min") for figure in (CHAIR, ACCURACY, "pope/accuracy")
                ),
            },
        ),
    ],
    ids=["nothing", "failed", "one", "words", "three"],
)
def test_every_kind_of_sweep_has_a_page(embedded_sweep: Config, trials: list[Trial], changes: dict[str, Any]) -> None:
    page = render(_facts(embedded_sweep, trials, **changes))
    assert page.endswith("</html>\n") and "<img src=http" not in page


def test_page_is_what_a_browser_is_given(page: str, tmp_path: Path) -> None:
    """Its policy allows no more than the scripts that stand in it."""
    assert page.count("<script>") == 2 and "script-src 'sha256-" in page and "http://" not in page.replace(HOSTILE, "")
