"""Answers in the files that benchmarks' own scripts and servers take."""

import csv
import io
import json
import re
from collections.abc import Sequence

from stic_ray.config import Amber, Benchmark, Chair, MmBench, MmVet, Pope
from stic_ray.evaluate.answers import read_choice
from stic_ray.evaluate.benchmarks import read_items
from stic_ray.evaluate.benchmarks.choices import LETTERS
from stic_ray.evaluate.benchmarks.mmbench import is_of_the_file
from stic_ray.records import Prediction

_MAX_DIGITS = 18  # of an id that is written as a number


def write(benchmark: Benchmark, rows: Sequence[Prediction]) -> dict[str, bytes]:
    """Files by the ending of their names, in the benchmark's own order: a TSV for MMBench's server, answers by id for
    MM-Vet's, captions for CHAIR's script, responses for AMBER's, a file a strategy for POPE's, else JSON lines."""
    if isinstance(benchmark, Chair):  # whose script knows captions by their image
        return {".json": _json([{"image_id": _number(row.key), "caption": row.text} for row in rows])}
    places = {(item.category, item.key): number for number, item in enumerate(read_items(benchmark))}
    rows = sorted(rows, key=lambda row: places[row.category, row.key])
    if isinstance(benchmark, MmBench):
        return {".tsv": _mmbench(rows)}
    if isinstance(benchmark, MmVet):
        return {".json": _json({row.key: row.text for row in rows})}
    if isinstance(benchmark, Amber):
        return {".json": _json([{"id": _id(row.key), "response": row.text} for row in rows])}
    if isinstance(benchmark, Pope):
        strategies = {row.category: [each for each in rows if each.category == row.category] for row in rows}
        return {f"_{name}.jsonl": _lines(each) for name, each in strategies.items()}
    return {".jsonl": _lines(rows)}


def _mmbench(rows: Sequence[Prediction]) -> bytes:
    """Every row of the file, with the letter that was chosen and the whole answer."""
    file = io.StringIO()
    table = csv.writer(file, delimiter="\t", lineterminator="\n")
    table.writerow(["index", "question", *"ABCDE", "prediction", "answer_text"])
    for row in filter(is_of_the_file, rows):
        choices = [*row.choices, *[""] * 5][:5]
        letter = read_choice(row.text, dict(zip(LETTERS, row.choices, strict=False)))
        table.writerow([row.key, row.question, *choices, letter, row.text])
    return file.getvalue().encode()


def _lines(rows: Sequence[Prediction]) -> bytes:
    lines = []
    for row in rows:
        told = {"question_id": _id(row.key), "image": row.image_uri, "question": row.question, "answer": row.text}
        lines.append(f"{json.dumps(told, ensure_ascii=False)}\n")
    return "".join(lines).encode()


def _id(key: str) -> int | str:
    """A question's id as its file has it."""
    return int(key) if len(key) <= _MAX_DIGITS and key.isdecimal() and str(int(key)) == key else key


def _json(tree: object) -> bytes:
    return (json.dumps(tree, ensure_ascii=False, indent=1) + "\n").encode()


def _number(name: str) -> int | str:
    """COCO's number of an image, where its file's name ends in one."""
    found = re.search(r"(\d+)\.\w+\Z", name)
    return int(found[1]) if found else name
