"""Blocks of summary.json, differences between models, groups."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from stic_ray.evaluate.intervals import Bootstrap
from stic_ray.evaluate.metrics import Vocabulary, make_vocabulary
from stic_ray.evaluate.summary import (
    intervals_block,
    model_block,
    paired_difference,
    questions_by_group,
    select_questions,
    split_block,
)
from stic_ray.records import Prediction

VOCABULARY = make_vocabulary([["dog"], ["cat"], ["bus"]])
OBJECTS = {"0.png": frozenset({"dog"}), "1.png": frozenset({"dog", "cat"})}
BOOTSTRAP = Bootstrap(resamples=200, seed=0)


def predict(task: str, image: str, text: str, answer: str = "", **labels: str) -> Prediction:
    return Prediction(
        id=f"{task} {image} {labels}",
        split="test",
        image_id=image,
        task=task,
        image_uri=image,
        question="?",
        description="",
        answer=answer,
        category=labels.get("category", ""),
        group=labels.get("group", ""),
        text=text,
        num_tokens=len(text.split()),
        finish_reason="stop",
    )


FEW = [
    predict("describe_simple", "0.png", "a dog and a bus"),
    predict("describe_simple", "1.png", "a dog"),
    predict("describe_detailed", "0.png", "a dog"),
    predict("describe_detailed", "1.png", "a dog a cat"),
    predict("pope_adversarial", "0.png", "no", "yes"),
    predict("pope_adversarial", "0.png", "no", "no"),
    predict("pope_adversarial", "1.png", "yes", "yes"),
    predict("questions", "0.png", "red", "red", category="color", group="one object"),
    predict("questions", "1.png", "two", "three", category="count", group="many objects"),
    predict("questions_dar", "0.png", "red", "red", category="color", group="one object"),
    predict("questions_dar", "1.png", "three", "three", category="count", group="many objects"),
]


def many(
    hallucination_rate: float, seed: int, num_images: int = 300
) -> tuple[list[Prediction], dict[str, frozenset[str]]]:
    rng = random.Random(seed)
    objects = {f"{index}.png": frozenset({"dog"}) for index in range(num_images)}
    texts = {image: "a dog and a bus" if rng.random() < hallucination_rate else "a dog" for image in objects}
    return [predict("describe_simple", image, text) for image, text in texts.items()], objects


def shape_of(block: object) -> object:
    return {name: shape_of(value) for name, value in block.items()} if isinstance(block, dict) else None


def test_model_block_small_case_has_exact_keys_and_values() -> None:
    assert model_block(FEW, OBJECTS, VOCABULARY) == {
        "describe_simple": {
            "chair_i": pytest.approx(100 / 3),
            "chair_s": 50.0,
            "recall": pytest.approx(200 / 3),
            "mean_length": 3.5,
        },
        "describe_detailed": {"chair_i": 0.0, "chair_s": 0.0, "recall": 100.0, "mean_length": 3.0},
        "pope": {
            "adversarial": {
                "accuracy": pytest.approx(200 / 3),
                "precision": 100.0,
                "recall": 50.0,
                "f1": pytest.approx(200 / 3),
                "yes_ratio": pytest.approx(100 / 3),
            }
        },
        "questions": {"accuracy": 50.0, "color": 100.0, "count": 0.0},
        "questions_dar": {"accuracy": 100.0, "color": 100.0, "count": 100.0},
    }


def test_model_block_figures_are_plain_floats() -> None:
    block = model_block(FEW, OBJECTS, VOCABULARY)
    assert {type(value) for value in (*block["questions"].values(), *block["pope"]["adversarial"].values())} == {float}


def test_model_block_descriptions_without_ground_truth_are_absent() -> None:
    assert set(model_block(FEW, {}, Vocabulary())) == {"pope", "questions", "questions_dar"}
    assert model_block([], OBJECTS, VOCABULARY) == {}


def test_model_block_description_of_an_image_without_known_objects_does_not_count() -> None:
    rows = [*FEW, predict("describe_detailed", "2.png", "a bus and a bus")]
    assert model_block(rows, OBJECTS, VOCABULARY) == model_block(FEW, OBJECTS, VOCABULARY)


def test_intervals_block_has_the_models_keys_and_holds_its_values() -> None:
    predictions, objects = many(0.3, seed=1)
    block = model_block(predictions, objects, VOCABULARY)["describe_simple"]
    bounds = intervals_block(predictions, objects, VOCABULARY, bootstrap=BOOTSTRAP)["describe_simple"]
    assert bounds.keys() == block.keys()
    for name, (low, high) in bounds.items():
        assert low <= block[name] <= high
    assert shape_of(intervals_block(FEW, OBJECTS, VOCABULARY, bootstrap=BOOTSTRAP)) == shape_of(
        model_block(FEW, OBJECTS, VOCABULARY)
    )


def test_intervals_block_is_the_same_in_every_process() -> None:
    code = "\n".join(
        [
            "from tests.evaluate.test_summary import BOOTSTRAP, VOCABULARY, intervals_block, many",
            "predictions, objects = many(0.3, seed=1)",
            "print(intervals_block(predictions, objects, VOCABULARY, bootstrap=BOOTSTRAP))",
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
    block = split_block({"base": FEW, "stage1": FEW[:2]}, OBJECTS, VOCABULARY, bootstrap=BOOTSTRAP)
    assert set(block) == {"base", "stage1", "intervals"}
    assert set(block["intervals"]["stage1"]) == {"describe_simple"}


def test_paired_difference_clear_improvement_excludes_zero() -> None:
    base, objects = many(0.6, seed=1)
    better, _ = many(0.2, seed=2)
    found = paired_difference([better], [base], objects, VOCABULARY, bootstrap=BOOTSTRAP)["describe_simple/chair_s"]
    expected = [model_block(rows, objects, VOCABULARY)["describe_simple"]["chair_s"] for rows in (better, base)]
    assert found.value == pytest.approx(expected[0] - expected[1])
    assert found.excludes_zero
    assert found.low < found.value < found.high


def test_paired_difference_over_runs_averages_and_narrows() -> None:
    base = [many(0.6, seed=seed)[0] for seed in (1, 2, 3, 4)]
    better = [many(0.5, seed=seed)[0] for seed in (5, 6, 7, 8)]
    objects = many(0.6, seed=1)[1]
    name = "describe_simple/chair_s"
    one = paired_difference(better[:1], base[:1], objects, VOCABULARY, bootstrap=BOOTSTRAP)[name]
    four = paired_difference(better, base, objects, VOCABULARY, bootstrap=BOOTSTRAP)[name]
    singly = [
        paired_difference([a], [b], objects, VOCABULARY, bootstrap=BOOTSTRAP)[name].value
        for a, b in zip(better, base, strict=True)
    ]
    assert four.value == pytest.approx(sum(singly) / 4)
    assert four.high - four.low < 0.7 * (one.high - one.low)


def test_paired_difference_same_seed_is_the_same_and_absent_tasks_are_left_out() -> None:
    def found(rows: Sequence[Prediction]) -> dict[str, tuple[float, float, float]]:
        return {**paired_difference([FEW], [rows], OBJECTS, VOCABULARY, bootstrap=BOOTSTRAP)}

    assert found(FEW) == found(FEW)
    assert {name.split("/")[0] for name in found(FEW)} == {
        "describe_simple",
        "describe_detailed",
        "pope",
        "questions",
        "questions_dar",
    }
    assert {name.rpartition("/")[0] for name in found(FEW[4:7])} == {"pope/adversarial"}


def test_select_questions_makes_describe_and_respond_comparable_with_direct() -> None:
    dar = select_questions(FEW, "questions_dar", "many objects")
    direct = select_questions(FEW, "questions", "many objects")
    found = paired_difference([dar], [direct], {}, Vocabulary(), bootstrap=BOOTSTRAP)
    assert found["questions/accuracy"].value == 100
    assert len(select_questions(FEW, "questions")) == 2


def test_questions_by_group_gives_each_group_its_own_mean() -> None:
    assert questions_by_group(FEW) == {
        "questions": {
            "many objects": {"accuracy": 0.0, "count": 0.0},
            "one object": {"accuracy": 100.0, "color": 100.0},
        },
        "questions_dar": {
            "many objects": {"accuracy": 100.0, "count": 100.0},
            "one object": {"accuracy": 100.0, "color": 100.0},
        },
    }
    assert questions_by_group(FEW[:4]) == {}


def test_intervals_block_of_a_full_split_takes_under_two_seconds() -> None:
    rng = random.Random(0)
    images = [f"{index}.png" for index in range(500)]
    objects = dict.fromkeys(images, frozenset({"dog"}))
    rows = [predict(task, image, "a dog") for task in ("describe_simple", "describe_detailed") for image in images]
    for strategy in ("random", "popular", "adversarial"):
        rows += [predict(f"pope_{strategy}", image, rng.choice(["yes", "no"]), "yes") for image in images * 2]
    for task in ("questions", "questions_dar"):
        rows += [predict(task, image, "red", "red", category=str(kind)) for image in images for kind in range(10)]
    start = time.process_time()
    intervals_block(rows, objects, VOCABULARY, bootstrap=Bootstrap(resamples=1000, seed=0))
    assert time.process_time() - start < 2
