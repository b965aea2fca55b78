"""The scripts of cluster/machines as a user runs them: a head and a worker, here on one machine, and a job."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray
from e2e_project import ROOT
from heads import end, environment_of_head

pytestmark = pytest.mark.slow

_MACHINES = ROOT / "cluster" / "machines"
_TIMEOUT_S = 240.0
_LEAVE_S = 90.0  # a worker looks for its head every ten seconds, and Ray gives a dead head 30
_SMALL = ("--num-cpus=1", "--object-store-memory=100000000")
_WAIT_FOR_TWO = (
    "import ray, time\n"
    "ray.init()\n"
    "while sum(node['Alive'] for node in ray.nodes()) < 2:\n"
    "    time.sleep(0.5)\n"
    "print('two nodes')"
)
_STOPS_BY_ITSELF = (
    "import signal, sys, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: (print('told to stop', flush=True), sys.exit(0)))\n"
    "print('begun', flush=True)\n"
    "time.sleep(600)"
)


def _free_block() -> int:
    """The first of sixteen free ports in a row, outside those of Ray's workers and those that Linux hands out."""
    for first in range(21000 + os.getpid() % 500 * 20, 32000, 16):
        with suppress(OSError), ExitStack() as stack:
            for port in range(first, first + 16):
                stack.enter_context(socket.socket()).bind(("", port))
            return first
    raise AssertionError("no free ports")


@dataclass(frozen=True)
class Machine:
    """What a script runs in: a folder of its own and its ports."""

    folder: Path
    environment: dict[str, str]

    @classmethod
    def make(cls, folder: Path, environment: dict[str, str], first_port: int, worker_ports: str) -> "Machine":
        home = folder / str(first_port)
        home.mkdir()
        settings = {"FIRST_PORT": str(first_port), "WORKER_PORTS": worker_ports, "RAY_TEMP_DIR": str(folder / "ray")}
        return cls(folder=home, environment={**environment, **settings})

    @property
    def first_port(self) -> int:
        return int(self.environment["FIRST_PORT"])

    @contextmanager
    def running(self, script: str, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
        """A script in a session of its own, ended with all that it started."""
        with (self.folder / f"{script}.log").open("wb") as log:
            process = subprocess.Popen(
                [str(_MACHINES / script), *arguments],
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                yield process
            finally:
                end(process)

    def said(self, script: str) -> str:
        return (self.folder / f"{script}.log").read_text(errors="replace")


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="sm-", dir="/tmp"))  # short: unix sockets lie below it
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_two_machines_run_a_job_stop_one_when_told_and_leave_together(folder: Path) -> None:
    environment = {**environment_of_head(folder), "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONUNBUFFERED", None)  # a user's shell has none, and CI's may
    port = _free_block()
    first = Machine.make(folder, {**environment, "DASHBOARD_PORT": str(port + 7)}, port, "41000-41499")
    second = Machine.make(folder, environment, port + 8, "41500-41999")
    with first.running("head.sh", *_SMALL) as head:
        address = f"{ray.util.get_node_ip_address()}:{first.first_port}"
        with second.running("worker.sh", address, *_SMALL) as worker:
            with first.running("submit.sh", "--", sys.executable, "-c", _WAIT_FOR_TWO) as job:
                assert job.wait(_TIMEOUT_S) == 0, first.said("submit.sh") + first.said("head.sh")
            assert "\ntwo nodes" in first.said("submit.sh"), second.said("worker.sh")
            with first.running("submit.sh", "--", sys.executable, "-c", _STOPS_BY_ITSELF) as job:
                deadline = time.monotonic() + _TIMEOUT_S
                while "\nbegun" not in first.said("submit.sh"):
                    assert job.poll() is None and time.monotonic() < deadline, first.said("submit.sh")
                    time.sleep(0.2)
                job.send_signal(signal.SIGTERM)
                assert job.wait(_TIMEOUT_S) == 143
            assert "told to stop" in first.said("submit.sh")
            with first.running("submit.sh", "--", sys.executable, "-c", "raise SystemExit(2)") as job:
                assert job.wait(_TIMEOUT_S) == 1
            head.terminate()
            head.wait(_LEAVE_S)
            assert worker.wait(_LEAVE_S) == 0, second.said("worker.sh")


def test_worker_without_a_head_says_so(folder: Path) -> None:
    machine = Machine.make(folder, {**environment_of_head(folder), "HEAD_WAIT_S": "1"}, _free_block(), "41000-41499")
    with machine.running("worker.sh", f"127.0.0.1:{machine.first_port}") as worker:
        assert worker.wait(60) == 1
    assert f"no Ray head answers at 127.0.0.1:{machine.first_port}: start head.sh there" in machine.said("worker.sh")
