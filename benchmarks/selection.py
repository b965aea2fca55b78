"""Bar of selection: exact thresholds over ten million gains, by stratum, from the files of an artifact.

Measured in a process of its own, as the stage's worker does it: seconds and the whole process's peak memory.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from harness import Bar, write_results
from stic_ray import artifacts
from stic_ray.config import AllTokens, VigSelection
from stic_ray.records import schema

ROWS_PER_FILE = 250_000
STRATA = 64
SELECTION = VigSelection(keep_share=0.7, tokens=AllTokens(), strata=("category", "first_word"))


def write_gains(uri: str, num_rows: int) -> None:
    """An artifact's files of so many gains with short answers, in 64 strata of very different sizes."""
    from stic_ray.records import Gain

    rng = np.random.default_rng(0)
    for start in range(0, num_rows, ROWS_PER_FILE):
        count = min(ROWS_PER_FILE, num_rows - start)
        stratum = np.minimum(rng.geometric(0.1, count), STRATA) - 1
        columns: dict[str, Any] = {
            "id": [f"{start + number:032x}" for number in range(count)],
            "mean_gain": rng.normal(stratum / 10, 1.0),
            "category": np.array([f"kind {code // 8}" for code in range(STRATA)])[stratum],
            "first_word": np.array([f"word {code % 8}" for code in range(STRATA)])[stratum],
            "image_uri": np.where(rng.random(count) < 0.05, "", "/photos/a.jpg"),
        }
        columns["item_id"] = columns["id"]
        arrays = []
        for field in schema(Gain):
            if field.name in columns:
                arrays.append(pa.array(columns[field.name], field.type))
            elif pa.types.is_list(field.type):
                arrays.append(pa.array([[]], field.type).take(pa.array(np.zeros(count, dtype=np.int64))))
            else:
                arrays.append(pa.array(np.full(count, ""), field.type))
        rows = pa.Table.from_arrays(arrays, schema=schema(Gain))
        artifacts.write_tables(uri, rows, pa.table({"id": pa.array([], pa.string())}))


def measure(uri: str) -> dict[str, Any]:
    """The thresholds as the stage's worker finds them, with its seconds and peak memory."""
    from stic_ray.stages.select import make_rule

    begin = time.perf_counter()
    rule = make_rule(artifacts.data_files(uri), SELECTION, [], 0)
    seconds = time.perf_counter() - begin
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    return {"seconds": seconds, "peak_bytes": peak, "tau": dict(rule.tau)}


def exact_taus(uri: str) -> dict[str, float]:
    """Every stratum's threshold by sorting its values, all at once."""
    values: dict[str, list[Any]] = {}
    for file in artifacts.data_files(uri):
        table = artifacts.read_file(file, ["mean_gain", "category", "first_word", "image_uri"]).to_pandas()
        table = table[table.image_uri != ""]
        for key, part in table.groupby(["category", "first_word"]):
            values.setdefault(", ".join(key), []).append(part.mean_gain.to_numpy())
    taus = {}
    for name, parts in values.items():
        ordered = np.sort(np.concatenate(parts))[::-1]
        taus[name] = float(ordered[int(np.ceil(round(SELECTION.keep_share * len(ordered), 6))) - 1])
    return taus


def main() -> int:
    """Run it; exit status 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--measure", metavar="URI", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        write_gains(folder, arguments.rows)
        command = [sys.executable, __file__, "--measure", folder]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        exact = exact_taus(folder)
    wrong = sum(found["tau"].get(name) != tau for name, tau in exact.items()) + len(found["tau"].keys() - exact.keys())
    figures = {
        "rows": arguments.rows,
        "strata": len(exact),
        "seconds": found["seconds"],
        "peak_bytes": found["peak_bytes"],
    }
    bars = [
        Bar("gains", arguments.rows, 10_000_000, "min"),
        Bar("thresholds that are not exact", wrong, 0, "max"),
        Bar("seconds", found["seconds"], 15.0, "max"),
        Bar("peak memory of the process, GB", found["peak_bytes"] / 1e9, 1.5, "max"),
    ]
    return write_results("selection", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
