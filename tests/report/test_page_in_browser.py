"""report.html in a real browser, from disk and offline; skipped where no Chromium is installed, but in CI."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from stic_ray.config import Config
from stic_ray.report import command
from stic_ray.report.curves import Curve
from stic_ray.report.sweep_page import SweepFacts, render
from stic_ray.trials import Figure, Trial
from tests.report.browser import Page, browsing, find_browser
from tests.report.report_run import write_run


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    if not find_browser():
        reason = "needs Chromium: apt-get install -y chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with browsing() as page:
        yield page


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A report, and a comparison."""
    folder = tmp_path_factory.mktemp("run")
    runs = [write_run(folder / name, name) for name in ("one", "two")]
    assert command.main([str(runs[0])]) == 0
    assert command.main([*map(str, runs), "--out", str(folder / "compare.html")]) == 0
    return [runs[0] / "report.html", folder / "compare.html"]


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("dark", [False, True])
def test_pages_open_offline_without_errors_and_fit_the_screen(
    browser: Page, pages: list[Path], width: int, dark: bool
) -> None:
    for path in pages:
        browser.errors.clear()
        browser.requests.clear()
        browser.open(path, width=width, dark=dark)
        assert browser.run("document.documentElement.scrollWidth <= innerWidth")
        assert browser.run("document.querySelectorAll('canvas').length") >= 2
        assert browser.errors == []
        assert all(url.startswith(("file:", "data:image/jpeg")) for url in browser.requests)
        background = browser.run("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)")


def test_chart_says_the_values_under_the_pointer(browser: Page, pages: list[Path]) -> None:
    browser.open(pages[0], width=1440)
    browser.run("document.querySelector('[data-chart=\"stage1/loss\"]').scrollIntoView({behavior: 'instant'})")
    legend = "document.querySelector('[data-chart=\"stage1/loss\"] .legend').textContent"
    assert browser.run(legend) == "step 5stage10.2stage1 control0.2"  # the last step's
    box = "document.querySelector('[data-chart=\"stage1/loss\"] .u-over').getBoundingClientRect()"
    x, y, width = (browser.run(f"{box}.{side}") for side in ("x", "y", "width"))
    browser.move(x + width / 2, y + 40)
    end = time.monotonic() + 5
    while "step 3" not in browser.run(legend) and time.monotonic() < end:
        time.sleep(0.05)
    assert browser.run(legend) == "step 3stage10.3333stage1 control0.3333"


@pytest.fixture(scope="module")
def sweep_page(embedded_sweep: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep's page whose second trial's stage 2 is longer than the best's."""
    figures = {name: Figure(value=20, low=18, high=22) for name in ("describe_simple/chair_i", "questions/accuracy")}
    values = [{"stage1.loss.alpha": alpha, "stage2.selection.keep_share": 0.5} for alpha in (1.0, 2.0)]
    found = SweepFacts(
        config=embedded_sweep,
        command="",
        base=figures,
        trials=[
            Trial(id=f"t{n}", number=n, schedule=(each,), state="finished").reported("stage2", figures, 9.0)
            for n, each in enumerate(values)
        ],
        front=["t0"],
        best="",
        curves={
            f"t{n}": {"stage2": {"loss": Curve(steps=np.arange(1.0, last + 1), values=np.full(last, 0.7491 + n))}}
            for n, last in enumerate((5, 9))
        },
    )
    path = tmp_path_factory.mktemp("sweep") / "report.html"
    path.write_text(render(found), encoding="utf-8")
    return path


def test_chart_of_a_sweep_says_each_lines_last_value_under_the_step(browser: Page, sweep_page: Path) -> None:
    browser.open(sweep_page, width=390)
    parts = "[...document.querySelectorAll('[data-chart=\"stage2/loss\"] .legend > span')]"
    said = browser.run(f"{parts}.map(part => part.textContent)")
    assert said[0] == "last step of each" and said[1].endswith("0.7491") and said[2].endswith("1.749")
    step, first, second = browser.run(f"{parts}.map(part => [part.getBoundingClientRect().x, part.offsetTop])")
    assert step[0] == first[0] == second[0] and step[1] < first[1] < second[1]
    assert browser.run(f"{parts}.slice(1).every(part => part.lastChild.getClientRects().length == 1)")


def test_line_under_the_pointer_is_named_in_the_legend(browser: Page, sweep_page: Path) -> None:
    browser.open(sweep_page, width=1440)
    browser.run("document.querySelector('[data-chart]').scrollIntoView({behavior: 'instant'})")
    box = "document.querySelector('[data-chart] .u-over').getBoundingClientRect()"
    x, y, width = (browser.run(f"{box}.{side}") for side in ("x", "y", "width"))
    near = "[...document.querySelectorAll('[data-chart] .key.near')].map(key => key.textContent.slice(0, 2)).join()"
    assert browser.run(near) == ""
    browser.move(x + width / 4, y + 4)  # t1 is the upper one
    end = time.monotonic() + 5
    while not browser.run(near) and time.monotonic() < end:
        time.sleep(0.05)
    assert browser.run(near) == "t1"


def test_command_can_be_copied(browser: Page, pages: list[Path]) -> None:
    browser.open(pages[0], width=390)
    browser.run("document.querySelector('[data-copy]').click()")
    assert browser.run("getSelection().toString()").startswith("python jobs/x.py")
