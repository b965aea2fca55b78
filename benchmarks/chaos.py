"""Bar: SIGKILLs of everything while rows stream, to a local folder and to s3://, lose and double nothing.

    make bench NAME=chaos                       # about half an hour
    make bench NAME=chaos ARGS='--rows 2000 --kills 10'

A local Ray of four nodes; the driver, the actors, the engine's process of an actor and the raylets of nodes are killed
in a seeded order, each at a random moment after something new was written since the last one. A stage without a model
streams (its engine is a process that sleeps); some of its units kill whatever worker they are in, and must end as
rejects. What the kills spare is workers that have a suspect alone, since there a death is evidence. After each death of
the driver, and while it works, the artifact is read as anybody would.
"""

import argparse
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.cluster_utils import Cluster

from harness import Bar, write_results
from kill_rounds import children_of, descendants
from servers import make_bucket, s3_server
from stic_ray import artifacts, storage
from stic_ray.artifacts import Artifact, Plan
from stic_ray.cluster import connected
from stic_ray.config import Execution, Pool
from stic_ray.flow import Inputs, Work, read_image, run_stage
from stic_ray.leases import Lease
from stic_ray.ledger import POISON
from stic_ray.records import Found, make_id
from stub_stage import ENGINE_MARK, POISON_MARK, Answer, ProcessStub, read_names

KINDS = {"actor": 22, "engine": 18, "driver": 8, "raylet": 5}  # of 53 kills a place
NUM_POISON = 3
UNIT_S = 0.03
NODES = 3
_PAUSE_S = 2.0
_STEP_TIMEOUT_S = 90.0
PLAN = Plan(stage="answers", code_version=1, identity={}, kind="Answer")
EXECUTION = Execution(pool=Pool(min_size=1, max_size=3, num_cpus=0.5), task_cpus=0.25, batch_size=32, rows_per_file=64)
SYSTEM = {  # a dead node is noticed in a second or two, not in half a minute
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}
logger = logging.getLogger("chaos")


@dataclass
class Story:
    """What happened at one place."""

    kills: Counter[str] = field(default_factory=Counter)
    readings: int = 0
    double: int = 0
    unreadable: int = 0
    strange: int = 0
    seconds: float = 0.0


def parent_of(home: Path, num_rows: int) -> tuple[str, set[str], set[str]]:
    """A listing, its ids, and those of its units that kill their worker."""
    rows = []
    for n in range(num_rows):
        name = f"{n:07d}.{POISON_MARK}" if n % (num_rows // NUM_POISON) == num_rows // 7 else f"{n:07d}.jpg"
        rows.append(Found(id=make_id(name), key=name, uri=f"nowhere/{name}"))
    for start in range(0, num_rows, 512):
        artifacts.write_rows(str(home / "parent"), rows[start : start + 512], Found, [])
    poison = {row.id for row in rows if row.uri.endswith(POISON_MARK)}
    return str(home / "parent"), {row.id for row in rows}, poison


def drive(parent: str, store: str, log: str) -> None:
    """The driver: one stage on the cluster at RAY_ADDRESS."""
    work = Work(
        record=Answer,
        input_column="id",
        prepare=read_image,
        worker=ProcessStub,
        worker_arguments={"log": log, "unit_s": UNIT_S},
    )
    inputs = Inputs(parent=Artifact(uri=parent, record={}), column="id", read=read_names)
    with connected(), Lease(storage.join(store, PLAN.name), "chaos"):
        if artifacts.find(store, PLAN) is None:
            run_stage(store=store, plan=PLAN, work=work, inputs=inputs, execution=EXECUTION)


def look(uri: str, known: set[str], story: Story) -> None:
    """Read the unfinished artifact as anybody would, and count what is wrong."""
    for _ in range(20):
        try:
            found = [row.id for rows in artifacts.iterate(uri, Answer) for row in rows]
            break
        except FileNotFoundError:  # the commit removes what stands twice: look again
            time.sleep(0.2)
        except (pa.ArrowInvalid, OSError) as error:
            logger.error("unreadable: %s", error)
            story.unreadable += 1
            return
    else:
        story.unreadable += 1
        return
    story.readings += 1
    story.double += len(found) - len(set(found))
    story.strange += len(set(found) - known)


class Scene:
    """The cluster, and the driver at work on one place."""

    def __init__(self, parent: str, store: str, log: Path) -> None:
        self.uri = storage.join(store, PLAN.name)
        self._command = [sys.executable, __file__, "--parent", parent, "--store", store, "--log", str(log)]
        self._errors = log.with_suffix(".err")
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, **_node(), "include_dashboard": False, "_system_config": SYSTEM},
        )
        self.nodes = [self.cluster.add_node(num_cpus=1, **_node()) for _ in range(NODES)]
        ray.init(address=self.cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        self._driver: subprocess.Popen[bytes] | None = None

    def close(self) -> None:
        """End everything."""
        if self._driver is not None:
            self._driver.kill()
            self._driver.wait()
        ray.shutdown()
        self.cluster.shutdown()

    def driver(self) -> "subprocess.Popen[bytes]":
        """The driver, started where there is none."""
        if self._driver is None or self._driver.poll() is not None:
            if self._driver is not None and self._driver.returncode not in (0, -signal.SIGKILL):
                logger.warning("the driver ended with %s: %s", self._driver.returncode, self._last_words())
            environment = {**os.environ, "RAY_ADDRESS": self.cluster.address}
            with self._errors.open("ab") as errors:
                self._driver = subprocess.Popen(self._command, env=environment, stdout=errors, stderr=errors)
        return self._driver

    def _last_words(self) -> str:
        return self._errors.read_text(errors="replace")[-600:]

    def num_files(self) -> int:
        """Data files so far."""
        return len(artifacts.data_files(self.uri))

    def done(self) -> bool:
        """Whether the artifact is committed."""
        return storage.exists(storage.join(self.uri, artifacts.RECORD))

    def kill(self, kind: str, rng: random.Random) -> bool:
        """SIGKILL one of a kind that has no suspect alone; False where there is none."""
        if kind == "driver":
            driver = self.driver()
            driver.kill()
            driver.wait()
            return True
        spared = _isolating()
        if kind == "raylet":
            free = [node for node in self.nodes if spared.isdisjoint(descendants(_raylet(node)))]
            if not free:
                return False
            node = rng.choice(free)
            os.kill(_raylet(node), signal.SIGKILL)
            self.nodes.remove(node)
            with suppress(Exception):  # what is dead already cannot be asked to leave
                self.cluster.remove_node(node, allow_graceful=False)
            self.nodes.append(self.cluster.add_node(num_cpus=1, **_node()))
            return True
        actors = [pid for pid in _actors() if pid not in spared]
        engines = [child for pid in actors for child in children_of(pid) if ENGINE_MARK in _command_line(child)]
        chosen = actors if kind == "actor" else engines
        if not chosen:
            return False
        with suppress(ProcessLookupError):
            os.kill(rng.choice(sorted(chosen)), signal.SIGKILL)
            return True
        return False


def _node() -> dict[str, Any]:
    return {"object_store_memory": 150 * 1024**2}


def _raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _actors() -> list[int]:
    mine = descendants(os.getpid())
    return [pid for pid in mine if _command_line(pid).startswith("ray::MapWorker")]


def _isolating() -> set[int]:
    """The processes that have a suspect alone, as the ledgers of living drivers say."""
    found: set[int] = set()
    for entry in ray.util.list_named_actors(all_namespaces=True):
        if entry["name"].startswith("stic_ray-ledger-"):
            with suppress(ray.exceptions.RayError, ValueError):
                ledger = ray.get_actor(entry["name"], namespace=entry["namespace"])
                found |= {int(worker.partition("@")[0]) for worker in ray.get(ledger.isolating.remote(), timeout=5)}
    return found


def disturb(scene: Scene, known: set[str], kinds: list[str], rng: random.Random) -> Story:
    """Kill one after the other, then let the driver end."""
    story, started = Story(), time.monotonic()
    for kind in kinds:
        before, deadline = scene.num_files(), time.monotonic() + _STEP_TIMEOUT_S
        while scene.num_files() <= before and time.monotonic() < deadline and not scene.done():
            scene.driver()
            time.sleep(0.1)
        time.sleep(rng.uniform(0, _PAUSE_S))
        while not scene.done() and time.monotonic() < deadline:
            if scene.kill(kind, rng):
                story.kills[kind] += 1
                break
            time.sleep(0.1)
        if scene.done():
            break
        if kind == "driver" or story.kills.total() % 5 == 0:
            look(scene.uri, known, story)
        logger.info("%s: %s; %d files", kind, dict(story.kills), scene.num_files())
    while not scene.done():
        scene.driver()
        time.sleep(0.5)
    scene.driver().wait()
    look(scene.uri, known, story)
    story.seconds = time.monotonic() - started
    return story


def judge(uri: str, log: Path, known: set[str], poison: set[str], story: Story) -> dict[str, Any]:
    """What came out of one place."""
    rows = [row.id for rows in artifacts.iterate(uri, Answer) for row in rows]
    stored = Counter(
        key for file in artifacts.data_files(uri) for key in artifacts.read_file(file, ["id"]).column("id").to_pylist()
    )
    rejects = {reject.id: reject.reason for reject in artifacts.read_rejects(uri)}
    worked = sum(int(line) for line in log.read_text().split())
    return {
        "kills": dict(story.kills),
        "rows": len(rows),
        "lost": len(known - set(rows) - rejects.keys()),
        "double": story.double + sum(count - 1 for count in stored.values()) + len(set(rows) & rejects.keys()),
        "unreadable": story.unreadable,
        "strange": story.strange,
        "readings": story.readings,
        "innocent_rejects": len(rejects.keys() - poison),
        "poison_rejected": sum(rejects.get(key) == POISON for key in poison),
        "recomputed_share": worked / len(rows) - 1,
        "retried_units": artifacts.load(uri).record["retried_units"],
        "seconds": round(story.seconds, 1),
    }


def main() -> int:
    """Disturb both places; exit status 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=25_000, help="rows a place (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=sum(KINDS.values()), help="kills a place (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    for name in ("parent", "store", "log"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.parent:
        drive(arguments.parent, arguments.store, arguments.log)
        return 0
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logger.setLevel(logging.INFO)
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    with tempfile.TemporaryDirectory() as folder, s3_server(Path(folder) / "s3.log"):
        places = {"local": f"{folder}/store", "s3": f"{make_bucket()}/store"}
        return _run(Path(folder), places, arguments)


def _run(home: Path, places: dict[str, str], arguments: argparse.Namespace) -> int:
    rng = random.Random(arguments.seed)
    parent, known, poison = parent_of(home, arguments.rows)
    found = {}
    for place, store in places.items():
        kinds = [kind for kind, count in KINDS.items() for _ in range(count)]
        rng.shuffle(kinds)
        scene = Scene(parent, store, home / f"{place}.worked")
        try:
            story = disturb(scene, known, kinds[: arguments.kills], rng)
            found[place] = judge(scene.uri, home / f"{place}.worked", known, poison, story)
        finally:
            scene.close()
        logger.info("%s: %s", place, found[place])
    bars = [Bar("kills", float(sum(sum(one["kills"].values()) for one in found.values())), 100.0, "min")]
    for place, one in found.items():
        bars.append(Bar(f"{place}: rows", float(one["rows"] + one["poison_rejected"]), 20_000.0, "min"))
        bars += [
            Bar(f"{place}: {name}", float(one[name]), 0.0, "max")
            for name in ("lost", "double", "unreadable", "strange", "innocent_rejects")
        ]
        bars.append(Bar(f"{place}: poison found out", float(one["poison_rejected"]), float(len(poison)), "min"))
    return write_results("chaos", {"seed": arguments.seed, **found}, bars)


if __name__ == "__main__":
    sys.exit(main())
