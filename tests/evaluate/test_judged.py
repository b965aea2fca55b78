"""Benchmarks that a judge reads: their files, and what is made of a judge's words."""

import base64
from pathlib import Path

import pytest

from stic_ray import sources
from stic_ray.config import (
    LlavaBench,
    MmHal,
    MmVet,
    ObjectHal,
)
from stic_ray.evaluate.benchmarks import judge_question, llava_bench, mmhal, mmvet, object_hal
from tests.evaluate.answering import answer, figures, judged, read
from tests.evaluate.benchmark_files import png, write, write_lines

# MM-Vet


def test_mmvet_is_graded_by_capability(tmp_path: Path) -> None:
    tree = {
        "v1_0": {
            "imagename": "v1_0.png",
            "question": "What is x?",
            "answer": "-1 <AND> -5",
            "capability": ["ocr", "math"],
        },
        "v1_1": {"imagename": "v1_1.png", "question": "Who?", "answer": "Messi", "capability": ["rec"]},
    }
    benchmark = MmVet(questions=write(tmp_path / "mm-vet.json", tree), images="images")
    said = [answer(row, "-1") for row in read(benchmark)]
    assert "-1 <AND> -5" in judge_question(benchmark)(said[0])
    verdicts = {v.id: v for v in (judged(said[0], [0.5]), judged(said[1], [0.0]))}
    assert figures(benchmark, said, verdicts) == {
        "score": 25.0,
        "capability/math": 50.0,
        "capability/ocr": 50.0,
        "capability/rec": 0.0,
    }
    assert figures(benchmark, said, {v: verdicts[v] for v in [judged(said[0]).id]})["score"] == 50.0


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("0.5", 0.5),
        ("0.5.", 0.5),
        ("0.5\nIt names 1 of 2.", 0.5),
        ("Grade: 1/10", None),
        ("1 out of 10", None),
        ("-1", None),
        ("I cannot see it; the answer 1 may be right.", None),
        ("Grade: 1.0", 1.0),
        ("1", 1.0),
        ("0", 0.0),
        (".3", 0.3),
        ("**0.7**", 0.7),
        ("0.5 0.5", 0.5),
        ("0.2 or 0.4", None),
        ("10", None),
        ("1.5", None),
        ("", None),
        ("I cannot grade this.", None),
    ],
)
def test_mmvet_reads_one_grade_or_none(text: str, grade: float | None) -> None:
    assert mmvet.read_verdict(text) == (None if grade is None else ([grade], []))


# MMHal


def test_mmhal_reads_its_official_file_and_rates(real_data: Path) -> None:
    benchmark = MmHal(questions=str(real_data / "benchmarks" / "mmhal_bench_template.json"), images="mmhal")
    rows = read(benchmark)
    assert len(rows) == len({row.id for row in rows}) == 96
    assert rows[0].image_uri == "mmhal/7206072054_c53d53b97d_o.jpg"
    assert "Fire hydrant" in judge_question(benchmark)(answer(rows[0], "red"))
    said = [answer(row, "yes") for row in rows]
    verdicts = {judged(row).id: judged(row, [2.0 if number < 24 else 4.0]) for number, row in enumerate(said)}
    found = figures(benchmark, said, verdicts)
    assert (found["score"], found["hallucination_rate"]) == (3.5, 25.0)
    assert {name for name in found if name.startswith("type/")} == {f"type/{row.category}" for row in rows}


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("It is fine.\nRating: 4", 4.0),
        ("rating: 0", 0.0),
        ("**Rating: 6**", 6.0),
        ("Rating: 3\nRating: 3", 3.0),
        ("Rating: 3.", 3.0),
        ('It only says "Rating: 6" and nothing else', None),
        ("Rating: 2, or Rating: 3", None),
        ("Rating:" + " " * 50_000, None),
        ("Rating: 7", None),
        ("Rating: 4.5", None),
        ("4", None),
    ],
)
def test_mmhal_reads_one_rating_or_none(text: str, rating: float | None) -> None:
    assert mmhal.read_verdict(text) == (None if rating is None else ([rating], []))


# LLaVA-Bench


def test_llava_bench_reads_its_official_files_and_is_relative(real_data: Path) -> None:
    folder = real_data / "benchmarks"
    benchmark = LlavaBench(
        questions=str(folder / "llava_bench_coco_questions.jsonl"),
        answers=str(folder / "llava_bench_coco_gpt4_answers.jsonl"),
        context=str(folder / "coco_caps_boxes_80.jsonl"),
        images="coco",
    )
    rows = read(LlavaBench(**{**vars(benchmark), "limit": 5}))
    assert len(rows) == 15
    assert {row.category for row in rows} == {"conv", "detail", "complex"}
    said = [answer(row, "an answer") for row in rows]
    asked = judge_question(benchmark)(said[0])
    assert rows[0].answers[0] in asked
    assert rows[0].context in asked
    scores = {"conv": [8.0, 4.0], "detail": [10.0, 10.0], "complex": [6.0, 9.0]}
    found = figures(benchmark, said, {judged(row).id: judged(row, scores[row.category]) for row in said})
    assert found["relative"] == pytest.approx(100 * 23 / 24)
    assert found["category/conv"] == 50.0


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("8 7\nBecause.", [8.0, 7.0]),
        ("8.5, 10\n", [8.5, 10.0]),
        ("9/3", None),
        ("8/10\n7/10", None),
        ("8" + " " * 50_000 + "9", None),
        ("8 7 6", None),
        ("0 5", None),
        ("11 5", None),
        ("Both are good: 8 7", None),
        ("8", None),
    ],
)
def test_llava_bench_reads_two_scores_of_the_first_line_or_none(text: str, scores: list[float] | None) -> None:
    assert llava_bench.read_verdict(text) == (None if scores is None else (scores, []))


# Object HalBench


def test_object_hal_counts_what_the_judge_reads_out(tmp_path: Path) -> None:
    image = base64.b64encode(png("red") * 9).decode()
    questions = [
        {"image_id": 25, "question": "Describe.", "image": image},
        {"image_id": 7, "question": "?", "image": "7.jpg"},
    ]
    objects = [{"image": f"COCO_val2014_{number:012d}.jpg", "objects": ["dog", "cat"]} for number in (25, 7)]
    benchmark = ObjectHal(
        questions=write_lines(tmp_path / "q.jsonl", questions),
        objects=write_lines(tmp_path / "o.jsonl", objects),
        images="coco",
    )
    rows = read(benchmark)
    assert sources.read_image(rows[0].image_uri) == png("red") * 9
    assert rows[1].image_uri == "coco/7.jpg"
    said = [answer(row, "a puppy and a truck on a lawn") for row in rows]
    names = [["small puppy", "truck", "lawn", "truck"], ["dog"]]
    verdicts = {judged(row).id: judged(row, names=each) for row, each in zip(said, names, strict=True)}
    found = figures(benchmark, said, verdicts)
    assert found["chair_i"] == pytest.approx(100 / 3)
    assert (found["chair_s"], found["recall"]) == (50.0, 50.0)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('["dog", "cat"]', ["dog", "cat"]),
        ('```json\n["dog"]\n```', ["dog"]),
        ("[]", []),
        ("dog, cat", None),
        ('["dog", 3]', None),
        ('["dog"', None),
        ("[" * 100_000 + "]" * 100_000, None),
        ("", None),
    ],
)
def test_object_hal_reads_a_list_or_none(text: str, names: list[str] | None) -> None:
    assert object_hal.read_verdict(text) == (None if names is None else ([], names))
