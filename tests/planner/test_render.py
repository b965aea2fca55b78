"""What a plan looks like in a terminal and on a page."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from stic_ray.planner import render
from stic_ray.planner.clusters import Cluster
from stic_ray.planner.planning import Setting, make_plan, scale
from stic_ray.planner.rates import Rates, rates_of_runs
from tests.planner.small_run import embedded, make_run

_INPUTS = {"images": 960.0, "questions": 1000.0}
_GPUS = ("execution.pool.num_gpus=1", "execution.train_gpus=1")


@pytest.fixture
def rates(tmp_path: Path) -> Rates:
    return rates_of_runs([make_run(tmp_path / "a", start_s=9.0), make_run(tmp_path / "b", start_s=11.0)])


def test_figures_are_rounded_as_their_intervals_are(rates: Rates) -> None:
    cluster = Cluster(cpus=8.0, gpus=2.0, gpu="H100", node_hour_price=1.0)
    told = render.text(make_plan(Setting(config=embedded(*_GPUS), cluster=cluster), rates, _INPUTS), [], [])
    for name in ("GPU hours", "money"):
        found = re.search(rf"^{name} +(\d+\.\d\d) \((\d+\.\d\d) to (\d+\.\d\d)\)$", told, re.MULTILINE)
        assert found is not None
        value, low, high = map(float, found.groups())
        assert low <= value <= high


def test_where_it_stops_the_simulated_settings_are_told(rates: Rates) -> None:
    config = embedded("execution.pool.max_size=3")
    found = scale(Setting(config=config, cluster=Cluster(cpus=2.0)), rates, {**_INPUTS, "images": 9600.0}, [1, 4, 1000])
    plan = make_plan(Setting(config=config, cluster=Cluster(cpus=2.0)), rates, _INPUTS)
    told = render.text(plan, [], found).splitlines()[-1]
    assert "beyond 4 nodes twice as many save less than a quarter" in told
    took = "execution.pool.max_size=8 (now 3) and execution.num_train_workers=4 (now 1)"
    assert told.endswith(f"on 4 nodes it was simulated with {took}")
    one = render.text(plan, [], [replace(found[1], nodes=1, plan=plan), found[2]]).splitlines()[-1]
    assert one.endswith("execution.pool.max_size=2 (now 3) and execution.num_train_workers=1 (as now)")


def test_page_is_as_wide_as_its_tables_and_charts_time_from_0(rates: Rates) -> None:
    setting = Setting(config=embedded(), cluster=Cluster(cpus=2.0))
    page = render.page(make_plan(setting, rates, _INPUTS), [], scale(setting, rates, _INPUTS, [1, 2, 4]))
    assert "body{max-width:1280px}" in page
    assert page.count("<table>") == page.count('<div class="scroll"><table>') == 3
    chart = page.partition('aria-label="minutes by nodes"')[2].partition("</svg>")[0]
    assert '<text class="end" x="38" y="167.5">0</text>' in chart
