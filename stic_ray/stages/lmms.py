"""Benchmarks that are not native, by lmms-eval in a Python environment of its own: its packages and ours do not mix.

lmms-eval reads the checkpoint and its own data; what comes back is its figures. It says by its results alone whether
it got through: its exit status does not tell.
"""

import json
import math
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from stic_ray import artifacts, storage
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import Config, Model
from stic_ray.flow import finish_stage
from stic_ray.records import TaskFigure, make_id

CODE_VERSION = 1
_TOLD = 12  # lines of its log that an error repeats
# What lmms-eval calls its classes of the families that it has one for.
CLASSES = {"llava": "llava_hf", "llava_next": "llava_hf", "qwen2_5_vl": "qwen2_5_vl"}


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """What lmms-eval is asked: names of its tasks, with those of a folder of the user's, on how many questions each
    (None for all); `python` of its environment, the class of models, further arguments of that."""

    python: str
    names: tuple[str, ...]
    include: str
    limit: int | None
    model_class: str
    arguments: Mapping[str, str]
    batch_size: int


def find_version(python: str) -> str:
    """The version of lmms-eval in an environment.

    Raises:
        ValueError: it has none, or is no Python.
    """
    asked = "from importlib.metadata import version; print(version('lmms_eval'))"
    try:
        done = subprocess.run([python, "-c", asked], capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(
            f"--python {python} does not run ({error}): give the Python of lmms-eval's environment"
        ) from None
    if done.returncode:
        raise ValueError(
            f"--python {python} has no lmms-eval: install it in an environment of its own (pip install lmms-eval), "
            "and give that one's Python"
        )
    return done.stdout.strip()


def plan(model: str, tasks: Tasks, version: str, dtype: str) -> Plan:
    """The artifact of a model's figures; `model` is its fingerprint."""
    identity: dict[str, Any] = {
        "tasks": sorted(tasks.names),
        "include": storage.listing_version(tasks.include) if tasks.include else "",
        "limit": tasks.limit,
        "class": tasks.model_class,
        "arguments": dict(sorted(tasks.arguments.items())),
        "lmms_eval": version,
        "dtype": dtype,
    }
    parents = {"model": model}
    return Plan(stage="lmms", code_version=CODE_VERSION, identity=identity, parents=parents, kind=TaskFigure.__name__)


def run(config: Config, model: Model, tasks: Tasks, plan: Plan) -> Artifact:
    """Make the artifact, on a worker with a pool's actor's share of GPUs."""
    start = time.monotonic()
    uri, pool = storage.join(config.store, plan.name), config.execution.pool
    work = ray.remote(num_cpus=pool.num_cpus, num_gpus=pool.num_gpus, max_retries=2)(_evaluate)
    num = ray.get(work.remote(model, tasks, "cuda" if pool.num_gpus else "cpu", uri))
    return finish_stage(
        store=config.store,
        plan=plan,
        num_units=num,
        figures={"seconds": round(time.monotonic() - start, 3)},
        max_reject_rate=0.0,
    )


def command(model: str, dtype: str, tasks: Tasks, device: str, output: str) -> list[str]:
    """What is started in lmms-eval's environment."""
    arguments = {"pretrained": model, "device": device, "device_map": device, "dtype": dtype, **tasks.arguments}
    return [
        *(tasks.python, "-m", "lmms_eval", "--model", tasks.model_class),
        *("--model_args", ",".join(f"{name}={value}" for name, value in arguments.items())),
        *("--tasks", ",".join(tasks.names), "--batch_size", str(tasks.batch_size)),
        *(("--include_path", tasks.include) if tasks.include else ()),
        *(("--limit", str(tasks.limit)) if tasks.limit is not None else ()),
        *("--output_path", output),
    ]


def _evaluate(model: Model, tasks: Tasks, device: str, uri: str) -> int:
    with tempfile.TemporaryDirectory(prefix="lmms-") as folder:
        path = storage.local_copy(model.path)
        called = command(path, model.dtype, tasks, device, folder)
        done = subprocess.run(called, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        found = sorted(Path(folder).rglob("*_results.json"))
        if not found:
            told = " / ".join(line.strip() for line in done.stdout.splitlines()[-_TOLD:] if line.strip())
            raise ValueError(f"lmms-eval ended without results on {model.path}; its last lines: {told}")
        rows = read_results(json.loads(found[-1].read_text()))
    artifacts.write_rows(uri, rows, TaskFigure, [])
    return len(rows)


def read_results(tree: Mapping[str, Any]) -> list[TaskFigure]:
    """The figures of lmms-eval's results file, of which each is a number under "METRIC,FILTER".

    Raises:
        ValueError: it has none.
    """
    rows = []
    for task, figures in tree.get("results", {}).items():
        sizes = tree.get("n-samples", {}).get(task, {})
        for name, value in figures.items():
            metric, comma, kind = name.partition(",")
            if not comma or "_stderr" in metric or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            error = figures.get(f"{metric}_stderr,{kind}")
            rows.append(
                TaskFigure(
                    id=make_id(task, metric, kind),
                    task=task,
                    metric=metric if kind == "none" else f"{metric} ({kind})",
                    value=float(value),
                    standard_error=float(error) if isinstance(error, int | float) else math.nan,
                    num_questions=int(sizes.get("effective", 0)),
                )
            )
    if not rows:
        raise ValueError("lmms-eval's results hold no figure: do its tasks' data exist where it looks?")
    return rows
