"""Blocks of summary.json, differences between models, groups."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from stic_ray.config import Benchmark, Chair, Pope, ShortAnswers
from stic_ray.evaluate.intervals import Bootstrap
from stic_ray.evaluate.summary import (
    Predictions,
    Truth,
    by_task,
    intervals_block,
    main_figures,
    model_block,
    paired_difference,
    questions_by_group,
    split_block,
    truth_of,
)
from stic_ray.records import Prediction
from tests.evaluate.answering import in_group, predict

BOOTSTRAP = Bootstrap(resamples=200, seed=0)
THERE = {"0.png": ["dog"], "1.png": ["cat", "dog"]}
BENCHMARKS: dict[str, Benchmark] = {
    "describe_simple": Chair(images="images", objects="objects.jsonl"),
    "describe_detailed": Chair(images="images", objects="objects.jsonl"),
    "pope": Pope(images="images", questions={"random": "r.jsonl", "adversarial": "a.jsonl"}),
    "questions": ShortAnswers(images="images", questions="q.jsonl", modes=("direct", "describe_first")),
}
TRUTH = truth_of(BENCHMARKS, {})


def describe(task: str, image: str, text: str) -> Prediction:
    return predict(task, image, text, THERE.get(image, ["dog"]))


def reply(task: str, image: str, text: str, gold: str, kind: str) -> Prediction:
    return in_group(predict(task, image, text, [gold], kind), "one object" if kind == "color" else "many objects")


ROWS = [
    describe("describe_simple", "0.png", "a dog and a bus"),
    describe("describe_simple", "1.png", "a dog"),
    describe("describe_detailed", "0.png", "a dog"),
    describe("describe_detailed", "1.png", "a dog a cat"),
    predict("pope", "0.png", "no", ["yes"], "adversarial"),
    predict("pope", "0.png", "no", ["no"], "adversarial"),
    predict("pope", "1.png", "yes", ["yes"], "adversarial"),
    reply("questions", "0.png", "red", "red", "color"),
    reply("questions", "1.png", "two", "three", "count"),
    reply("questions_dar", "0.png", "red", "red", "color"),
    reply("questions_dar", "1.png", "three", "three", "count"),
]
FEW = by_task(ROWS)


def many(hallucination_rate: float, seed: int, num_images: int = 300) -> Predictions:
    rng = random.Random(seed)
    images = [f"{index}.png" for index in range(num_images)]
    texts = ["a dog and a bus" if rng.random() < hallucination_rate else "a dog" for _ in images]
    return by_task(
        [predict("describe_simple", image, text, ["dog"]) for image, text in zip(images, texts, strict=True)]
    )


def shape_of(block: object) -> object:
    return {name: shape_of(value) for name, value in block.items()} if isinstance(block, dict) else None


POPE = {
    "accuracy": pytest.approx(200 / 3),
    "precision": 100.0,
    "recall": 50.0,
    "f1": pytest.approx(200 / 3),
    "yes_ratio": pytest.approx(100 / 3),
}


def test_model_block_small_case_has_exact_keys_and_values() -> None:
    assert model_block(FEW, TRUTH) == {
        "describe_simple": {
            "chair_i": pytest.approx(100 / 3),
            "chair_s": 50.0,
            "recall": pytest.approx(200 / 3),
            "mean_length": 3.5,
        },
        "describe_detailed": {"chair_i": 0.0, "chair_s": 0.0, "recall": 100.0, "mean_length": 3.0},
        "pope": {**POPE, "adversarial": POPE},
        "questions": {"accuracy": 50.0, "color": 100.0, "count": 0.0},
        "questions_dar": {"accuracy": 100.0, "color": 100.0, "count": 100.0},
    }


def test_model_block_figures_are_plain_floats() -> None:
    block = model_block(FEW, TRUTH)
    assert {type(value) for value in (*block["questions"].values(), *block["pope"]["adversarial"].values())} == {float}


def test_model_block_without_a_benchmark_or_an_answer_is_absent() -> None:
    assert set(model_block(FEW, Truth(benchmarks={"pope": BENCHMARKS["pope"]}))) == {"pope"}
    assert model_block({}, TRUTH) == {}


def test_model_block_pope_means_are_over_strategies_not_questions() -> None:
    rows = [predict("pope", "0.png", "no", ["no"], "adversarial")]
    rows += [predict("pope", f"{number}.png", "yes", ["no"], "random") for number in range(3)]
    found = model_block(by_task(rows), TRUTH)["pope"]
    assert (found["accuracy"], found["random"]["accuracy"], found["adversarial"]["accuracy"]) == (50.0, 0.0, 100.0)


def test_main_figures_are_named_and_say_which_way_is_better() -> None:
    found = main_figures({"base": FEW}, TRUTH)
    assert found["describe_simple/chair_i"] == {"title": "CHAIR_i", "less_is_better": True}
    assert found["pope/accuracy"] == {"title": "accuracy", "less_is_better": False}
    assert found.keys() >= {"questions/accuracy", "questions_dar/accuracy"}


def test_intervals_block_has_the_models_keys_and_holds_its_values() -> None:
    predictions = many(0.3, seed=1)
    block = model_block(predictions, TRUTH)["describe_simple"]
    bounds = intervals_block(predictions, TRUTH, BOOTSTRAP)["describe_simple"]
    assert bounds.keys() == block.keys()
    for name, (low, high) in bounds.items():
        assert low <= block[name] <= high
    assert shape_of(intervals_block(FEW, TRUTH, BOOTSTRAP)) == shape_of(model_block(FEW, TRUTH))


def test_intervals_block_is_the_same_in_every_process() -> None:
    code = "\n".join(
        [
            "from tests.evaluate.test_summary import BOOTSTRAP, TRUTH, intervals_block, many",
            "print(intervals_block(many(0.3, seed=1), TRUTH, BOOTSTRAP))",
        ]
    )
    root = Path(__file__).parents[2]
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root), "PYTHONHASHSEED": hash_seed},
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_split_block_holds_models_and_intervals() -> None:
    block = split_block({"base": FEW, "stage1": by_task(ROWS[:2])}, TRUTH, BOOTSTRAP)
    assert set(block) == {"base", "stage1", "intervals"}
    assert set(block["intervals"]["stage1"]) == {"describe_simple"}


def test_paired_difference_clear_improvement_excludes_zero() -> None:
    base, better = many(0.6, seed=1), many(0.2, seed=2)
    found = paired_difference([better], [base], TRUTH, BOOTSTRAP)["describe_simple/chair_s"]
    expected = [model_block(rows, TRUTH)["describe_simple"]["chair_s"] for rows in (better, base)]
    assert found.value == pytest.approx(expected[0] - expected[1])
    assert found.excludes_zero
    assert found.low < found.value < found.high


def test_paired_difference_counts_only_questions_that_both_have_a_figure_of() -> None:
    rows = many(0.5, seed=1)["describe_simple"]
    without_wrong_ones = [row for row in rows if "bus" not in row.text]
    found = paired_difference([{"describe_simple": rows}], [{"describe_simple": without_wrong_ones}], TRUTH, BOOTSTRAP)[
        "describe_simple/chair_s"
    ]
    assert found == (0.0, 0.0, 0.0)


def test_paired_difference_over_runs_averages_and_narrows() -> None:
    base = [many(0.6, seed=seed) for seed in (1, 2, 3, 4)]
    better = [many(0.5, seed=seed) for seed in (5, 6, 7, 8)]
    name = "describe_simple/chair_s"
    one = paired_difference(better[:1], base[:1], TRUTH, BOOTSTRAP)[name]
    four = paired_difference(better, base, TRUTH, BOOTSTRAP)[name]
    singly = [paired_difference([a], [b], TRUTH, BOOTSTRAP)[name].value for a, b in zip(better, base, strict=True)]
    assert four.value == pytest.approx(sum(singly) / 4)
    assert four.high - four.low < 0.7 * (one.high - one.low)


def test_paired_difference_same_seed_is_the_same_and_absent_tasks_are_left_out() -> None:
    def found(rows: Sequence[Prediction]) -> dict[str, tuple[float, float, float]]:
        return {**paired_difference([FEW], [by_task(rows)], TRUTH, BOOTSTRAP)}

    assert found(ROWS) == found(ROWS)
    assert {name.split("/")[0] for name in found(ROWS)} == {
        "describe_simple",
        "describe_detailed",
        "pope",
        "questions",
        "questions_dar",
    }
    assert {name.rpartition("/")[0] for name in found(ROWS[4:7])} == {"pope", "pope/adversarial"}


def test_questions_by_group_gives_each_group_its_own_mean() -> None:
    assert questions_by_group(FEW, TRUTH) == {
        "questions": {
            "many objects": {"accuracy": 0.0, "count": 0.0},
            "one object": {"accuracy": 100.0, "color": 100.0},
        },
        "questions_dar": {
            "many objects": {"accuracy": 100.0, "count": 100.0},
            "one object": {"accuracy": 100.0, "color": 100.0},
        },
    }
    assert questions_by_group(by_task(ROWS[:4]), TRUTH) == {}


def test_intervals_block_of_a_full_split_takes_under_two_seconds() -> None:
    rng = random.Random(0)
    images = [f"{index}.png" for index in range(500)]
    described = ("describe_simple", "describe_detailed")
    rows = [predict(task, image, "a dog", ["dog"]) for task in described for image in images]
    for strategy in ("random", "adversarial"):
        rows += [predict("pope", image, rng.choice(["yes", "no"]), ["yes"], strategy) for image in images * 3]
    for task in ("questions", "questions_dar"):
        rows += [predict(task, image, "red", ["red"], str(kind)) for image in images for kind in range(10)]
    predictions = by_task(rows)
    start = time.process_time()
    intervals_block(predictions, TRUTH, Bootstrap(resamples=1000, seed=0))
    assert time.process_time() - start < 2
