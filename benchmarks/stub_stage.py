"""A stage without a model, for benchmarks of everything around it; importable, so that workers find it by name."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from stic_ray.flow import UNIT, Outcome, Task


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the stub makes of a row."""

    id: str
    image_uri: str
    text: str
    num_tokens: int
    error: str = ""


def answer_text(key: str) -> str:
    """What a stub engine says: about a hundred characters."""
    return f"The image {key} shows a table with two plates, a glass of water and a window behind it."


class Stub:
    """Our worker: an answer a unit."""

    def figures(self) -> Mapping[str, float]:
        """None."""
        return {}

    def __call__(self, tasks: Sequence[Task]) -> list[Outcome]:
        """One row a unit."""
        return [
            Outcome(
                id=task.id,
                rows=[Answer(id=task.id, image_uri=task.payload, text=answer_text(task.id), num_tokens=20)],
                reason="",
            )
            for task in tasks
        ]


class PeerStub:
    """The same on plain Ray Data."""

    def __call__(self, table: pa.Table) -> pa.Table:
        """A table of answers."""
        keys = table.column("id").to_pylist()
        return pa.table(
            {
                "id": table.column("id"),
                "image_uri": table.column("uri"),
                "text": [answer_text(key) for key in keys],
                "num_tokens": [20] * len(keys),
                "error": [""] * len(keys),
            }
        )


def read_names(rows: pa.Table) -> pa.Table:
    """Units without an image, their URI as payload: nothing but the control plane works."""
    return pa.table([rows.column("id"), [""] * rows.num_rows, rows.column("uri")], schema=UNIT)


_ENGINE = """
import sys, time
for line in sys.stdin:
    time.sleep(float(line))
    print("done", flush=True)
"""
ENGINE_MARK = "stub-engine"  # on its command line
POISON_MARK = "poison"


class ProcessStub:
    """A worker whose engine is a process of its own: it dies with it, and of poison; it logs every unit that it did."""

    def __init__(self, *, log: str, unit_s: float) -> None:
        self._log = log
        self._unit_s = unit_s
        command = [sys.executable, "-c", _ENGINE, ENGINE_MARK]
        self._engine = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def figures(self) -> Mapping[str, float]:
        """None."""
        return {}

    def __call__(self, tasks: Sequence[Task]) -> list[Outcome]:
        """One row a unit, when the engine has answered."""
        assert self._engine.stdin is not None and self._engine.stdout is not None
        if any(task.payload.endswith(POISON_MARK) for task in tasks):
            os._exit(1)
        try:
            self._engine.stdin.write(f"{self._unit_s * len(tasks)}\n")
            self._engine.stdin.flush()
        except BrokenPipeError:
            os._exit(1)
        if not self._engine.stdout.readline():
            os._exit(1)
        with open(self._log, "a") as file:
            file.write(f"{len(tasks)}\n")
        return Stub()(tasks)
