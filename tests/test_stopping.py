"""SIGTERM ends a job at once and cleanly: another one need not wait for its leases."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stic_ray import command_line
from stic_ray.leases import LEASE
from stic_ray.stopping import LINE, STATUS

_TIMEOUT_S = 60.0
_LEASES = """
import sys, threading, time
from pathlib import Path
from stic_ray.leases import Lease
from stic_ray.command_line import finish

store = Path(sys.argv[1])

def hold(name):
    with Lease(str(store / name), "own"):
        time.sleep(600)

def taken():
    return len(list(store.glob("*/lease.json")))

"""
# As in a run that makes two artifacts at once, threads hold the leases while the main one waits.
_WAITS = """
def work():
    threads = [threading.Thread(target=hold, args=(name,), daemon=True) for name in ("one", "other")]
    for thread in threads:
        thread.start()
    threads[0].join()

sys.exit(finish(work))
"""
# What fails because its lease is gone.
_FAILS = """
def work():
    for name in ("one", "other"):
        threading.Thread(target=hold, args=(name,), daemon=True).start()
    while taken() < 2:
        time.sleep(0.001)
    while taken():
        time.sleep(0.001)
    raise ValueError("broken")

sys.exit(finish(work))
"""
_RAY = """
import ray
from stic_ray.cluster import connected

def work():
    with connected(), Lease(str(store / "one"), "own"), Lease(str(store / "other"), "own"):
        ray.get(ray.remote(lambda: time.sleep(600)).remote())

sys.exit(finish(work))
"""


def _stopped(program: str, store: Path) -> tuple[int, str]:
    """Exit status and stderr of a program that is sent SIGTERM when it holds both leases."""
    with _working(program, store) as job:
        job.terminate()
        _, said = job.communicate(timeout=_TIMEOUT_S)
    return job.returncode, said


@contextmanager
def _working(program: str, store: Path) -> Iterator["subprocess.Popen[str]"]:
    """A program that holds both leases, ended with the block."""
    command = [sys.executable, "-c", _LEASES + program, str(store)]
    job = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + _TIMEOUT_S
        while len(list(store.glob(f"*/{LEASE}"))) < 2:
            assert job.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.2)
        yield job
    finally:
        job.kill()
        job.wait()


@pytest.mark.parametrize("program", [_WAITS, _FAILS], ids=["waits", "fails"])
def test_sigterm_gives_up_the_leases_of_all_threads_and_says_one_line(tmp_path: Path, program: str) -> None:
    assert _stopped(program, tmp_path) == (143, f"{LINE}\n")
    assert list(tmp_path.glob(f"*/{LEASE}")) == []


def test_sigterm_ends_a_job_whose_stderr_nobody_reads(tmp_path: Path) -> None:
    with _working(_WAITS, tmp_path) as job:
        assert job.stderr is not None
        job.stderr.close()
        job.terminate()
        assert job.wait(_TIMEOUT_S / 4) == STATUS


@pytest.mark.slow
def test_sigterm_while_ray_works_is_not_answered_by_ray(tmp_path: Path) -> None:
    status, said = _stopped(_RAY, tmp_path)
    assert (status, said.splitlines()[-1]) == (STATUS, LINE)
    assert "SIGTERM" not in said and "Traceback" not in said
    assert list(tmp_path.glob(f"*/{LEASE}")) == []


def test_a_job_that_has_ended_leaves_the_answers_to_signals_as_they_were() -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert command_line.finish(lambda: "") == 0
    assert signal.getsignal(signal.SIGTERM) is before
