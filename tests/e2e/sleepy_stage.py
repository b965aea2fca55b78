"""A driver of one stage whose model is a sleep, on the cluster at RAY_ADDRESS: `python -m sleepy_stage FOLDER`.

The folder holds the units' parent; the store is made in it. Each unit takes a while until the file `hurry` is there.
"""

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import ray

from stic_ray import storage
from stic_ray.artifacts import Artifact, Plan
from stic_ray.cluster import check_pool, connected
from stic_ray.config import Execution, Pool
from stic_ray.flow import Inputs, Outcome, Task, Work, read_image, run_stage
from stic_ray.leases import Lease
from stub_stage import Answer, Stub, read_names

PLAN = Plan(stage="answers", code_version=1, identity={}, kind="Answer")
MAX_ACTORS = 3
UNIT_S = 0.2
PARENT, STORE, LOG, HURRY = "parent", "store", "log", "hurry"
EXECUTION = Execution(
    pool=Pool(min_size=1, max_size=MAX_ACTORS, num_cpus=0.5, num_gpus=1),
    task_cpus=0.25,
    batch_size=8,
    rows_per_file=64,
)


class Sleeper:
    """Takes its time, and notes how many units it did on which node."""

    def __init__(self, *, folder: str) -> None:
        self._folder = Path(folder)
        self._node = ray.get_runtime_context().get_node_id()
        self._stub = Stub()

    def figures(self) -> Mapping[str, float]:
        """None."""
        return {}

    def __call__(self, tasks: Sequence[Task]) -> list[Outcome]:
        """One row a unit."""
        if not (self._folder / HURRY).exists():
            time.sleep(UNIT_S * len(tasks))
        with (self._folder / LOG).open("a") as file:
            file.write(f"{self._node} {len(tasks)}\n")
        return self._stub(tasks)


def main(folder: str) -> None:
    """Do the stage, and commit its artifact."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    store = storage.join(folder, STORE)
    inputs = Inputs(parent=Artifact(uri=storage.join(folder, PARENT), record={}), column="id", read=read_names)
    work = Work(
        record=Answer, input_column="id", prepare=read_image, worker=Sleeper, worker_arguments={"folder": folder}
    )
    with connected(), Lease(storage.join(store, PLAN.name), "sleepy"):
        check_pool(EXECUTION)
        run_stage(store=store, plan=PLAN, work=work, inputs=inputs, execution=EXECUTION)


if __name__ == "__main__":
    main(*sys.argv[1:])
