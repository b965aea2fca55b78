"""A stage on a cluster that begins without a GPU: it grows with the pool, mends the loss of a node, and shrinks."""

import logging
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fake_cloud import Cloud, start_cloud
from heads import wait
from sleepy_stage import HURRY, LOG, MAX_ACTORS, PARENT, PLAN, STORE

from stic_ray import artifacts
from stic_ray.records import Found, make_id
from stub_stage import Answer

pytestmark = pytest.mark.slow

_NUM_UNITS = 2000  # almost seven minutes of one actor: far more than it takes to grow
_END_TIMEOUT_S = 180.0
logger = logging.getLogger(__name__)


@contextmanager
def _driver(cloud: Cloud, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    rows = [Found(id=make_id(n), key=str(n), uri=f"nowhere/{n}") for n in range(_NUM_UNITS)]
    artifacts.write_rows(str(folder / PARENT), rows, Found, [])
    with (folder / "driver.log").open("wb") as said:
        command = [sys.executable, "-m", "sleepy_stage", str(folder)]
        driver = subprocess.Popen(command, env=cloud.environment, stdout=said, stderr=said)
    try:
        yield driver
    finally:
        driver.kill()
        driver.wait()


def _units_by_node(folder: Path) -> Counter[str]:
    done: Counter[str] = Counter()
    if (folder / LOG).exists():
        for line in (folder / LOG).read_text().splitlines():
            node, count = line.split()
            done[node] += int(count)
    return done


def test_pool_grows_from_no_node_to_three_survives_the_loss_of_one_and_leaves_none(tmp_path: Path) -> None:
    with start_cloud(MAX_ACTORS) as cloud:
        assert cloud.num_nodes() == 0
        with _driver(cloud, tmp_path) as driver:

            def story() -> str:
                said = (tmp_path / "driver.log").read_text(errors="replace")[-3000:]
                return f"driver: {driver.poll()}; {cloud.story()}; units by node: {_units_by_node(tmp_path)}; {said}"

            def goes_on() -> bool:
                return driver.poll() is None

            wait(lambda: len(_units_by_node(tmp_path)) == MAX_ACTORS == cloud.num_nodes(), story, goes_on)
            lost = cloud.oldest_node()
            cloud.take_away(lost)
            wait(lambda: lost not in cloud.looks()[-1].nodes, story, goes_on)
            wait(lambda: cloud.num_nodes() == MAX_ACTORS, story, goes_on)
            (tmp_path / HURRY).touch()
            assert driver.wait(_END_TIMEOUT_S) == 0, story()
        wait(lambda: cloud.num_nodes() == 0, story)
        seen = cloud.story()
    made = artifacts.find(str(tmp_path / STORE), PLAN)
    assert made is not None
    assert sorted(row.id for row in artifacts.read(made.uri, Answer)) == sorted(make_id(n) for n in range(_NUM_UNITS))
    assert artifacts.read_rejects(made.uri) == []
    assert made.record["inputs"] == _NUM_UNITS
    worked, retried = _units_by_node(tmp_path), made.record["retried_units"]
    logger.info("%s; units by node: %s; %s retried", seen, dict(worked), retried)
