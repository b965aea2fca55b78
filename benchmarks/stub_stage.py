"""A stage without a model, for benchmarks of everything around it; importable, so that workers find it by name."""

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


def read_images(rows: pa.Table) -> pa.Table:
    """Units with their image."""
    return pa.table([rows.column("id"), rows.column("uri"), [""] * rows.num_rows], schema=UNIT)
