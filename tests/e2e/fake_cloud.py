"""A local cluster that grows and shrinks by itself: Ray's autoscaler on its provider of fake nodes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import yaml
from e2e_project import ROOT
from heads import BIN, Jobs, end, environment_of_head, members, wait, wait_for_jobs
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from servers import free_ports

_STORE_BYTES = 100 * 1024**2  # a node's objects
_IDLE_TIMEOUT_S = 20  # longer than it takes from the start of a node to that of its first actor
_AUTOSCALER = {
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",  # version 1 never replaces a dead fake node
    "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
}
_PACE = {  # nodes here come and die within seconds
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_DATA_MIN_GAP_BETWEEN_AUTOSCALING_REQUESTS": "2",
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
}


@dataclass(frozen=True)
class Look:
    """The nodes with a GPU at one moment: their ids, and the sockets of their raylets."""

    seconds: float
    nodes: dict[str, str]


@dataclass(frozen=True)
class Cloud:
    """A head that adds nodes of a GPU each and takes them away; all that it starts is of its session. Its jobs are
    served where it was started so."""

    home: Path
    environment: dict[str, str]
    session: int
    jobs: Jobs

    def looks(self) -> list[Look]:
        """The first look at the nodes, and every change since."""
        lines = _watched(self.home).read_text().splitlines(keepends=True)
        return [Look(**json.loads(line)) for line in lines if line.endswith("\n")]

    def num_nodes(self) -> int:
        """How many nodes have a GPU now."""
        return len(self.looks()[-1].nodes)

    def story(self) -> str:
        """The number of nodes over time."""
        return ", ".join(f"{len(look.nodes)} nodes at {look.seconds:.0f} s" for look in self.looks())

    def oldest_node(self) -> str:
        """The id of one that was there first."""
        return min(self.looks()[-1].nodes)

    def node_of(self, title: str) -> str:
        """The id of the node on which a process whose title begins so runs; "" for none."""
        for pid in members(self.session):
            if any(part.startswith(title) for part in _command_line(pid)[:1]):  # none where it has just ended
                raylet = _command_line(_parent(pid))
                for node, socket in self.looks()[-1].nodes.items():
                    if f"--raylet_socket_name={socket}" in raylet:
                        return node
        return ""

    def tell_node(self, node: str, remaining_s: int) -> None:
        """The notice that a cloud gives to a spot instance before it takes it away."""
        command = [str(BIN / "ray"), "drain-node", f"--address={self.environment['RAY_ADDRESS']}", f"--node-id={node}"]
        command += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot"]
        command += [f"--deadline-remaining-seconds={remaining_s}"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr

    def take_away(self, node: str) -> None:
        """SIGKILL a node's raylet, and with it all that runs there."""
        socket = self.looks()[-1].nodes[node]
        (raylet,) = [pid for pid in members(self.session) if f"--raylet_socket_name={socket}" in _command_line(pid)]
        os.kill(raylet, signal.SIGKILL)


@contextmanager
def start_cloud(max_nodes: int, *, head_cpus: int = 2, serves_jobs: bool = False) -> Iterator[Cloud]:
    """A head without a GPU, and an autoscaler that may add up to `max_nodes` nodes of a core and a GPU."""
    home = Path(tempfile.mkdtemp(prefix="sa-", dir="/tmp"))  # short: unix sockets lie below it
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port", "metrics-export-port")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    address = f"{ray.util.get_node_ip_address()}:{ports['port']}"
    settings = home / "cloud.yaml"
    settings.write_text(yaml.safe_dump(_settings(address, max_nodes, head_cpus)))
    command = [str(BIN / "ray"), "start", "--head", "--block", f"--num-cpus={head_cpus}", "--num-gpus=0"]
    command += ["--min-worker-port=0", "--max-worker-port=0", f"--object-store-memory={_STORE_BYTES}"]
    command += [
        f"--include-dashboard={str(serves_jobs).lower()}",
        f"--temp-dir={home / 'ray'}",
        f"--autoscaling-config={settings}",
    ]
    command += [f"--{name}={port}" for name, port in ports.items()]
    python_path = os.pathsep.join(str(folder) for folder in (ROOT, ROOT / "benchmarks", ROOT / "tests" / "e2e"))
    environment = {**environment_of_head(home), **_PACE, "PYTHONPATH": python_path}
    with (home / "head.log").open("wb") as log:
        started = {**environment, **_AUTOSCALER}
        head = subprocess.Popen(command, env=started, stdout=log, stderr=log, start_new_session=True)
    jobs = Jobs(address=f"http://127.0.0.1:{ports['dashboard-port']}", environment=environment)
    cloud = Cloud(home=home, environment={**environment, "RAY_ADDRESS": address}, session=head.pid, jobs=jobs)
    try:
        if serves_jobs:
            wait_for_jobs(jobs, ports["dashboard-agent-listen-port"], head, home / "head.log")
        with _watch(cloud):
            yield cloud
    finally:
        end(head)
        shutil.rmtree(home, ignore_errors=True)


def _settings(address: str, max_nodes: int, head_cpus: int) -> dict[str, Any]:
    """What Ray's autoscaler reads; it insists on all of it."""
    steps = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    resources = {"CPU": 1, "GPU": 1, "object_store_memory": _STORE_BYTES}
    return {
        "cluster_name": "fake",
        "max_workers": max_nodes,
        "idle_timeout_minutes": _IDLE_TIMEOUT_S / 60,
        "provider": {  # by its type, fake_multinode, the autoscaler's version 2 asks for a file that Ray does not ship
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": address,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": head_cpus}, "node_config": {}, "max_workers": 0},
            "gpu": {"resources": resources, "node_config": {}, "min_workers": 0, "max_workers": max_nodes},
        },
        "upscaling_speed": 1.0,
        "docker": {},
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        **{f"{step}_commands": [] for step in steps},
    }


def _watched(home: Path) -> Path:
    return home / "nodes.jsonl"


@contextmanager
def _watch(cloud: Cloud) -> Iterator[None]:
    """A process that looks at the cluster as any client does: this one may be connected to another."""
    _watched(cloud.home).touch()
    log = cloud.home / "watch.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "watch_nodes", str(_watched(cloud.home))]
        watcher = subprocess.Popen(command, env=cloud.environment, stdout=output, stderr=output)

    def said() -> str:
        return "".join((cloud.home / name).read_text(errors="replace")[-3000:] for name in ("head.log", "watch.log"))

    try:
        wait(lambda: bool(cloud.looks()), said, lambda: watcher.poll() is None)
        yield
    finally:
        watcher.kill()
        watcher.wait()


def _command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return []


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
