"""The files of cluster/: read as their tools read them, and the schemas that hold them."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from stic_ray import recipes
from stic_ray.config import Execution, parse_config, read_yaml

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"


def read(name: str) -> dict[str, Any]:
    """A YAML file of cluster/ with one document."""
    (document,) = read_all(name)
    return document


def read_all(name: str) -> list[dict[str, Any]]:
    """The documents of a YAML file of cluster/."""
    return list(yaml.safe_load_all((CLUSTER / name).read_text()))


def pins(path: Path) -> dict[str, str]:
    """The versions of a constraints file by normalised name."""
    lines = (line.partition("==") for line in path.read_text().splitlines() if not line.startswith("#"))
    return {name.lower().replace("_", "-"): version for name, _, version in lines}


def check(value: Any, schema: str) -> None:
    """Raises jsonschema.ValidationError unless a value is as a schema beside this file wants it."""
    wanted = json.loads((Path(__file__).parent / schema).read_text())
    jsonschema.Draft202012Validator.check_schema(wanted)
    jsonschema.Draft202012Validator(wanted).validate(value)


def find_tool(name: str) -> str:
    """A linter's path: beside this Python or on PATH. Without it a test skips, except in CI, where it fails."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        reason = f"needs {name}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def execution() -> Execution:
    """How the run of cluster/run.yaml uses a cluster."""
    return parse_config(recipes.expand(read_yaml((CLUSTER / "run.yaml").read_text(), "run.yaml")), []).execution


def pools(config: dict[str, Any]) -> dict[str, dict[str, int]]:
    """The worker pools of what Ray's autoscaler reads: fewest and most nodes, and what one has."""
    return {
        name: {
            "min": kind["min_workers"],
            "max": kind["max_workers"],
            **{resource: kind["resources"].get(resource, 0) for resource in ("CPU", "GPU", "driver")},
        }
        for name, kind in config["available_node_types"].items()
        if name != config["head_node_type"]
    }


def pools_problem(config: dict[str, Any], run: Execution) -> str:
    """What keeps a run with these settings from finding room in what Ray's autoscaler reads; "" when nothing does."""
    gpus = {name: pool for name, pool in pools(config).items() if pool["GPU"]}
    first = [pool for pool in pools(config).values() if pool["driver"]]
    if not first or not all(pool["min"] >= 1 and not pool["GPU"] for pool in first):
        return "no pool without GPUs that always has a node offers `driver`"
    if any(pool["CPU"] < 1 + run.task_cpus for pool in first):
        return "the driver and a task do not fit on one node"
    if any(pool["min"] for pool in gpus.values()):
        return "a GPU node stays when nobody asks for it"
    most = max(run.pool.num_cpus, run.train_cpus)
    if any(pool["CPU"] < most for pool in gpus.values()):
        return f"a GPU node has fewer than the {most:g} cores that an actor or a training's worker asks for"
    if any(pool["GPU"] < max(run.pool.num_gpus, run.train_gpus) for pool in gpus.values()):
        return "an actor or a training's worker asks for more GPUs than a node has"
    if sum(pool["max"] * pool["GPU"] for pool in gpus.values()) < run.pool.max_size * run.pool.num_gpus:
        return "the pool may grow beyond the GPUs of all nodes"
    lasting = sum(pool["max"] * pool["GPU"] for name, pool in gpus.items() if "spot" not in name)
    if lasting < run.num_train_workers * run.train_gpus:
        return "a training does not fit on the nodes that no cloud takes back"
    return ""
