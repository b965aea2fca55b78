"""An engine, its processes and its actor live and die together; Ray starts them anew, and no row is lost or doubled."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stic_ray import artifacts
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import CorruptedImage, Downsize, Execution, MisleadingPrompt, Negatives, Prompts, Sampling, Vllm
from stic_ray.engines import EngineStart
from stic_ray.flow import Inputs, Outcome, Task, Work, image_alone, run_stage
from stic_ray.records import Found, Response, make_id
from stic_ray.stages.generate import Prepare, Responder

_SETTINGS = Vllm(cpu_cache_gib=0.25, eager=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from random_models import Size, save_random_model  # Ray's workers import this module, and have no such one

    return save_random_model("llava", tmp_path_factory.mktemp("llava") / "model", Size())


class _Struck:
    """Responses, but for the first actor, whose engine's process is killed at its second batch."""

    def __init__(self, *, folder: str, **arguments: Any) -> None:
        self._responder = Responder(**arguments)
        self._folder = Path(folder)
        (self._folder / f"{os.getpid()}").touch()
        self._calls = 0

    def figures(self) -> Mapping[str, float]:
        return self._responder.figures()

    def __call__(self, tasks: Sequence[Task]) -> list[Outcome]:
        self._calls += 1
        if self._calls == 2 and len(list(self._folder.iterdir())) == 1:
            (child,) = multiprocessing.active_children()
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
        return self._responder(tasks)


def test_actor_dies_with_its_engine_and_every_row_comes_once(ray_local: None, model: Path, tmp_path: Path) -> None:
    started = tmp_path / "started"
    started.mkdir()
    rows = []
    for number in range(24):
        path = tmp_path / f"{number}.png"
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(path)
        rows.append(Found(id=make_id(number), key=path.name, uri=str(path)))
    pool = Prompts(detailed=("a",), simple=("b",), misleading=("c",), infused="{description}{question}")
    negatives = Negatives(kinds=(MisleadingPrompt(), CorruptedImage(corruptions=(Downsize(short_side_px=4),))))
    work = Work(
        record=Response,
        input_column="item_id",
        prepare=Prepare(seed=0, pool=pool, negatives=negatives),
        worker=_Struck,
        worker_arguments={
            "folder": str(started),
            "engine": EngineStart(settings=_SETTINGS, model_uri=str(model), dtype="float32", batch_size=4),
            "sampling": Sampling(temperature=1.0, max_new_tokens=4),
            "negatives": negatives,
            "pool": pool,
            "model": "base-1",
        },
        concurrent_batches=3,
    )
    execution = Execution(task_cpus=0.5, batch_size=4, rows_per_file=8)
    plan = Plan(stage="responses", code_version=1, identity={}, kind="Response")
    artifacts.write_rows(str(tmp_path / "parent"), rows, Found, [])
    inputs = Inputs(parent=Artifact(uri=str(tmp_path / "parent"), record={}), column="id", read=image_alone)
    made = run_stage(store=str(tmp_path / "store"), plan=plan, work=work, inputs=inputs, execution=execution)
    found = artifacts.read(made.uri, Response)
    assert sorted(row.image_id for row in found) == sorted([row.id for row in rows] * 2)
    assert artifacts.read_rejects(made.uri) == []
    assert len(list(started.iterdir())) == 2


_OWNER = """
import json, multiprocessing, os, sys, threading, time
from stic_ray.config import Vllm
from stic_ray.engines import EngineStart, start_engine

def strike(victim):
    while not multiprocessing.active_children():
        time.sleep(0.01)
    time.sleep(1.0)  # it loads
    (child,) = multiprocessing.active_children()
    tell([child.pid])
    os.kill(os.getpid() if victim == "owner" else child.pid, 9)

def tell(children):
    with open(sys.argv[2], "w") as file:
        json.dump(children, file)

if __name__ == "__main__":
    when = sys.argv[3]
    if when != "afterwards":
        threading.Thread(target=strike, args=(when,), daemon=True).start()
    settings = Vllm(cpu_cache_gib=0.25, eager=True)
    start = EngineStart(settings=settings, model_uri=sys.argv[1], dtype="float32", batch_size=1)
    engine = start_engine(start)
    if when == "afterwards":
        tell([child.pid for child in multiprocessing.active_children()])
        os.kill(os.getpid(), 9)
    engine.shut_down()
"""


def _own(model: Path, folder: Path, when: str) -> tuple[int, list[int]]:
    """How a process ended that started an engine, and the children that it told of."""
    script, listing = folder / "owner.py", folder / "children.json"
    script.write_text(_OWNER)
    with (folder / "log").open("wb") as log:
        done = subprocess.run([sys.executable, str(script), str(model), str(listing), when], stdout=log, stderr=log)
    children = json.loads(listing.read_text())
    assert children, (folder / "log").read_text()
    return done.returncode, children


@pytest.mark.parametrize("when", ["afterwards", "owner"])
def test_engine_dies_with_an_owner_that_is_killed_also_while_it_starts(model: Path, tmp_path: Path, when: str) -> None:
    ended, children = _own(model, tmp_path, when)
    assert ended == -signal.SIGKILL, (tmp_path / "log").read_text()
    deadline = time.monotonic() + 20
    while any(_runs(child) for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_engine_whose_process_is_killed_while_it_starts_is_started_again(model: Path, tmp_path: Path) -> None:
    ended, children = _own(model, tmp_path, "engine")
    log = (tmp_path / "log").read_text()
    assert ended == 0 and "vLLM does not start (1 of 3 tries)" in log, log
    assert not any(_runs(child) for child in children)


def _runs(pid: int) -> bool:
    """Not gone, and not a dead one that nobody has asked after."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
