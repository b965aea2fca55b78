"""The official file formats: every benchmark reads a file of its shape, says what a wrong one lacks, and measures."""

import base64
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stic_ray import sources
from stic_ray.config import (
    Amber,
    ChartQa,
    CvBench,
    DocVqa,
    MathVista,
    MmBench,
    MultipleChoice,
    ScienceQa,
    TextVqa,
)
from tests.evaluate.answering import answer, figures, predict, read
from tests.evaluate.benchmark_files import png, write

# TextVQA

TEXTVQA = {"question_id": 34602, "image_id": "003a8ae2ef43b901", "question": "what brand?", "answers": ["dakota"] * 10}


def test_textvqa_reads_its_file_and_measures_vqa_accuracy(tmp_path: Path) -> None:
    other = {**TEXTVQA, "question_id": 34603, "answers": ["nous les gosses"] * 2 + ["dakota"] * 8}
    uri = write(tmp_path / "val.json", {"dataset_type": "val", "data": [TEXTVQA, other]})
    benchmark = TextVqa(questions=uri, images="images")
    rows = read(benchmark)
    assert [row.image_uri for row in rows] == ["images/003a8ae2ef43b901.jpg"] * 2
    assert rows[0].text.startswith("what brand?\n")
    said = [answer(rows[0], "Dakota."), answer(rows[1], "nous les gosses")]
    # Of ten people two agree: the eight others see two, and the two see one each.
    assert figures(benchmark, said)["accuracy"] == pytest.approx(100 * (1 + (8 * 2 / 3 + 2 * 1 / 3) / 10) / 2)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([TEXTVQA], "top level: list: it must be a JSON object"),
        ({"questions": [TEXTVQA]}, "it must be JSON with a list that is not empty under 'data'"),
        ({"data": [{**TEXTVQA, "answers": "dakota"}]}, "entry 1: answers is 'dakota': it must be a list of texts"),
        ({"data": [TEXTVQA, TEXTVQA]}, "entry 2: question_id is 34602: it must be different from entry 1's"),
        ({"data": [{**TEXTVQA, "image_id": "../a"}]}, "entry 1: image_id is '../a': it must be a path below images"),
    ],
)
def test_textvqa_wrong_file_is_told_by_place_and_field(tmp_path: Path, tree: Any, message: str) -> None:
    uri = write(tmp_path / "val.json", tree)
    with pytest.raises(ValueError, match=r"val\.json") as caught:
        read(TextVqa(questions=uri, images="images"))
    assert message in str(caught.value)


# ChartQA


def test_chartqa_is_the_mean_of_human_and_augmented(tmp_path: Path) -> None:
    human = [
        {"imgname": "1.png", "query": "how much?", "label": "100"},
        {"imgname": "1.png", "query": "a?", "label": "b"},
    ]
    augmented = [{"imgname": "2.png", "query": "share?", "label": "3.5"}]
    files = {"human": write(tmp_path / "h.json", human), "augmented": write(tmp_path / "a.json", augmented)}
    benchmark = ChartQa(questions=files, images="png")
    rows = read(benchmark)
    assert [(row.category, row.key, row.image_uri) for row in rows] == [
        ("human", "human-0", "png/1.png"),
        ("human", "human-1", "png/1.png"),
        ("augmented", "augmented-0", "png/2.png"),
    ]
    said = [answer(row, text) for row, text in zip(rows, ["104.9", "c", "3.6"], strict=True)]
    assert figures(benchmark, said) == {"accuracy": 75.0, "kind/human": 50.0, "kind/augmented": 100.0}


def test_chartqa_wrong_file_is_told(tmp_path: Path) -> None:
    uri = write(tmp_path / "h.json", [{"imgname": "1.png", "query": "how much?", "label": 7}])
    with pytest.raises(ValueError, match=r"h\.json, entry 1: label is 7: it must be a text"):
        read(ChartQa(questions={"human": uri}, images="png"))


# DocVQA


def test_docvqa_has_anls_and_accuracy(tmp_path: Path) -> None:
    entry = {
        "questionId": 49153,
        "question": "total?",
        "image": "documents/pybv0228_81.png",
        "answers": ["$12.00", "12"],
    }
    uri = write(tmp_path / "val.json", {"dataset_name": "docvqa", "data": [entry, {**entry, "questionId": 2}]})
    benchmark = DocVqa(questions=uri, images="docs")
    rows = read(benchmark)
    assert rows[0].image_uri == "docs/pybv0228_81.png"
    said = [answer(rows[0], "12"), answer(rows[1], "$12.0")]
    assert figures(benchmark, said) == {"anls": pytest.approx(100 * (1 + 5 / 6) / 2), "accuracy": 50.0}


# ScienceQA

SCIENCEQA = {
    "21": {
        "question": "Which is solid?",
        "choices": ["water", "ice"],
        "answer": 1,
        "hint": "",
        "image": "image.png",
        "split": "test",
        "subject": "natural science",
    },
    "7": {
        "question": "What is the capital?",
        "choices": ["Salem", "Boise", "Reno"],
        "answer": 0,
        "hint": "Look it up.",
        "image": None,
        "split": "test",
        "subject": "social science",
    },
    "8": {"question": "?", "choices": ["a", "b"], "answer": 0, "split": "train"},
}


def test_scienceqa_reads_the_split_with_and_without_images(tmp_path: Path) -> None:
    benchmark = ScienceQa(questions=write(tmp_path / "problems.json", SCIENCEQA), images="sqa")
    seen, text = read(benchmark)
    assert (seen.image_uri, text.image_uri) == ("sqa/21/image.png", "")
    letter = "Answer with the option's letter from the given choices directly."
    assert seen.text == f"Which is solid?\nA. water\nB. ice\n{letter}"
    assert text.text == f"Context: Look it up.\nWhat is the capital?\nA. Salem\nB. Boise\nC. Reno\n{letter}"
    found = figures(benchmark, [answer(seen, "B"), answer(text, "The answer is B.")])
    assert found == {
        "accuracy": 50.0,
        "subject/natural science": 100.0,
        "subject/social science": 0.0,
        "context/image": 100.0,
        "context/text": 0.0,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 2}, "entry 21: answer is 2: it must be the number of a choice, 0 to 1"),
        ({"choices": []}, "entry 21: choices is []: it must be a list of texts"),
        ({"split": "val"}, "has no questions of split test: set split to one of its"),
    ],
)
def test_scienceqa_wrong_file_is_told(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    uri = write(tmp_path / "problems.json", {"21": {**SCIENCEQA["21"], **change}})
    with pytest.raises(ValueError, match=r"problems\.json") as caught:
        read(ScienceQa(questions=uri, images="sqa"))
    assert message in str(caught.value)


# MMLU's form


def test_multiple_choice_reads_mmlus_form(tmp_path: Path) -> None:
    path = tmp_path / "test.csv"
    path.write_text('"What is 2, plus 2?",3,4,5,6,B\nWhich is red?,grass,sky,blood,snow,C\n')
    benchmark = MultipleChoice(questions=str(path))
    rows = read(benchmark)
    assert rows[0].text.startswith("What is 2, plus 2?\nA. 3\nB. 4\nC. 5\nD. 6\n")
    assert [row.image_uri for row in rows] == ["", ""]
    said = [answer(rows[0], "B"), answer(rows[1], "It is the sky.")]
    assert figures(benchmark, said) == {"accuracy": 50.0, "subject/test": 50.0}
    (tmp_path / "law_test.csv").write_text("Who?,me,you,A\n")
    every = read(MultipleChoice(questions=str(tmp_path)))
    assert [row.category for row in every] == ["law", "test", "test"] and len({row.id for row in every}) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n", "row 1: 2 cells"),
        ("q,a,b,E\n", "row 1: the answer is 'E': it must be one of A, B"),
        (" \n", "is empty"),
    ],
)
def test_multiple_choice_wrong_file_is_told(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "test.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"test\.csv") as caught:
        read(MultipleChoice(questions=str(path)))
    assert message in str(caught.value)


# MMBench

HEADER = "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\timage\tsplit\n"


def mmbench_line(index: int, image: str, answer: str = "B", c: str = "", hint: str = "") -> str:
    return f"{index}\tWhich one?\t{hint}\tred\tblue\t{c}\t\t{answer}\tcolor\t{image}\tdev\n"


def mmbench(folder: Path, *lines: str, **settings: Any) -> MmBench:
    path = folder / "mmbench.tsv"
    path.write_text(HEADER + "".join(lines), encoding="utf-8")
    return MmBench(questions=str(path), **settings)


def test_mmbench_turns_the_choices_and_counts_questions_whose_turns_are_all_right(tmp_path: Path) -> None:
    red, blue = (base64.b64encode(png(color) * 9).decode() for color in ("red", "blue"))
    benchmark = mmbench(tmp_path, mmbench_line(3, red, c="green", hint="Look."), mmbench_line(4, blue, "A"))
    rows = read(benchmark)
    assert [row.key for row in rows] == ["3", "1000003", "2000003", "4", "1000004"]
    assert [row.choices for row in rows[:3]] == [
        ["red", "blue", "green"],
        ["blue", "green", "red"],
        ["green", "red", "blue"],
    ]
    assert [row.answers for row in rows] == [["B"], ["A"], ["C"], ["A"], ["B"]]
    assert rows[1].text.startswith("Look.\nWhich one?\nA. blue\nB. green\nC. red\n")
    assert sources.read_image(rows[0].image_uri) == png("red") * 9
    assert sources.read_image(rows[3].image_uri) == png("blue") * 9
    always_a = [answer(row, "A") for row in rows]
    assert figures(benchmark, always_a) == {"circular": 0.0, "accuracy": 40.0, "category/color": 0.0}
    first_only = [answer(row, row.answers[0] if row.group == "3" else "A") for row in rows]
    assert figures(benchmark, first_only) == {"circular": 50.0, "accuracy": 80.0, "category/color": 50.0}


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([("q", True), ("q", True), ("q", True), ("r", True)], 1.0),
        ([("q", True)], 1.0),
        ([("q", False)], 0.0),
        ([("q", True), ("q", True)], 1.0),
        ([("q", True), ("q", False)], 0.0),
        ([("q", False), ("q", True)], 0.0),
        ([("q", True)] * 4, 1.0),
        ([("q", True)] * 3 + [("q", False)], 0.0),
        ([("q", True), ("r", False)], 0.5),
        ([("q", True), ("r", True)], 1.0),
        ([("q", True), ("r", True), ("q", False)], 0.5),
        ([("q", False)] * 4 + [("r", True)] * 4, 0.5),
        ([("q", True), ("r", True), ("s", True), ("s", False)], 2 / 3),
        ([("q", False), ("r", False), ("s", False)], 0.0),
        ([("q", True)] * 2 + [("r", True)] * 3 + [("s", True)] * 4 + [("t", False)], 0.75),
    ],
)
def test_circular_accuracy_wants_every_turn(turns: list[tuple[str, bool]], expected: float) -> None:
    benchmark = MmBench(questions="q.tsv")
    rows = []
    for number, (question, correct) in enumerate(turns):
        row = predict("mmbench", question, "A" if correct else "B", ["A"])
        several = sum(question == other for other, _ in turns)
        rows.append(replace(row, id=f"{number}", group=question, form=f"{several} made", choices=["x", "y"]))
    assert figures(benchmark, rows)["circular"] == pytest.approx(100 * expected)
    if len(rows) > len({row.group for row in rows}):  # a turn without an answer: nobody knows of its question
        missing = next(row for row in rows if row.form != "1 made")
        left = [row for row in rows if row is not missing]
        known = {row.group for row in left if row.group != missing.group}
        right = [all(correct for other, correct in turns if other == question) for question in known]
        found = figures(benchmark, left)["circular"]
        assert found == pytest.approx(100 * sum(right) / len(right)) if right else math.isnan(found)


def test_mmbench_file_with_turns_of_its_own_is_not_turned_again(tmp_path: Path) -> None:
    image = base64.b64encode(png("red") * 9).decode()
    benchmark = mmbench(tmp_path, mmbench_line(3, image), mmbench_line(1_000_003, "3", "A"))
    rows = read(benchmark)
    assert [(row.key, row.group, row.answers) for row in rows] == [("3", "3", ["B"]), ("1000003", "3", ["A"])]
    assert rows[0].image_uri == rows[1].image_uri


def test_mmbench_secret_answers_are_not_counted(tmp_path: Path) -> None:
    image = base64.b64encode(png("red") * 9).decode()
    benchmark = mmbench(tmp_path, mmbench_line(3, image, ""), mmbench_line(4, "3", "A"), circular=False)
    rows = read(benchmark)
    assert rows[0].answers == []
    assert figures(benchmark, [answer(row, "A") for row in rows])["circular"] == 100.0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (mmbench_line(3, "9"), "image is '9': it must be an image in base64, or the index of a row before"),
        (mmbench_line(3, "?" * 400), "it must be an image in base64, or the name of a file"),
        (mmbench_line(3, "A" * 400, "D"), "answer is 'D': it must be one of A, B, or empty where it is secret"),
        ("x" + mmbench_line(3, "A" * 400), "index is 'x3': it must be a whole number"),
    ],
)
def test_mmbench_wrong_file_is_told(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"mmbench\.tsv, row 1: ") as caught:
        read(mmbench(tmp_path, line))
    assert message in str(caught.value)


# CV-Bench

CVBENCH = {
    "idx": 0,
    "type": "2D",
    "task": "Count",
    "question": "How many?",
    "choices": ["1", "2", "3"],
    "answer": "(C)",
    "source": "ADE20K",
}


def cvbench(path: Path, rows: list[dict[str, Any]]) -> str:
    images = [{"bytes": png("red"), "path": None}] * len(rows)
    pq.write_table(pa.Table.from_pylist(rows).append_column("image", pa.array(images)), path)
    return str(path)


def test_cvbench_is_the_mean_of_its_parts_and_2d_of_its_sources(tmp_path: Path) -> None:
    coco = {**CVBENCH, "source": "COCO", "answer": "(A)"}
    two = [CVBENCH, {**coco, "idx": 1}, {**coco, "idx": 2}, {**coco, "idx": 3}]
    three = [{**CVBENCH, "type": "3D", "source": "Omni3D", "task": "Depth"}]
    files = {"2D": cvbench(tmp_path / "2d.parquet", two), "3D": cvbench(tmp_path / "3d.parquet", three)}
    benchmark = CvBench(questions=files)
    rows = read(benchmark)
    assert rows[0].text.startswith("How many?\nA. 1\nB. 2\nC. 3\n")
    assert sources.read_image(rows[0].image_uri) == png("red")
    assert len({row.id for row in rows}) == len({row.image_id for row in rows}) == 5
    found = figures(benchmark, [answer(row, text) for row, text in zip(rows, "CABBC", strict=True)])
    assert found["2D"] == pytest.approx((100 + 100 / 3) / 2)
    assert found["3D"] == 100.0
    assert found["accuracy"] == pytest.approx((found["2D"] + 100) / 2)
    assert found["task/Count"] == 50.0


def test_cvbench_wrong_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"row 1: answer is '\(D\)': it must be one of \(A\), \(B\), \(C\)"):
        read(CvBench(questions={"2D": cvbench(tmp_path / "2d.parquet", [{**CVBENCH, "answer": "(D)"}])}))
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match=r"damaged\.parquet: damaged table"):
        read(CvBench(questions={"2D": str(tmp_path / "damaged.parquet")}))


# MathVista


def test_mathvista_reads_choices_numbers_and_units(tmp_path: Path) -> None:
    metadata = {"task": "figure question answering", "context": "bar chart"}
    free = {"image": "images/1.jpg", "choices": None, "unit": "cm", "precision": 1.0, "metadata": metadata}
    problems = {
        "1": {**free, "question": "How long?", "answer": "1.2", "question_type": "free_form", "answer_type": "float"},
        "2": {
            **free,
            "question": "Is it?",
            "answer": "Yes",
            "choices": ["Yes", "No"],
            "question_type": "multi_choice",
            "answer_type": "text",
            "unit": None,
        },
        "3": {**free, "question": "How many?", "answer": "12", "answer_type": "integer", "unit": None},
    }
    benchmark = MathVista(questions=write(tmp_path / "testmini.json", problems), images="mv")
    rows = read(benchmark)
    assert [(row.text, row.form) for row in rows] == [
        ("How long? (Unit: cm)", "float 1"),
        ("Is it?\nA. Yes\nB. No", "choice"),
        ("How many?", "integer"),
    ]
    said = [answer(row, text) for row, text in zip(rows, ["It is 1.19 cm.", "(B)", "I count 12"], strict=True)]
    found = figures(benchmark, said)
    assert found["accuracy"] == found["task/figure question answering"] == pytest.approx(200 / 3)


# AMBER

RELATIONS = {"person": ["people", "man", "woman"], "tree": ["bush"], "dog": ["puppy"], "car": ["vehicle"], "sky": []}


def amber(folder: Path, hallu: list[str] | None = None) -> Amber:
    truth = {
        "id": 1,
        "type": "generative",
        "truth": ["person", "tree", "sky"],
        "hallu": ["dog"] if hallu is None else hallu,
    }
    (folder / "safe.txt").write_text("sky\n")
    return Amber(
        questions=write(folder / "q.json", [{"id": 1, "image": "AMBER_1.jpg", "query": "Describe this image."}]),
        annotations=write(
            folder / "a.json", [truth, {"id": 2, "type": "discriminative-hallucination", "truth": "yes"}]
        ),
        relations=write(folder / "r.json", RELATIONS),
        safe_words=str(folder / "safe.txt"),
        images="amber",
    )


def test_amber_counts_imagined_covered_and_likely_words(tmp_path: Path) -> None:
    benchmark = amber(tmp_path)
    (row,) = read(benchmark)
    assert (row.text, row.answers, row.choices) == ("Describe this image.", ["person", "tree", "sky"], ["dog"])
    # People and man stand for person, bush for tree; sky is never wrong and covers nothing; puppy and car are imagined.
    said = [answer(row, "Two people, a man, a bush, puppies and cars below the sky. A unicorn.")]
    assert figures(benchmark, said) == {
        "chair": pytest.approx(100 * 2 / 6),
        "cover": pytest.approx(100 * 2 / 3),
        "hal": 100.0,
        "cog": 100.0,
    }
    assert figures(amber(tmp_path, hallu=[]), [answer(row, "a man")])["hal"] == 0.0


def test_amber_words_that_are_seldom_nouns_count_behind_an_article_only(tmp_path: Path) -> None:
    benchmark = amber(tmp_path)
    write(tmp_path / "r.json", {**RELATIONS, "can": [], "hot": []})
    (row,) = read(benchmark)
    assert figures(benchmark, [answer(row, "A man can be seen on a hot day")])["hal"] == 0.0
    assert figures(benchmark, [answer(row, "A man holds a can")])["hal"] == 100.0


def test_amber_question_without_annotation_is_told(tmp_path: Path) -> None:
    benchmark = amber(tmp_path)
    write(tmp_path / "q.json", [{"id": 9, "image": "x.jpg", "query": "?"}])
    with pytest.raises(ValueError, match=r"q\.json, entry 1: id is 9: it must be an entry of .*a\.json"):
        read(benchmark)
