"""Benchmark files that no author would publish and somebody will have: each is one line that names it."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stic_ray.config import (
    Benchmark,
    CvBench,
    DocVqa,
    MathVista,
    MmBench,
    MultipleChoice,
    ScienceQa,
    ShortAnswers,
    TextVqa,
)
from tests.evaluate.answering import read
from tests.evaluate.benchmark_files import write, write_lines

_SCIENCE = {"question": "q", "choices": ["a", "b"], "answer": 0, "split": "test", "subject": "s"}
_MATH = {"question": "q", "image": "1.png", "answer": "a", "answer_type": "text", "choices": ["a", "b"]}
_SHORT = {"question_id": 1, "text": "t", "answer": "a", "category": "c"}


def _science(home: Path, text: str) -> ScienceQa:
    (home / "problems.json").write_text(text)
    return ScienceQa(questions=str(home / "problems.json"), images=str(home))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"1": {}, "1": {}}', "'1' stands twice in one object"),
        ("[" * 200_000, "it is nested too deeply"),
        (f'{{"1": {"9" * 5000}}}', "not JSON"),
        (json.dumps({"1": {**_SCIENCE, "choices": ["a"] * 27}}), "a list of at most 26 texts"),
        (json.dumps({"1": {**_SCIENCE, "answer": "--1"}}), "answer is '--1'"),
        (json.dumps({"1": {**_SCIENCE, "question": "\ud800"}}), "halves of characters"),
        (json.dumps({"\ud800": _SCIENCE}), "halves of characters"),
    ],
)
def test_json_that_cannot_be_read_whole(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"problems\.json") as caught:
        read(_science(tmp_path, text))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "c"}, "answer is 'c': it must be one of the choices"),
        ({"metadata": 3}, "metadata is 3"),
        ({"choices": None, "answer_type": "float", "precision": "x"}, "precision is 'x'"),
        ({"answer": 0}, "answer is 0"),
    ],
)
def test_math_vista_fields(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    questions = write(tmp_path / "testmini.json", {"1": {**_MATH, **change}})
    with pytest.raises(ValueError, match="testmini") as caught:
        read(MathVista(questions=questions, images=str(tmp_path)))
    assert message in str(caught.value)


def test_gold_answers_that_say_nothing(tmp_path: Path) -> None:
    row = {"question_id": 1, "image_id": "i", "question": "q", "answers": ["", " "]}
    with pytest.raises(ValueError, match="one at least is not blank"):
        read(TextVqa(questions=write(tmp_path / "t.json", {"data": [row]}), images=str(tmp_path)))
    row = {"questionId": 1, "image": "i.png", "question": "q", "answers": [""]}
    with pytest.raises(ValueError, match="one at least is not blank"):
        read(DocVqa(questions=write(tmp_path / "d.json", {"data": [row]}), images=str(tmp_path)))


def test_benchmarks_without_a_question(tmp_path: Path) -> None:
    (tmp_path / "m.tsv").write_text("index\tquestion\tA\tB\timage\tanswer\n")
    (tmp_path / "mmlu").mkdir()
    columns: dict[str, Any] = {"idx": [], "question": [], "choices": [], "answer": [], "image": []}
    pq.write_table(
        pa.table({name: pa.array(each, pa.string()) for name, each in columns.items()}), tmp_path / "c.parquet"
    )
    empty: list[Benchmark] = [
        MmBench(questions=str(tmp_path / "m.tsv")),
        MultipleChoice(questions=str(tmp_path / "mmlu")),
        CvBench(questions={"2D": str(tmp_path / "c.parquet")}),
    ]
    for benchmark in empty:
        with pytest.raises(ValueError, match="holds no question"):
            read(benchmark)


def test_subjects_and_categories_that_take_each_others_place(tmp_path: Path) -> None:
    for name in ("a.csv", "a_test.csv"):
        (tmp_path / name).write_text("q,x,y,A\n")
    with pytest.raises(ValueError, match=r"a_test\.csv: its subject is that of .*a\.csv"):
        read(MultipleChoice(questions=str(tmp_path)))
    for first, second in (("c", "c/d"), ("x", "accuracy/x")):
        rows = [{**_SHORT, "category": first}, {**_SHORT, "question_id": 2, "category": second}]
        with pytest.raises(ValueError, match="would be a part of the category"):
            read(ShortAnswers(questions=write_lines(tmp_path / "s.jsonl", rows)))


def test_cells_of_any_length_and_old_line_ends(tmp_path: Path) -> None:
    (tmp_path / "long.csv").write_bytes(f"{'q' * 200_000},x,y,A\rsecond\u2028half,x,y,B\r".encode())
    assert [question.answers for question in read(MultipleChoice(questions=str(tmp_path / "long.csv")))] == [
        ["A"],
        ["B"],
    ]
