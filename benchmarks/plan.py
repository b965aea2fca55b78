"""Bars of the planner: planned against measured, of time, of memory and of nodes.

    make bench NAME=plan                    # about 50 minutes on two quiet cores
    make bench NAME=plan ARGS='--quick'     # a look at it, which counts for nothing
    make bench NAME=plan ARGS='--parts memory'

*Time*: in each round the planner calibrates itself by two small runs, plans the demo and a run of four times as many
images and samples, and both are made, one after the other; benchmarks stay as they are, as they would. The demo's
instruction data is written out, since the embedded world has not four times as much of it. Planned over measured is
taken by stage, and the median over the rounds is held to the bar: of all stages together, and of the one that is
furthest off among those that take at least a twentieth of the run. *Memory*: see plan_memory.py. *Nodes*: see
plan_nodes.py. Each part has a results file of its own.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import plan_memory
import plan_nodes
from harness import RESULTS, ROOT, Bar, write_results
from stic_ray import artifacts, storage

PARTS = ("memory", "nodes", "time")
ROUNDS = 3
CALIBRATION = 96  # images of the first small run; the second has twice as many
TIMES = 4
LARGE_SHARE = 0.05  # of a run that a stage takes at least, to be held to the bar alone
TIME_BAR, MEMORY_BAR, NODES_BAR = 0.25, 0.20, 0.15
logger = logging.getLogger("plan")
_IMAGES, _SAMPLES = 384, 600  # of the demo


# Time


def write_instructions(home: Path, copies: int) -> list[str]:
    """The embedded world's instruction data as files, each sample so many times with an image file of its own; the
    settings that name it."""
    entries = json.loads(storage.read_text("embedded://sft/instructions.json"))
    images = home / "images"
    images.mkdir()
    written = []
    for copy in range(copies):
        for entry in entries:
            told = {**entry, "id": f"{entry['id']}-{copy}"}
            if "image" in entry:
                told["image"] = f"{copy}-{entry['image']}"
                data = storage.read_bytes(f"embedded://sft/images/{entry['image']}")
                (images / told["image"]).write_bytes(data)
            written.append(told)
    (home / "instructions.json").write_text(json.dumps(written))
    return [f"instructions.uri={home / 'instructions.json'}", f"instructions.images={images}"]


def run_job(script: str, arguments: Sequence[str]) -> str:
    """What a job prints; as a user starts it."""
    own = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "jobs" / script), *arguments]
    done = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-3000:]}")
    return done.stdout


def sizes(times: int) -> list[str]:
    """The settings of a run so many times as large as the demo."""
    return [f"unlabeled.sample={times * _IMAGES}", f"instructions.sample={times * _SAMPLES}", f"name=times-{times}"]


def measure_run(home: Path, settings: Sequence[str]) -> dict[str, float]:
    """Seconds of each stage of a run that is made anew."""
    begun = time.monotonic()
    run_job("stic_pipeline.py", [*settings, f"store={home / 'store'}", f"runs={home / 'runs'}"])
    logger.info("a run took %.0f s", time.monotonic() - begun)
    name = next(each.partition("=")[2] for each in settings if each.startswith("name="))
    references = artifacts.read_references(str(home / "runs" / name))
    return {role: float(artifacts.load(uri).record["seconds"]) for role, uri in references.items()}


def one_round(home: Path, data: Sequence[str], runs: Sequence[int], size: int) -> dict[int, dict[str, Any]]:
    """Calibrate, plan and measure; by how many times the demo."""
    places = [f"store={home / 'planned' / 'store'}", f"runs={home / 'planned' / 'runs'}"]
    plans = {}
    for times in runs:  # the second finds the small runs
        asked = ["--json", "--calibrate", str(size)] if times == runs[0] else ["--json", *_calibrated(home, size)]
        plans[times] = json.loads(run_job("plan.py", [*asked, *data, *sizes(times), *places]))
    found = {}
    for times in runs:
        measured = measure_run(home / f"run-{times}", [*data, *sizes(times)])
        planned = {stage["role"]: stage["seconds"]["value"] for stage in plans[times]["stages"]}
        found[times] = compare_stages(plans[times]["groups"], planned, measured)
        logger.info("%dx: planned %.0f s, measured %.0f s", times, found[times]["planned"], found[times]["measured"])
    return found


def _calibrated(home: Path, size: int) -> list[str]:
    runs = home / "planned" / "runs"
    return [part for n in (size, 2 * size) for part in ("--from", str(runs / f"times-1-calibration-{n}"))]


def compare_stages(
    groups: Sequence[Sequence[str]], planned: Mapping[str, float], measured: Mapping[str, float]
) -> dict[str, Any]:
    """Seconds of all groups together, and of each stage, planned and measured."""
    total = {
        name: sum(max(seconds[role] for role in group) for group in groups)
        for name, seconds in (("planned", planned), ("measured", measured))
    }
    stages = {role: {"planned": planned[role], "measured": measured[role]} for role in measured}
    return {**total, "stages": stages}


def summarise_time(rounds: Sequence[Mapping[int, Mapping[str, Any]]]) -> dict[str, Any]:
    """Medians over the rounds of planned over measured, by size: of all, and of each stage that is large enough."""
    figures: dict[str, Any] = {}
    for times in rounds[0]:
        each = [one[times] for one in rounds]
        whole = median(one["measured"] for one in each)
        ratios = {
            role: median(one["stages"][role]["planned"] / one["stages"][role]["measured"] for one in each)
            for role in each[0]["stages"]
            if median(one["stages"][role]["measured"] for one in each) >= LARGE_SHARE * whole
        }
        figures[f"{times}x"] = {
            "planned_s": median(one["planned"] for one in each),
            "measured_s": whole,
            "ratio": median(one["planned"] / one["measured"] for one in each),
            "stages": ratios,
            "rounds": each,
        }
    return figures


def time_part(rounds: int, *, quick: bool) -> tuple[dict[str, Any], list[Bar]]:
    """Planned and measured time, with its bars."""
    runs, size = ((1,), 48) if quick else ((1, TIMES), CALIBRATION)
    found = []
    with tempfile.TemporaryDirectory() as work:
        data = write_instructions(Path(work), 2)
        for number in range(rounds):
            home = Path(work) / f"round-{number}"
            home.mkdir()
            found.append(one_round(home, data, runs, size))
    figures = summarise_time(found)
    bars = []
    for name, each in figures.items():
        bars.append(Bar(f"time, {name}: planned off measured", abs(each["ratio"] - 1), TIME_BAR, "max"))
        worst = max(each["stages"], key=lambda role: abs(each["stages"][role] - 1))
        off = abs(each["stages"][worst] - 1)
        bars.append(Bar(f"time, {name}: the stage furthest off ({worst})", off, TIME_BAR, "max"))
    return figures, bars


# Memory and nodes


def memory_part(repeats: int) -> tuple[dict[str, Any], list[Bar]]:
    """Planned and measured peaks, with their bars."""
    with tempfile.TemporaryDirectory() as work:
        found = plan_memory.compare(Path(work), repeats)
    off = {name: abs(each["planned"] / each["measured"] - 1) for name, each in found.items()}
    return found, [Bar(f"memory, {name}: planned off measured", each, MEMORY_BAR, "max") for name, each in off.items()]


def nodes_part(rounds: int, *, quick: bool) -> tuple[dict[str, Any], list[Bar]]:
    """Simulated and measured throughput, with its bars."""
    found = plan_nodes.compare(rounds, 10.0 if quick else plan_nodes.WORK_S)
    bars = [
        Bar(f"{name}: simulated throughput off measured", abs(leg["ratio"] - 1), NODES_BAR, "max")
        for name, leg in found["legs"].items()
    ]
    return found, bars


def main() -> int:
    """Measure what is asked for; exit status 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="one round of the smallest; nothing is written")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logger.setLevel(logging.INFO)
    rounds = 1 if arguments.quick else arguments.rounds
    missed = 0
    for name in arguments.parts:
        begun = time.monotonic()
        if name == "memory":
            figures, bars = memory_part(rounds)
        elif name == "nodes":
            figures, bars = nodes_part(rounds, quick=arguments.quick)
        else:
            figures, bars = time_part(rounds, quick=arguments.quick)
        with tempfile.TemporaryDirectory() as nowhere:
            folder = Path(nowhere) if arguments.quick else RESULTS
            missed |= write_results(
                f"plan_{name}", {name: figures, "seconds": time.monotonic() - begun}, bars, directory=folder
            )
    return missed


if __name__ == "__main__":
    sys.exit(main())
