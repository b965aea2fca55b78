"""Bars of training's restarts: SIGKILLs of a worker and of the driver at random steps, against an undisturbed run.

The same training of pairs of the embedded world, with dropout, by one worker and by two, is killed, alternately in a
worker, which Ray Train replaces, and in the driver, whose command is given again. Losses and final weights must be
the undisturbed run's bit for bit, and no more steps redone than checkpoints are apart: once where training waits for
them, twice where they are written beside it.
"""

import argparse
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import Bar, write_results
from kill_rounds import audit, descendants, finish

ROOT = Path(__file__).resolve().parents[1]
STEPS, EVERY = 60, 5
SETTINGS = (
    "unlabeled.sample=48",
    "stage1_control=null",
    "stage2=null",
    "evaluation=null",
    f"stage1.steps={STEPS}",
    "stage1.weights.lora_dropout=0.1",
    f"execution.checkpoint_every={EVERY}",
    "execution.train_cpus=1",
    "execution.max_train_failures=10",
)
_TIMEOUT_S = 900.0
_POLL_S = 0.01
logger = logging.getLogger("train_kills")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run left of stage 1: its losses, its weights, and where its attempts began."""

    losses: list[float]
    weights: bytes
    begins: list[int]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How it is trained: by how many workers, and whether they wait for checkpoints."""

    workers: int
    waits: bool


def command(home: Path, setup: Setup) -> list[str]:
    """The job, with store and runs of its own."""
    own = [f"store={home}/store", f"runs={home}/runs", f"execution.num_train_workers={setup.workers}"]
    own.append(f"execution.wait_for_checkpoints={str(setup.waits).lower()}")
    return [sys.executable, str(ROOT / "jobs" / "stic_pipeline.py"), *SETTINGS, *own]


def read(home: Path) -> Trained:
    """The trained stage of a finished run."""
    (folder,) = (home / "store").glob("stage1-*")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    record = json.loads((folder / "record.json").read_text())
    return Trained(
        losses=[json.loads(line)["loss"] for line in lines],
        weights=(folder / "merged" / "model.safetensors").read_bytes(),
        begins=[attempt["step"] for attempt in record["attempts"]],
    )


def kill_once(home: Path, setup: Setup, *, victim: str, at_step: int) -> int:
    """Start the job, kill the victim when so many steps are taken, see the run to its end; the step of the kill."""
    driver = subprocess.Popen(command(home, setup), cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        step = _await_step(home, driver, at_step)
        if victim == "driver":
            orphans = descendants(driver.pid)
            driver.kill()
            driver.wait()
            _end(orphans)
        else:
            os.kill(_worker(driver.pid), signal.SIGKILL)
        step = max(step, _step(home))
        if victim == "driver":
            finish(command(home, setup), home)
        elif driver.wait(_TIMEOUT_S) != 0:
            raise RuntimeError(f"the driver ended with {driver.returncode} after its worker was killed")
        return step
    finally:
        if driver.poll() is None:
            orphans = descendants(driver.pid)
            driver.kill()
            driver.wait()
            _end(orphans)


def _await_step(home: Path, driver: "subprocess.Popen[bytes]", step: int) -> int:
    deadline = time.monotonic() + _TIMEOUT_S
    while (now := _step(home)) < step:
        if driver.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the driver ended ({driver.returncode}) or stood still at step {now}")
        time.sleep(_POLL_S)
    return now


def _step(home: Path) -> int:
    for progress in (home / "store").glob("stage1-*/progress.json"):
        with suppress(OSError, ValueError):
            return int(json.loads(progress.read_text())["done"])
    return 0


def _worker(driver: int) -> int:
    """The training worker's process: of those named so the one that has used most."""
    found = {}
    for pid in descendants(driver):
        with suppress(OSError):
            if b"RayTrainWorker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                found[int(stat[11])] = pid
    if not found:
        raise RuntimeError("no training worker was found")
    return found[max(found)]


def _end(processes: dict[int, str]) -> None:
    for pid, started in processes.items():
        with suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19] == started:
                os.kill(pid, signal.SIGKILL)


def run(work: Path, kills: int) -> dict[str, Any]:
    """All kills, half of them with each kind of checkpoint."""
    expected, calm = {}, work / "calm-2"
    for workers in (1, 2):
        home = work / f"calm-{workers}"
        home.mkdir(parents=True)
        finish(command(home, Setup(workers=workers, waits=True)), home)
        expected[workers] = read(home)
    figures: dict[str, Any] = {"steps": STEPS, "checkpoint_every": EVERY, "kills with two workers": 0}
    redone: dict[str, list[int]] = {"waiting": [], "beside": []}
    different = []
    faults: list[str] = []
    for number in range(kills):
        setup = Setup(workers=2 if number % 3 == 2 else 1, waits=number % 4 < 2)
        victim = ("worker", "driver")[number % 2]
        home = work / f"kill-{number:02}"
        home.mkdir()
        for made in (calm / "store").iterdir():
            if not made.name.startswith("stage1-"):
                shutil.copytree(made, home / "store" / made.name)
        at_step = random.Random(number).randrange(2, STEPS - 2)
        step = kill_once(home, setup, victim=victim, at_step=at_step)
        found = read(home)
        faults += audit(home / "runs" / "embedded")
        if (found.losses, found.weights) != (expected[setup.workers].losses, expected[setup.workers].weights):
            different.append(number)
        figures["kills with two workers"] += setup.workers == 2
        redone["waiting" if setup.waits else "beside"].append(step - found.begins[-1])
        logger.info("%s killed at step %d of %s, went on at %s", victim, step, setup, found.begins)
    return {**figures, "kills": kills, "redone": redone, "different": different, "faults": faults}


def main() -> int:
    """Run all; exit status 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=12)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with tempfile.TemporaryDirectory() as work:
        figures = run(Path(work), arguments.kills)
    bars = [
        Bar("kills", figures["kills"], 10, "min"),
        Bar("runs with other losses or weights", len(figures["different"]), 0, "max"),
        Bar("faults of the audit", len(figures["faults"]), 0, "max"),
        Bar("steps redone, waiting for checkpoints", max(figures["redone"]["waiting"]), EVERY, "max"),
        Bar("steps redone, checkpoints beside", max(figures["redone"]["beside"]), 2 * EVERY, "max"),
    ]
    return write_results("train_kills", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
