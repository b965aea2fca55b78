"""SIGKILL of a run's driver at a random moment of each stage, and the comparison with an undisturbed run.

Shared by the benchmark `kills` and its short version in the tests.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stic_ray import artifacts, leases, storage
from stic_ray.records import (
    Found,
    Gain,
    ImageRef,
    Pair,
    PerceptualHash,
    Prediction,
    Question,
    Response,
    Sample,
    Score,
    Selected,
)

RECORDS: dict[str, type] = {
    record.__name__: record
    for record in (Found, ImageRef, PerceptualHash, Response, Pair, Sample, Score, Gain, Selected, Question, Prediction)
}
# What a model wrote or computed: equal up to rounding, since a restart may batch the rows differently.
WRITTEN = {"text", "num_tokens", "finish_reason", "chosen", "rejected", "description"}
COMPUTED = {"turns", "token_ids", "answers", "starts", "stops", "logp", "blind_logp", "gains", "mean_gain", "used"}
TEXTS = {"text", "chosen", "rejected", "description"}
_POLL_S = 0.005
_TIMEOUT_S = 900.0


@dataclass
class Comparison:
    """How a killed and rerun store differs from an undisturbed one."""

    num_texts: int = 0
    num_different_texts: int = 0
    num_lost: int = 0
    num_double: int = 0
    num_different_draws: int = 0
    faults: list[str] = field(default_factory=list)

    def add(self, other: "Comparison") -> None:
        """Sum up."""
        self.num_texts += other.num_texts
        self.num_different_texts += other.num_different_texts
        self.num_lost += other.num_lost
        self.num_double += other.num_double
        self.num_different_draws += other.num_different_draws
        self.faults += other.faults


def references(run_home: Path | str) -> dict[str, str]:
    """A run's artifacts by role."""
    found: dict[str, str] = json.loads(storage.read_text(storage.join(str(run_home), "artifacts.json")))
    return found


def finish(command: list[str], cwd: Path) -> None:
    """Run a driver to its end; raises RuntimeError with what it said when it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=_TIMEOUT_S)
    if done.returncode != 0:
        raise RuntimeError(f"{command}: exit {done.returncode}\n{done.stderr[-3000:]}")


def kill_in_stage(command: list[str], cwd: Path, artifact: Path, delay_s: float, orphans: dict[int, str]) -> bool:
    """Start the driver, SIGKILL it `delay_s` after it began the artifact; False where it was committed before that.

    What it had started (Ray's processes) is added to `orphans` and lives on.
    """
    driver = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + _TIMEOUT_S
    try:
        while not (artifact / leases.LEASE).exists():
            if (artifact / artifacts.RECORD).exists():
                return False
            if driver.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the driver ended (exit {driver.returncode}) before it began {artifact.name}")
            time.sleep(_POLL_S)
        end = time.monotonic() + delay_s
        while time.monotonic() < end and not (artifact / artifacts.RECORD).exists():
            time.sleep(_POLL_S)
        return not (artifact / artifacts.RECORD).exists()
    finally:
        driver.send_signal(signal.SIGSTOP)  # or it would start others while they are listed
        orphans |= descendants(driver.pid)
        driver.send_signal(signal.SIGKILL)
        driver.wait()


def descendants(pid: int) -> dict[int, str]:
    """The processes below one, each with its start time, since numbers are used again."""
    stats = {int(entry.name): _stat(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    found = {pid}
    while True:
        more = {child for child, stat in stats.items() if stat and int(stat[1]) in found} - found
        if not more:
            return {child: stats[child][19] for child in found - {pid}}
        found |= more


def children_of(pid: int) -> list[int]:
    """The processes that one has started and that still live."""
    return [child for child in descendants(pid) if _stat(child)[1:2] == [str(pid)]]


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat after the name (1: parent, 19: start time); [] for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _kill(processes: dict[int, str]) -> None:
    for pid, started in processes.items():
        stat = _stat(pid)
        if stat and stat[19] == started:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    processes.clear()


def kill_round(
    command: list[str], cwd: Path, store: Path, stages: dict[str, str], rng: random.Random, *, whole_node: bool
) -> list[str]:
    """One kill in each of these stages of an undisturbed run, in order, then a rerun to the end; returns those hit.

    With `whole_node` all that the driver had started is killed with it; else it lives on beside the rerun, as long as
    Ray lets it, and may still write.
    """
    hit = []
    orphans: dict[int, str] = {}
    try:
        for role, uri in stages.items():
            seconds = float(artifacts.load(uri).record["seconds"])
            if kill_in_stage(command, cwd, store / Path(uri).name, rng.uniform(0, seconds), orphans):
                hit.append(role)
            if whole_node:
                _kill(orphans)
        finish(command, cwd)
    finally:
        _kill(orphans)
    return hit


def compare(undisturbed: dict[str, str], disturbed: dict[str, str]) -> Comparison:
    """Row by row: ids, prompts and draws exactly, texts counted."""
    total = Comparison()
    for role, uri in undisturbed.items():
        if role not in disturbed or Path(disturbed[role]).name != Path(uri).name:
            total.faults.append(f"{role}: {disturbed.get(role)} instead of {Path(uri).name}")
            continue
        kind = artifacts.load(uri).record["kind"]
        if kind in RECORDS:
            total.add(_compare_rows(uri, disturbed[role], RECORDS[kind]))
        elif artifacts.load(uri).record["steps"] != artifacts.load(disturbed[role]).record["steps"]:
            total.faults.append(f"{role}: another number of steps")
    return total


def _compare_rows(uri: str, other: str, record: type) -> Comparison:
    expected = {row.id: vars(row) for row in artifacts.read(uri, record)}
    found = {row.id: vars(row) for row in artifacts.read(other, record)}
    stored = Counter(
        key
        for file in artifacts.data_files(other)
        for key in artifacts.read_file(file, ["id"]).column("id").to_pylist()
    )
    result = Comparison(
        num_lost=len(expected.keys() - found.keys()) + len(found.keys() - expected.keys()),
        num_double=sum(count - 1 for count in stored.values()),
    )
    for key in expected.keys() & found.keys():
        result.add(_compare_row(expected[key], found[key]))
    return result


def _compare_row(expected: dict[str, Any], found: dict[str, Any]) -> Comparison:
    draws = [name for name in expected if name not in WRITTEN | COMPUTED and expected[name] != found[name]]
    texts = [name for name in expected if name in TEXTS]
    different = [name for name in texts if expected[name] != found[name]]
    return Comparison(num_texts=len(texts), num_different_texts=len(different), num_different_draws=bool(draws))


def audit(run_home: Path | str) -> list[str]:
    """What the audit job says is wrong with a run."""
    job = Path(__file__).resolve().parents[1] / "jobs" / "audit.py"
    done = subprocess.run([sys.executable, str(job), str(run_home)], capture_output=True, text=True, timeout=300)
    return [] if done.returncode == 0 else [done.stdout + done.stderr]
