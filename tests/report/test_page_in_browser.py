"""report.html in a real browser, from disk and offline; skipped where no Chromium is installed, but in CI."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stic_ray.report import command
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


def test_command_can_be_copied(browser: Page, pages: list[Path]) -> None:
    browser.open(pages[0], width=390)
    browser.run("document.querySelector('[data-copy]').click()")
    assert browser.run("getSelection().toString()").startswith("python jobs/x.py")
