"""Files for tests of benchmarks."""

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image


def write(path: Path, tree: Any) -> str:
    """A JSON file; its name."""
    path.write_text(json.dumps(tree), encoding="utf-8")
    return str(path)


def write_lines(path: Path, rows: list[Any]) -> str:
    """A file of JSON lines; its name."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


def png(color: str) -> bytes:
    """An image of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (40, 30), color).save(file, "PNG")
    return file.getvalue()
