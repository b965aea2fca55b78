"""What a run is planned on: nodes, what each has, what it costs, how often it is lost."""

import os
from dataclasses import dataclass

from stic_ray import storage
from stic_ray.config import parse_settings, read_yaml
from stic_ray.config.checks import require

# GiB of memory by kind of GPU, as their vendor gives it.
GPU_GIB = {
    "A10G": 24,
    "A100-40GB": 40,
    "A100-80GB": 80,
    "B200": 180,
    "H100": 80,
    "H200": 141,
    "L4": 24,
    "L40S": 48,
    "RTX4090": 24,
    "T4": 16,
    "V100-16GB": 16,
    "V100-32GB": 32,
}
_DRIVER_S = 0.025  # benchmarks/control_plane.py: 24 s for 977 batches of light rows through Ray Data, on two cores
_DETECT_S = 30.0  # Ray's own health checks


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """`nodes` alike, each with `cpus` cores and `gpus` GPUs of a kind (`gpu`), whose memory `gpu_gib` says where the
    kind is not known here.

    `node_hour_price` is what a node costs an hour, whatever it does; null leaves money out. Of `nodes` at least
    `min_nodes` stand all the time (null: all of them); the others are asked for by the stages that use them and stand
    `start_delay_s` later. A node is lost `failures_per_hour` times an hour, preemptions of spot nodes included; that is
    noticed after `detect_s`, and another one stands `start_delay_s` later. With `notice` trainings save first.

    Shared by all nodes: `storage_gb_s` from where images, artifacts and weights are read, null for as much as is asked
    for. Between nodes `network_gb_s` each, between GPUs of a node `gpu_link_gb_s`. The driver takes `driver_s` for a
    batch. `relative_speed` is how much faster a slot is than where the rates were measured.
    """

    nodes: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    gpu: str = ""
    gpu_gib: float | None = None
    memory_gib: float | None = None
    node_hour_price: float | None = None
    min_nodes: int | None = None
    start_delay_s: float = 0.0
    failures_per_hour: float = 0.0
    detect_s: float = _DETECT_S
    notice: bool = False
    storage_gb_s: float | None = None
    network_gb_s: float = 10.0
    gpu_link_gb_s: float = 200.0
    driver_s: float = _DRIVER_S
    relative_speed: float = 1.0

    def __post_init__(self) -> None:
        for name in ("nodes", "cpus", "network_gb_s", "gpu_link_gb_s", "relative_speed"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        for name in ("gpus", "start_delay_s", "failures_per_hour", "detect_s", "driver_s"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("gpu_gib", "memory_gib", "storage_gb_s"):
            require(getattr(self, name) is None or getattr(self, name) > 0, name, getattr(self, name), "above 0")
        price, least = self.node_hour_price, self.min_nodes
        require(price is None or price >= 0, "node_hour_price", price, "0 or more, or null")
        require(least is None or 0 <= least <= self.nodes, "min_nodes", least, f"from 0 to nodes ({self.nodes})")
        known = not self.gpu or self.gpu in GPU_GIB or self.gpu_gib is not None
        require(known, "gpu", self.gpu, f"one of {', '.join(GPU_GIB)}, or gpu_gib beside it")

    @property
    def gpu_bytes(self) -> float | None:
        """A GPU's memory; None where nobody says which kind it is."""
        gib = self.gpu_gib if self.gpu_gib is not None else GPU_GIB.get(self.gpu)
        return None if gib is None else gib * 2.0**30


def this_machine() -> Cluster:
    """The cores that this process may use, as a cluster of one node that is never lost."""
    return Cluster(cpus=float(len(os.sched_getaffinity(0))))


def read_cluster(text: str) -> Cluster:
    """A cluster from a YAML file, or from YAML in braces as it stands on a command line.

    Raises:
        ValueError: the file is not there, or a setting is wrong; the message names it and the remedy.
    """
    if text.lstrip().startswith("{"):
        return parse_settings(Cluster, read_yaml(text, "--cluster"), "--cluster")
    try:
        written = storage.read_text(storage.absolute(text))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise ValueError(f"--cluster {text} is no file: give a YAML file, or settings like {{nodes: 4}}") from None
    return parse_settings(Cluster, read_yaml(written, text), text)
