"""Answers in the files that benchmarks' own scripts and servers take."""

import csv
import io
import json
import re
from collections.abc import Sequence

from stic_ray.config import Benchmark, Chair, MmBench, MmVet, Pope
from stic_ray.evaluate.answers import read_choice
from stic_ray.evaluate.benchmarks.choices import LETTERS
from stic_ray.records import Prediction

_TURN = 1_000_000


def write(benchmark: Benchmark, rows: Sequence[Prediction]) -> dict[str, bytes]:
    """Files by the ending of their names: a TSV for MMBench's server, answers by id for MM-Vet's, captions for CHAIR's
    script, a file a strategy for POPE's; JSON lines for every other."""
    if isinstance(benchmark, MmBench):
        return {".tsv": _mmbench(rows)}
    if isinstance(benchmark, MmVet):
        return {".json": _json({row.key: row.text for row in rows})}
    if isinstance(benchmark, Chair):
        return {".json": _json([{"image_id": _number(row.key), "caption": row.text} for row in rows])}
    if isinstance(benchmark, Pope):
        strategies = {row.category: [each for each in rows if each.category == row.category] for row in rows}
        return {f"_{name}.jsonl": _lines(each, "answer") for name, each in strategies.items()}
    return {".jsonl": _lines(rows, "text")}


def _mmbench(rows: Sequence[Prediction]) -> bytes:
    """The first turn of every question, with the letter that was chosen and the whole answer."""
    file = io.StringIO()
    table = csv.writer(file, delimiter="\t", lineterminator="\n")
    table.writerow(["index", "question", *"ABCDE", "prediction", "answer_text"])
    for row in rows:
        if int(row.key) < _TURN:
            choices = [*row.choices, *[""] * 5][:5]
            letter = read_choice(row.text, dict(zip(LETTERS, row.choices, strict=False)))
            table.writerow([row.key, row.question, *choices, letter, row.text])
    return file.getvalue().encode()


def _lines(rows: Sequence[Prediction], name: str) -> bytes:
    told = [{"question_id": row.key, "image": row.image_uri, "question": row.question, name: row.text} for row in rows]
    return "".join(f"{json.dumps(each, ensure_ascii=False)}\n" for each in told).encode()


def _json(tree: object) -> bytes:
    return (json.dumps(tree, ensure_ascii=False, indent=1) + "\n").encode()


def _number(name: str) -> int | str:
    """COCO's number of an image, where its file's name ends in one."""
    found = re.search(r"(\d+)\.\w+\Z", name)
    return int(found[1]) if found else name
