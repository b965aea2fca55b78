"""The dashboard, the alerts and the runbook agree with each other and with the metrics that there are."""

import json
import re
import subprocess
from typing import Any

import pytest
import yaml
from promql import CLUSTER, ROOT, alerts, expressions, name_of, needing_a_gpu, panels, program, selectors
from ray.util.metrics import Counter

from stic_ray.metrics import ALL

_RUNBOOK = (ROOT / "docs" / "operations.md").read_text()
_EXPORTED = {f"ray_{metric.name}{'_total' if metric.kind is Counter else ''}" for metric in ALL}


def _promtool(*arguments: str) -> None:
    done = subprocess.run([program("promtool"), *arguments], cwd=CLUSTER, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_scrape_configuration_and_the_alerts() -> None:
    _promtool("check", "config", "prometheus.yml")
    _promtool("check", "rules", "alerts.yml")


def test_alerts_fire_when_they_should_and_only_then() -> None:
    _promtool("test", "rules", "alerts-test.yml")


def test_every_alert_is_seen_to_fire_and_not_to_fire() -> None:
    tests = yaml.safe_load((CLUSTER / "alerts-test.yml").read_text())["tests"]
    asserted = [test for each in tests for test in each["alert_rule_test"]]
    quiet = {test["alertname"] for test in asserted if not test["exp_alerts"]}
    # What another series of the same test does not fire counts as well.
    quiet |= {test["alertname"] for each in tests for test in each["alert_rule_test"] if len(each["input_series"]) > 2}
    assert {test["alertname"] for test in asserted if test["exp_alerts"]} == alerts().keys() == quiet


def test_metrics_of_ours_are_shown_and_those_shown_are_there() -> None:
    asked = {name_of(selector) for text in expressions().values() for selector in selectors(text)}
    assert {name for name in asked if name.startswith("ray_stic_ray_")} == _EXPORTED


def test_metrics_that_need_a_gpu_are_asked_for() -> None:
    asked = {name_of(selector) for text in expressions().values() for selector in selectors(text)}
    assert needing_a_gpu() and needing_a_gpu() <= asked


@pytest.mark.parametrize("name", alerts())
def test_every_alert_has_its_section_in_the_runbook(name: str) -> None:
    (section,) = re.findall(rf"^### {name}\n(.*?)(?=^##|\Z)", _RUNBOOK, re.MULTILINE | re.DOTALL)
    assert "Means:" in section and "Do:" in section


def test_every_panel_is_in_the_runbook() -> None:
    assert [panel["title"] for panel in panels() if f"| {panel['title']} |" not in _RUNBOOK] == []


def test_dashboard_is_whole() -> None:
    """What Grafana's import looks at: it was not opened in one."""
    dashboard = json.loads((CLUSTER / "grafana-dashboard.json").read_text())
    assert {"title", "uid", "schemaVersion", "templating", "panels", "time"} <= dashboard.keys()
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["datasource", "run", "stage"]
    every = dashboard["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    for panel in panels():
        assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"] and panel["targets"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
    _check_places(every)


def _check_places(every: list[dict[str, Any]]) -> None:
    """No two panels on one place of the grid, and none beyond its 24 columns."""
    taken: set[tuple[int, int]] = set()
    for panel in every:
        place = panel["gridPos"]
        cells = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
        assert not cells & taken and place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells


def test_pod_monitor_has_the_operators_fields() -> None:
    """Names by the operator's API reference (monitoring.coreos.com/v1)."""
    monitor = yaml.safe_load((CLUSTER / "podmonitor.yaml").read_text())
    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "PodMonitor")
    assert monitor["spec"].keys() == {"selector", "podMetricsEndpoints"}
    for endpoint in monitor["spec"]["podMetricsEndpoints"]:
        assert endpoint.keys() == {"port", "interval", "relabelings"}
        assert all(each.keys() <= {"sourceLabels", "targetLabel", "replacement"} for each in endpoint["relabelings"])
    scraped = yaml.safe_load((CLUSTER / "prometheus.yml").read_text())
    assert {each["interval"] for each in monitor["spec"]["podMetricsEndpoints"]} == {
        scraped["global"]["scrape_interval"]
    }


def test_alerts_become_a_rule_of_the_operator_as_the_runbook_says() -> None:
    (command,) = re.findall(r"^\{ printf .*?; \} \| kubectl apply -f -$", _RUNBOOK, re.MULTILINE | re.DOTALL)
    written = subprocess.run(
        ["bash", "-c", command.removesuffix(" | kubectl apply -f -")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    rule = yaml.safe_load(written.stdout)
    assert rule["kind"] == "PrometheusRule"
    assert rule["spec"] == yaml.safe_load((CLUSTER / "alerts.yml").read_text())
