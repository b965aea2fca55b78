"""The control plane alone: rows through read -> stub engine actor -> sink, beside Ray's own reader and writer.

    make bench NAME=control_plane                     # about ten minutes
    make bench NAME=control_plane ARGS='--rows 100000'

Every measurement is a process of its own, so that memory is that process's and nothing is warm from another one; the
clocks start when Ray stands. Both sides read the same parquet files, ask the same stub for the same texts in batches
of the same size, and end with their files on the same disk; ours also proves that nothing was lost and commits.
"""

import argparse
import io
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
from PIL import Image

from harness import Bar, write_results
from stic_ray import artifacts
from stic_ray.artifacts import Artifact, Plan
from stic_ray.cluster import connected
from stic_ray.config import Execution, Pool
from stic_ray.flow import Inputs, Work, image_alone, read_image, run_stage
from stic_ray.records import Found, make_id
from stub_stage import Answer, PeerStub, Stub, read_names

ROUNDS = 3
BATCH = 1024
ROWS_PER_FILE = 4096
IMAGE_BYTES = 1_000_000_000
EXECUTION = Execution(pool=Pool(num_cpus=0.5), task_cpus=0.5, batch_size=BATCH, rows_per_file=ROWS_PER_FILE)
PLAN = Plan(stage="answers", code_version=1, identity={}, kind="Answer")


def make_parent(home: Path, num_rows: int) -> str:
    """A listing of `num_rows` names, about 200 bytes each."""
    parent = home / f"parent-{num_rows}"
    for start in range(0, num_rows, ROWS_PER_FILE):
        names = [
            f"photos/2026/{n % 97:02d}/the-image-of-number-{n:09d}.jpg" for n in range(start, start + ROWS_PER_FILE)
        ]
        rows = [Found(id=make_id(name), key=name, uri=f"s3://bucket/a/long/prefix/{name}") for name in names]
        artifacts.write_rows(str(parent), rows, Found, [])
    return str(parent)


def run_ours(parent: str, store: str, read: Any = read_names) -> Artifact:
    """Our stage on a parent's rows."""
    prepare = read_image
    work = Work(record=Answer, input_column="id", prepare=prepare, worker=Stub, worker_arguments={})
    inputs = Inputs(parent=Artifact(uri=parent, record={}), column="id", read=read)
    return run_stage(store=store, plan=PLAN, work=work, inputs=inputs, execution=EXECUTION)


def run_peer(parent: str, store: str) -> None:
    """What Ray alone gives: no resume, files that appear while they are written."""
    rows = ray.data.read_parquet(f"{parent}/data")
    answers = rows.map_batches(
        PeerStub,
        batch_size=BATCH,
        batch_format="pyarrow",
        num_cpus=0.5,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=1),
    )
    answers.write_parquet(store)


def measure(part: str, parent: str, store: str) -> dict[str, float]:
    """One measurement in this process."""
    with connected():
        ray.get([ray.remote(artifacts.merge_ids).remote([]) for _ in range(4)])  # workers stand
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.monotonic()
        if part == "peer":
            run_peer(parent, store)
        else:
            made = run_ours(parent, store, image_alone if part == "images" else read_names)
            assert not made.record["counts"]["rejects"]
        seconds = time.monotonic() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"seconds": seconds, "peak_mb": peak / 1024, "grown_mb": (peak - before) / 1024, "spilled": _spilled()}


def _spilled() -> float:
    from ray._private.internal_api import memory_summary

    text = memory_summary(stats_only=True)
    return float("Spilled" in text)


def in_own_process(part: str, parent: str, store: str) -> dict[str, float]:
    """`measure` elsewhere."""
    command = [sys.executable, __file__, "--part", part, "--parent", parent, "--store", store]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def restart(parent: str, store: Path, num_new: int) -> float:
    """Seconds from a process's start to the first new row, when all but `num_new` rows are committed."""
    home = store / PLAN.name
    (home / "record.json").unlink()
    data = sorted((home / "data").iterdir())
    for file in data[: max(1, num_new // ROWS_PER_FILE)]:
        file.unlink()
    known = {file.name for file in (home / "data").iterdir()}
    start = time.monotonic()
    command = [sys.executable, __file__, "--part", "ours", "--parent", parent, "--store", str(store)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not any(f.suffix == ".parquet" and f.name not in known for f in (home / "data").iterdir()):
            if process.poll() is not None:
                raise RuntimeError("the restarted process ended without a new row")
            time.sleep(0.02)
        first = time.monotonic() - start
        process.wait()
    return first


def make_images(home: Path) -> str:
    """A listing of `IMAGE_BYTES` of JPEG files, about 100 kB each."""
    folder = home / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    names: list[Path] = []
    kinds: list[bytes] = []
    total = 0
    for _ in range(64):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (220, 220, 3), dtype=np.uint8)).save(buffer, "JPEG", quality=92)
        kinds.append(buffer.getvalue())
    while total < IMAGE_BYTES:
        data = kinds[len(names) % len(kinds)]
        names.append(folder / f"{len(names)}.jpg")
        names[-1].write_bytes(data)
        total += len(data)
    rows = [Found(id=make_id(str(name)), key=name.name, uri=str(name)) for name in names]
    for start in range(0, len(rows), ROWS_PER_FILE):
        artifacts.write_rows(str(home / "photo-list"), rows[start : start + ROWS_PER_FILE], Found, [])
    return str(home / "photo-list")


def main() -> int:
    """Measure, or be one measurement of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    for name in ("part", "parent", "store"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(measure(arguments.part, arguments.parent, arguments.store)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return compare(Path(folder), arguments.rows, arguments.rounds)


def compare(home: Path, num_rows: int, rounds: int) -> int:
    """Both sides, interleaved; then memory, restart and images."""
    parent, small = make_parent(home, num_rows), make_parent(home, num_rows // 10)
    ours, peer = [], []
    for number in range(rounds):
        peer.append(in_own_process("peer", parent, str(home / f"peer-{number}")))
        ours.append(in_own_process("ours", parent, str(home / f"ours-{number}")))
        print(f"round {number}: Ray {peer[-1]['seconds']:.1f} s, ours {ours[-1]['seconds']:.1f} s", flush=True)
    tenth = in_own_process("ours", small, str(home / "ours-small"))
    first_row_s = restart(parent, home / "ours-0", num_rows // 100)
    images = in_own_process("images", make_images(home), str(home / "ours-images"))
    rate = {
        name: num_rows / statistics.median(m["seconds"] for m in runs)
        for name, runs in (("ours", ours), ("peer", peer))
    }
    grown = statistics.median(m["peak_mb"] for m in ours) - tenth["peak_mb"]
    figures = {
        "rows": num_rows,
        "batch_size": BATCH,
        "rows_per_file": ROWS_PER_FILE,
        "ours_rows_per_s": rate["ours"],
        "ray_rows_per_s": rate["peer"],
        "rounds": {"ours": ours, "ray": peer},
        "driver_peak_mb": statistics.median(m["peak_mb"] for m in ours),
        "driver_peak_mb_at_a_tenth": tenth["peak_mb"],
        "images_bytes": IMAGE_BYTES,
        "images_s": images["seconds"],
        "images_spilled": images["spilled"],
    }
    bars = [
        Bar("rows/s over Ray's write_parquet", rate["ours"] / rate["peer"], 0.8, "min"),
        Bar("driver memory from a tenth of the rows to all (MB)", grown, 50.0, "max"),
        Bar("first new row after a restart (s)", first_row_s, 15.0, "max"),
    ]
    return write_results("control_plane", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
