"""Joining the Ray cluster that the job was submitted to, or starting a local one that ends with this process."""

import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import ray
import ray.data

from stic_ray.config import Execution
from stic_ray.stopping import answer_kept

logger = logging.getLogger(__name__)
_LOCAL_OBJECT_STORE_BYTES = 500_000_000
_HOST_PORT = re.compile(r"\[?(?P<host>[^/]+?)\]?:(?P<port>\d+)")
_CONNECT_S = 5.0
# Ray ends an idle worker where actors hold all cores, and the next task waits for a new one to import everything.
_IDLE_WORKERS = max(8, os.cpu_count() or 1)


@contextmanager
def connected() -> Iterator[None]:
    """A connection to Ray, closed at the end; ValueError when there is no cluster at RAY_ADDRESS.

    Ray itself reads RAY_ADDRESS, which a submitted job has; without it a cluster of this process's own is started,
    never another one of the machine joined by chance.
    """
    if ray.is_initialized():
        yield
        return
    for noisy in ("ray", "ray.data", "ray.train"):  # what fails is raised too
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    if "RAY_ADDRESS" in os.environ:
        _join(os.environ["RAY_ADDRESS"])
    else:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # workers share the cores: idle threads must sleep
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # it takes one checkpoint each time
        with answer_kept():
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=_LOCAL_OBJECT_STORE_BYTES,
                _system_config={"num_workers_soft_limit": _IDLE_WORKERS},
            )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # ours count units and rejects
    try:
        yield
    finally:
        ray.shutdown()


def check_pool(execution: Execution) -> None:
    """Whether the actors that a run starts with find room, and one of them on a node: else it would wait for ever.

    A cluster that was joined may still grow, so that there it is only said.

    Raises:
        ValueError: this machine, where Ray was started for this run alone, can never offer it.
    """
    pool = execution.pool
    _check(
        {
            ("execution.pool.min_size x num_cpus + task_cpus", "CPU"): pool.min_size * pool.num_cpus
            + execution.task_cpus,
            ("execution.pool.min_size x num_gpus", "GPU"): pool.min_size * pool.num_gpus,
        }
    )
    _check_node("execution.pool", {"CPU": pool.num_cpus, "GPU": pool.num_gpus})


def check_training(execution: Execution) -> None:
    """As `check_pool` of what a training asks for at once.

    Raises:
        ValueError: as `check_pool`.
    """
    fewest = execution.min_train_workers
    name = "num_train_workers" if fewest is None else "min_train_workers"
    workers = execution.num_train_workers if fewest is None else fewest
    _check(
        {
            (f"execution.{name} x train_cpus", "CPU"): workers * execution.train_cpus,
            (f"execution.{name} x train_gpus", "GPU"): workers * execution.train_gpus,
        }
    )
    _check_node("execution.train_*", {"CPU": execution.train_cpus, "GPU": execution.train_gpus})


def _check(asked: Mapping[tuple[str, str], float]) -> None:
    have = ray.cluster_resources()
    for (fields, kind), need in asked.items():
        if need > have.get(kind, 0.0):
            _lacks(f"{fields} asks for {need:g} {kind}s at once, and there are {have.get(kind, 0.0):g}")


def _check_node(fields: str, need: Mapping[str, float]) -> None:
    """An actor or a worker is never split over nodes."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(kind, 0.0) >= amount for kind, amount in need.items()) for node in nodes):
        wanted = " and ".join(f"{amount:g} {kind}s" for kind, amount in need.items() if amount)
        _lacks(f"{fields} asks for {wanted} on one node, and no node has them")


def _lacks(story: str) -> None:
    if "RAY_ADDRESS" not in os.environ:
        raise ValueError(f"{story} on this machine: lower it, or set RAY_ADDRESS to a cluster that has them")
    logger.warning("%s in the cluster now: waiting until nodes that have them join", story)


def _join(address: str) -> None:
    try:
        _knock(address)
        with answer_kept():
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError) as error:
        why = "an http address is for ray job submit" if address.startswith("http") else str(error).partition("\n")[0]
        raise ValueError(
            f"RAY_ADDRESS {address}: no cluster can be joined there ({why}): give the head's address, like HOST:6379, "
            "or unset it to start a local Ray"
        ) from None


def _knock(address: str) -> None:
    """Raises OSError when nobody answers at HOST:PORT, which Ray would try again for more than two minutes."""
    found = _HOST_PORT.fullmatch(address)
    if found:
        socket.create_connection((found["host"], int(found["port"])), timeout=_CONNECT_S).close()
