"""What the dashboard and the alerts ask Prometheus, and where Prometheus's own programs are."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster" / "monitoring"
_SELECTOR = re.compile(r"\b(?:ray_\w+|up)\b(?:\{[^}]*\})?")
_NEEDS_GPU = re.compile(r"^- Metrics that need a GPU: (.*?)(?=^- |\Z)", re.MULTILINE | re.DOTALL)


def program(name: str) -> str:
    """The path of `prometheus` or `promtool`; without it a test skips, except in CI, where it fails."""
    found = shutil.which(name)
    if found is None:
        reason = f"needs {name}, of Debian's package prometheus"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def panels() -> list[dict[str, Any]]:
    """The dashboard's panels, without the rows that head them."""
    dashboard = json.loads((CLUSTER / "grafana-dashboard.json").read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def alerts() -> dict[str, str]:
    """The alerts' expressions by name."""
    groups = yaml.safe_load((CLUSTER / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def expressions() -> dict[str, str]:
    """Everything that is asked, by where: the dashboard's variables stand for everything."""
    asked = {f"{panel['title']} {target['refId']}": target["expr"] for panel in panels() for target in panel["targets"]}
    return {where: re.sub(r"\$(?:run|stage)\b", ".*", text) for where, text in (asked | alerts()).items()}


def selectors(expression: str) -> set[str]:
    """The metrics that an expression selects, each with its labels."""
    bare = re.sub(r"\b(?:by|on|without|ignoring)\s*\([^)]*\)", "", expression)
    return set(_SELECTOR.findall(bare))


def name_of(selector: str) -> str:
    """A selector's metric."""
    return selector.partition("{")[0]


def needing_a_gpu() -> set[str]:
    """The metrics that docs/unverified.md lists as needing a GPU."""
    (listed,) = _NEEDS_GPU.findall((ROOT / "docs" / "unverified.md").read_text())
    return set(re.findall(r"`(ray_\w+)`", listed))
