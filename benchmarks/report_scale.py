"""Bar of the report: a run of a million pairs becomes one small page within a minute.

The store is laid out as a run's: files of 256 units, a million images with two answers each, pairs of two negatives,
rejects with reasons of several kinds, the gains of every answer, a training of 125,000 steps. The report is made by
`jobs/report.py` in a process of its own: seconds, the whole process's peak memory, bytes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from PIL import Image

from harness import Bar, write_results
from stic_ray import artifacts, recipes
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import parse_config, read_yaml, to_tree
from stic_ray.records import Gain, ImageRef, Pair, Reject, Response, schema

ROOT = Path(__file__).resolve().parents[1]
UNITS_PER_FILE = 256
NUM_PHOTOS = 64
TOKENS = 24
WORDS = np.array([*("a", "the", "red", "blue", "dog", "cat", "table", "window"), *("street", "near", "two", "three")])
NEGATIVES = np.array(["corrupted_image", "misleading_prompt"])
REASONS = ("both answers are the same", "photos.json line {}: empty answer", "damaged image: truncated")

Columns = Callable[[np.ndarray[Any, Any]], Mapping[str, Any]]


def hashed(role: int, numbers: np.ndarray[Any, Any]) -> list[str]:
    """Ids as hashes are: the same for the same numbers, and spread evenly."""
    high, low = (numbers * 2 + part + role * 2**40 for part in (0, 1))
    mixed = [(value.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) ^ np.uint64(role) for value in (high, low)]
    return [f"{a:016x}{b:016x}" for a, b in zip(*(value.tolist() for value in mixed), strict=True)]


def texts(rng: np.random.Generator, count: int, words: int) -> list[str]:
    """Answers of so many words."""
    return [" ".join(row) for row in WORDS[rng.integers(0, len(WORDS), (count, words))].tolist()]


def as_table(record: type, columns: Mapping[str, Any], count: int) -> pa.Table:
    """A record's table of these columns; the others are empty."""
    arrays = []
    for field in schema(record):
        value = columns.get(field.name)
        if value is None and pa.types.is_list(field.type):
            value = [[]] * count
        elif value is None:
            value = np.zeros(count, field.type.to_pandas_dtype()) if pa.types.is_primitive(field.type) else [""] * count
        arrays.append(value if isinstance(value, pa.Array) else pa.array(value, field.type))
    return pa.Table.from_arrays(arrays, schema=schema(record))


def write(store: str, plan: Plan, record: type, num: int, columns: Columns, refused: Columns | None = None) -> Artifact:
    """An artifact of files of UNITS_PER_FILE units, committed as a stage does it."""
    uri = f"{store}/{plan.name}"
    rows = 0
    rejects: dict[str, int] = {}
    for start in range(0, num, UNITS_PER_FILE):
        numbers = np.arange(start, min(start + UNITS_PER_FILE, num))
        made = columns(numbers)
        table = as_table(record, made, len(made["id"]))
        told = refused(numbers) if refused is not None else {"id": []}
        artifacts.write_tables(uri, table, as_table(Reject, told, len(told["id"])))
        rows += table.num_rows
        for reason in told.get("reason", []):
            kind = reason.partition(": ")[2] if " line " in reason else reason
            rejects[kind] = rejects.get(kind, 0) + 1
    counts = {"rows": rows, "rejects": sum(rejects.values()), "rejects_by_reason": rejects}
    return artifacts.commit(store, plan, {"inputs": num, "inputs_per_s": 1000.0, "seconds": num / 1000}, counts)


def write_store(folder: Path, num: int) -> dict[str, Artifact]:
    """Images, answers, pairs and gains of a run, by role."""
    rng = np.random.default_rng(0)
    store, photos = str(folder / "store"), [str(folder / f"photo{number}.jpg") for number in range(NUM_PHOTOS)]
    for path in photos:
        Image.fromarray(rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)).resize((640, 480)).save(path, quality=80)

    def uris(numbers: np.ndarray[Any, Any]) -> list[str]:
        return [photos[number % NUM_PHOTOS] for number in numbers.tolist()]

    def refs(numbers: np.ndarray[Any, Any]) -> Mapping[str, Any]:
        ids = hashed(1, numbers)
        return {"id": ids, "key": ids, "uri": uris(numbers), "content_hash": ids, "num_bytes": numbers}

    def answers(numbers: np.ndarray[Any, Any]) -> Mapping[str, Any]:
        twice, images = np.repeat(numbers, 2), hashed(1, np.repeat(numbers, 2))
        found = {"id": hashed(2, twice * 2 + np.tile([0, 1], len(numbers))), "item_id": images, "image_id": images}
        return {**found, "image_uri": uris(twice), "text": texts(rng, len(twice), TOKENS), "seed": twice}

    def pairs(numbers: np.ndarray[Any, Any]) -> Mapping[str, Any]:
        images, count = hashed(1, numbers), len(numbers)
        names = ("id", "item_id", "chosen_id", "rejected_id")
        found: dict[str, Any] = dict(zip(names, [hashed(3, numbers), images, images, images], strict=True))
        negatives = {"negative": NEGATIVES[rng.integers(0, 2, count)], "corruption": ['{"type": "Downsize"}'] * count}
        said = {"prompt": ["describe"] * count, "chosen": texts(rng, count, TOKENS), "rejected": texts(rng, count, 20)}
        return {**found, "image_id": images, "image_uri": uris(numbers), **negatives, **said}

    def refused(numbers: np.ndarray[Any, Any]) -> Mapping[str, Any]:
        some = numbers[:8]
        reasons = [REASONS[number % 3].format(number) for number in some.tolist()]
        return {"id": hashed(1, some), "stage": ["pairs"] * len(some), "reason": reasons}

    def gains(numbers: np.ndarray[Any, Any]) -> Mapping[str, Any]:
        twice = np.repeat(numbers, 2)
        return _gains(rng, twice, hashed(3, twice), uris(twice))

    made: dict[str, Artifact] = {}
    of: dict[str, str] = {}
    for role, record, columns in (
        ("images", ImageRef, refs),
        ("responses", Response, answers),
        ("pairs", Pair, pairs),
        ("pair_gains", Gain, gains),
    ):
        plan = Plan(stage=role, code_version=1, identity={"num": num}, parents=of, kind=record.__name__)
        made[role] = write(store, plan, record, num, columns, refused if role == "pairs" else None)
        of = {"scores" if role == "pairs" else role: made[role].fingerprint}
    return made


def _gains(
    rng: np.random.Generator, numbers: np.ndarray[Any, Any], items: list[str], uris: list[str]
) -> dict[str, Any]:
    """Answers of TOKENS tokens of two characters, chosen and rejected in turn."""
    count = len(numbers)
    of_tokens = np.arange(0, count * TOKENS + 1, TOKENS, dtype=np.int32)

    def lists(values: np.ndarray[Any, Any], kind: pa.DataType) -> pa.Array:
        return pa.ListArray.from_arrays(pa.array(of_tokens), pa.array(values, kind))

    gained = rng.normal(0.5, 2.0, count * TOKENS).astype(np.float32)
    starts = np.tile(np.arange(TOKENS, dtype=np.int32) * 2, count)
    turns = [[{"role": "user", "text": "describe"}, {"role": "assistant", "text": "a " * (TOKENS - 1)}]] * count
    return {
        "id": hashed(4, np.arange(count) + int(numbers[0]) * 2),
        "item_id": items,
        "role": np.tile(["chosen", "rejected"], count // 2),
        "image_id": items,
        "image_uri": uris,
        "category": ["corrupted_image"] * count,
        "first_word": ["a"] * count,
        "turns": turns,
        "token_ids": lists(starts, pa.int32()),
        "answers": lists(np.zeros(count * TOKENS), pa.int32()),
        "starts": lists(starts, pa.int32()),
        "stops": lists(starts + 1, pa.int32()),
        "logp": lists(gained, pa.float32()),
        "blind_logp": lists(np.zeros(count * TOKENS), pa.float32()),
        "gains": lists(gained, pa.float32()),
        "mean_gain": gained.reshape(count, TOKENS).mean(1),
    }


def write_run(folder: Path, made: Mapping[str, Artifact], steps: int) -> Path:
    """The run's folder: settings, references, the metrics of a training and its control."""
    run = folder / "runs" / "large"
    run.mkdir(parents=True)
    config = parse_config(read_yaml(recipes.read("embedded"), "embedded"), [f"store={folder}/store", "name=large"])
    (run / "config.yaml").write_text(f"# python jobs/stic_pipeline.py\n{yaml.safe_dump(to_tree(config))}")
    (run / "artifacts.json").write_text(json.dumps({role: artifact.uri for role, artifact in made.items()}))
    noise = np.random.default_rng(0).normal(1, 0.1, (steps, 2))
    with (run / "metrics.jsonl").open("w") as file:
        for stage in ("stage1", "stage1_control"):
            for step, (loss, norm) in enumerate(noise.tolist(), start=1):
                file.write(json.dumps({"step": step, f"{stage}/loss": loss, f"{stage}/grad_norm": norm}) + "\n")
    return run


def measure(run: Path) -> dict[str, float]:
    """The report in a process of its own, with its seconds, peak memory and bytes."""
    measured = "import resource,runpy,sys\ntry:\n runpy.run_path(sys.argv[0], run_name='__main__')\nfinally:\n "
    measured += "sys.stderr.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))"
    job = str(ROOT / "jobs" / "report.py")
    program = f"import sys; sys.argv = [{job!r}, {str(run)!r}]\n{measured}"
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    seconds = time.perf_counter() - begin
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-3000:])
    peak = int(done.stderr.split()[-1]) * 1024
    return {"seconds": seconds, "peak_bytes": peak, "bytes": (run / "report.html").stat().st_size}


def main() -> int:
    """Run it; exit status 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        made = write_store(Path(name), arguments.pairs)
        found = measure(write_run(Path(name), made, arguments.pairs // 8))
        num_files = sum(len(artifacts.data_files(artifact.uri)) for artifact in made.values())
    rows = {role: artifact.num_rows for role, artifact in made.items()}
    figures = {"rows": rows, "files": num_files, **found}
    bars = [
        Bar("pairs", rows["pairs"], 1_000_000, "min"),
        Bar("seconds", found["seconds"], 60.0, "max"),
        Bar("size of the page, MB", found["bytes"] / 1e6, 8.0, "max"),
    ]
    return write_results("report_scale", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
