"""A stage whose engines only sleep, on nodes of one machine that are killed or not, beside what the planner simulates.

Every node has one slot (a fake GPU) and one core; the head has a core and no slot. A node is killed at no particular
moment of its batch, and replaced at once. What a slot takes for a unit, what the stage takes whatever it does, and how
long a lost node's slot is away are measured on one node, before.
"""

import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from ray.cluster_utils import Cluster

from stic_ray import artifacts, storage
from stic_ray.artifacts import Artifact, Plan
from stic_ray.cluster import connected
from stic_ray.config import Execution, Pool
from stic_ray.flow import Inputs, Outcome, Task, Work, read_image, run_stage
from stic_ray.leases import Lease
from stic_ray.planner.simulate import Batches, Nodes, run_batches
from stic_ray.records import Found, make_id
from stub_stage import Answer, Stub, read_names

NODES = (1, 2, 4)
UNIT_S = 0.05
BATCH = 32
ROWS_PER_FILE = 64
WORK_S = 24.0  # of every node's slot, in a leg
KILLS_AT = (0.3, 0.6)  # of a leg's units, when so many are done
_STORE_BYTES = 100 * 1024**2
_READY_S = 120.0
_HEALTH = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}
PLAN = Plan(stage="answers", code_version=1, identity={}, kind="Answer")
logger = logging.getLogger("plan")


class Sleeper:
    """A worker that sleeps, and notes when it was done with how many.

    The first ones wait for each other: they start on the cores of one machine, which nodes of a cluster do not share.
    """

    def __init__(self, *, log: str, nodes: int) -> None:
        self._log = Path(log)
        self._stub = Stub()
        (self._log.parent / f"ready-{os.getpid()}").touch()
        deadline = time.monotonic() + _READY_S
        while len(list(self._log.parent.glob("ready-*"))) < nodes and time.monotonic() < deadline:
            time.sleep(0.02)

    def figures(self) -> Mapping[str, float]:
        """None."""
        return {}

    def __call__(self, tasks: Sequence[Task]) -> list[Outcome]:
        """One row a unit."""
        time.sleep(UNIT_S * len(tasks))
        with self._log.open("a") as file:
            file.write(f"{time.time()} {len(tasks)} {os.getpid()}\n")
        return self._stub(tasks)


def drive(folder: str, nodes: str) -> None:
    """The driver: the stage in a folder on the cluster at RAY_ADDRESS."""
    store = storage.join(folder, "store")
    execution = Execution(
        pool=Pool(min_size=int(nodes), max_size=int(nodes), num_cpus=0.5, num_gpus=1),
        task_cpus=0.25,
        batch_size=BATCH,
        rows_per_file=ROWS_PER_FILE,
    )
    work = Work(
        record=Answer,
        input_column="id",
        prepare=read_image,
        worker=Sleeper,
        worker_arguments={"log": storage.join(folder, "log"), "nodes": int(nodes)},
    )
    inputs = Inputs(parent=Artifact(uri=storage.join(folder, "parent"), record={}), column="id", read=read_names)
    with connected(), Lease(storage.join(store, PLAN.name), "plan"):
        Path(folder, "begun").write_text(str(time.time()))
        run_stage(store=store, plan=PLAN, work=work, inputs=inputs, execution=execution)


class Done(NamedTuple):
    """When how many units were done, and by which process."""

    when: float
    units: int
    pid: int

    def begun(self) -> float:
        """When they were begun."""
        return self.when - UNIT_S * self.units


@dataclass(frozen=True, kw_only=True)
class Leg:
    """What was measured: units, seconds, when nodes were killed, and what workers have done."""

    units: int
    seconds: float
    span_s: float
    worked_s: float
    kills: tuple[float, ...]
    done: tuple[Done, ...]


class Scene:
    """Nodes of this machine."""

    def __init__(self, count: int) -> None:
        head = {"num_cpus": 1, "object_store_memory": _STORE_BYTES, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args={**head, "_system_config": _HEALTH})
        self._nodes = [self._add() for _ in range(count)]

    def _add(self) -> Any:
        return self._cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=_STORE_BYTES)

    def close(self) -> None:
        """End all of them."""
        self._cluster.shutdown()

    def replace(self, number: int) -> None:
        """Kill a node, and add another one."""
        node = self._nodes.pop(number)
        os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
        self._nodes.append(self._add())
        with suppress(Exception):  # what is dead already cannot be asked to leave
            self._cluster.remove_node(node, allow_graceful=False)

    def run(self, units: int, kills_at: Sequence[float], rng: random.Random) -> Leg:
        """The stage of so many units; nodes are killed when these shares of them are done."""
        with tempfile.TemporaryDirectory() as folder:
            _write_parent(Path(folder), units)
            environment = {**os.environ, "RAY_ADDRESS": self._cluster.address}
            with Path(folder, "driver.log").open("wb") as said:
                command = [sys.executable, __file__, folder, str(len(self._nodes))]
                driver = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
            try:
                begun, kills = _begun(Path(folder), driver), []
                for share in kills_at:
                    while sum(each.units for each in _read_log(Path(folder))) < share * units:
                        if driver.poll() is not None:
                            raise RuntimeError(Path(folder, "driver.log").read_text(errors="replace")[-3000:])
                        time.sleep(0.02)
                    time.sleep(rng.uniform(0, UNIT_S * BATCH))
                    kills.append(time.time() - begun)
                    self.replace(rng.randrange(len(self._nodes)))
                if driver.wait(600):
                    raise RuntimeError(Path(folder, "driver.log").read_text(errors="replace")[-3000:])
            finally:
                driver.kill()
                driver.wait()
            record = artifacts.load(storage.join(folder, "store", PLAN.name)).record
            return Leg(
                units=units,
                seconds=record["seconds"],
                span_s=record["span_s"],
                worked_s=record["worked_s"],
                kills=tuple(kills),
                done=tuple(each._replace(when=each.when - begun) for each in _read_log(Path(folder))),
            )


def _write_parent(folder: Path, units: int) -> None:
    rows = [Found(id=make_id(n), key=str(n), uri=f"nowhere/{n}") for n in range(units)]
    for start in range(0, units, 512):
        artifacts.write_rows(str(folder / "parent"), rows[start : start + 512], Found, [])


def _read_log(folder: Path) -> list[Done]:
    """What workers have done, in the order of time."""
    log = folder / "log"
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return sorted(Done(float(line[0]), int(line[1]), int(line[2])) for line in lines if len(line) == 3)


def _begun(folder: Path, driver: "subprocess.Popen[bytes]") -> float:
    while not (folder / "begun").exists() or not (folder / "begun").read_text():
        if driver.poll() is not None:
            raise RuntimeError((folder / "driver.log").read_text(errors="replace")[-3000:])
        time.sleep(0.02)
    return float((folder / "begun").read_text())


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the simulation is told: seconds of the start, of a unit, and that a lost node's slot is away."""

    start_s: float
    unit_s: float
    away_s: float


def calibrate(work_s: float) -> Measured:
    """On one node, without kills and with some."""
    rng = random.Random(0)
    scene = Scene(1)
    try:
        units = round(work_s / UNIT_S)
        scene.run(BATCH, (), rng)  # files are in memory
        plain = scene.run(units, (), rng)
        killed = scene.run(units, (0.25, 0.5, 0.75), rng)
    finally:
        scene.close()
    return Measured(start_s=plain.seconds - plain.span_s, unit_s=plain.worked_s / plain.units, away_s=_away(killed))


def _away(leg: Leg) -> float:
    """How long a killed node's slot had no worker, the median of the leg's kills. A worker outlives its raylet for a
    moment, so it counts what another process begins."""
    waits = []
    for kill in leg.kills:
        before = {each.pid for each in leg.done if each.begun() <= kill}
        waits.append(min(each.begun() for each in leg.done if each.pid not in before) - kill)
    return median(waits)


def simulated(measured: Measured, nodes: int, leg: Leg, rng: random.Random) -> float:
    """What the planner says of a leg: seconds from the first unit in a worker to the last out of one."""
    stage = Batches(
        units=leg.units,
        batch=BATCH,
        batch_s=measured.unit_s * BATCH,
        slots_per_node=1,
        start_s=measured.start_s,
        slot_start_s=measured.away_s,
        held_units=ROWS_PER_FILE / 2 / nodes,
    )
    began = min(each.begun() for each in leg.done)
    kills = [(measured.start_s + when - began, rng.randrange(nodes)) for when in leg.kills]
    outcome = run_batches(stage, Nodes(count=nodes, standing=nodes), iter(kills))
    return outcome.seconds - measured.start_s


def compare(rounds: int, work_s: float = WORK_S) -> dict[str, Any]:
    """Units a second, measured and simulated, of every leg; medians over the rounds.

    They are those between the first unit in a worker and the last out of one: nodes of one machine start their workers
    on the same cores, which no cluster does.
    """
    measured = calibrate(work_s)
    logger.info("nodes: %s", measured)
    legs: dict[str, list[dict[str, float]]] = {}
    for number in range(rounds):
        for nodes in NODES:
            rng = random.Random(number)
            scene = Scene(nodes)
            try:
                scene.run(BATCH * nodes, (), rng)
                for kills in ((), KILLS_AT):
                    units = round(work_s / UNIT_S) * nodes
                    leg = scene.run(units, kills, rng)
                    planned = simulated(measured, nodes, leg, random.Random(number))
                    found = {"measured": leg.units / leg.span_s, "simulated": leg.units / planned}
                    found |= {"seconds": leg.seconds, "span_s": leg.span_s, "simulated_s": planned}
                    name = f"{nodes} nodes, {len(leg.kills)} kills"
                    legs.setdefault(name, []).append(found)
                    logger.info("%s: %s", name, found)
            finally:
                scene.close()
    return {
        "calibration": vars(measured),
        "legs": {
            name: {
                "measured": median(one["measured"] for one in found),
                "simulated": median(one["simulated"] for one in found),
                "ratio": median(one["simulated"] / one["measured"] for one in found),
                "rounds": found,
            }
            for name, found in legs.items()
        },
    }


if __name__ == "__main__":
    if len(sys.argv) == 3:
        logging.basicConfig(level=logging.WARNING)
        drive(*sys.argv[1:])
    else:
        print(json.dumps(compare(1, 10.0), indent=1))
