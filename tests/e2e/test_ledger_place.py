"""Where the ledger of a run stands on several nodes: with the driver, so that no other node's loss takes it along."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from e2e_project import ROOT
from ray.cluster_utils import Cluster

pytestmark = pytest.mark.slow

_STORE_BYTES = 100 * 1024**2
_TIMEOUT_S = 120.0
_DRIVER = """
import ray
from ray._private.state import actors
from stic_ray.ledger import open_book

ray.init()
kept = [open_book("responses-0", f"run {n}") for n in range(6)]
here = ray.get_runtime_context().get_node_id()
print([actor["Address"]["NodeID"] == here for actor in actors().values()])
"""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head and two nodes more."""
    node = {"num_cpus": 1, "object_store_memory": _STORE_BYTES}
    made = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        for _ in range(2):
            made.add_node(**node)
        yield made
    finally:
        made.shutdown()


def test_ledgers_of_a_driver_stand_on_its_node(cluster: Cluster) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER],
        cwd=ROOT,
        env={**os.environ, "RAY_ADDRESS": cluster.address},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == str([True] * 6)
