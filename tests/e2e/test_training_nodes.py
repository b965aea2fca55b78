"""A training on two nodes that loses one goes on with the other."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from e2e_project import Project
from ray.cluster_utils import Cluster

from stic_ray.train.job import METRICS

pytestmark = pytest.mark.slow

_STEPS = 120
_SETTINGS = ("stage2=null", f"stage1.steps={_STEPS}", "execution.checkpoint_every=5", "execution.train_cpus=1")
_STORE_BYTES = 100 * 1024**2
_HEALTH = {  # a dead node is noticed in seconds, not in half a minute
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}
_TIMEOUT_S = 240.0


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head and another node, a core each."""
    head = {"num_cpus": 1, "object_store_memory": _STORE_BYTES, "include_dashboard": False, "_system_config": _HEALTH}
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield made
    finally:
        made.shutdown()


def _losses(project: Project) -> list[float]:
    found = [
        [json.loads(line)["loss"] for line in (stage / METRICS).read_text().splitlines()]
        for stage in project.store.glob("stage1-*")
    ]
    return next(losses for losses in found if len(losses) == _STEPS)


def _record(project: Project) -> dict[str, Any]:
    records = [json.loads((stage / "record.json").read_text()) for stage in project.store.glob("stage1-*")]
    return next(record for record in records if record["steps"] == _STEPS)


def _step(project: Project) -> int:
    for progress in project.store.glob("stage1-*/progress.json"):
        with suppress(OSError, ValueError):
            return int(json.loads(progress.read_text())["done"])
    return 0


def test_training_that_loses_a_node_goes_on_with_one_worker(
    finished: Project, tmp_path: Path, cluster: Cluster
) -> None:
    """The global batch stays: losses are those of one worker all along, to 1e-4 (other orders of sums)."""
    alone, shrinking = (finished.copy(tmp_path / name) for name in ("alone", "shrinking"))
    alone.finish(*_SETTINGS)
    node = cluster.add_node(num_cpus=1, object_store_memory=_STORE_BYTES)
    environment = {
        **os.environ,
        "RAY_ADDRESS": cluster.address,
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    }
    workers = ("execution.num_train_workers=2", "execution.min_train_workers=1")
    with (tmp_path / "log").open("wb") as log:
        driver = subprocess.Popen(
            shrinking.command(*_SETTINGS, *workers), cwd=shrinking.home, env=environment, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + _TIMEOUT_S
        while _step(shrinking) < 20:
            assert driver.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()[-3000:]
            time.sleep(0.02)
        os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
        assert driver.wait(_TIMEOUT_S) == 0, (tmp_path / "log").read_text()[-3000:]
    finally:
        driver.kill()
        driver.wait()
        with suppress(Exception):  # what is dead already cannot be asked to leave
            cluster.remove_node(node, allow_graceful=False)
    attempts = _record(shrinking)["attempts"]
    assert [attempt["workers"] for attempt in attempts] == [2, 1]
    assert 0 < attempts[1]["step"] < _STEPS
    assert _losses(shrinking) == pytest.approx(_losses(alone), abs=1e-4)
    shutil.rmtree(shrinking.store)
