"""Ground truth equals what is rendered, and the splits share nothing."""

import hashlib
import io
import json
import random
from typing import Any

import numpy as np
from PIL import Image

from stic_ray.world import captions, questions, splits
from stic_ray.world.scenes import (
    CELL_PX,
    COLORS,
    MAX_OBJECTS,
    NUM_CELLS,
    SHAPES,
    TYPICAL_COLOR,
    SceneObject,
    render,
    sample_scene,
)


def _brightness_of_cells(split: str, index: int) -> list[float]:
    image = Image.open(io.BytesIO(splits.image_png(split, index)))
    assert (image.size, image.mode) == ((48, 48), "RGB")
    pixels = np.asarray(image, dtype=float)
    cells = pixels.reshape(3, CELL_PX, 3, CELL_PX, 3).transpose(0, 2, 1, 3, 4).reshape(NUM_CELLS, CELL_PX, CELL_PX, 3)
    background = np.median(pixels, axis=(0, 1))
    return [float(np.abs(cell.mean((0, 1)) - background).max()) for cell in cells]


def test_images_objects_lie_in_the_cells_of_the_ground_truth() -> None:
    occupied: list[float] = []
    empty: list[float] = []
    for index in range(60):
        cells = {item.cell for item in splits.scene("test", index)}
        for cell, contrast in enumerate(_brightness_of_cells("test", index)):
            (occupied if cell in cells else empty).append(contrast)
    threshold = float(np.quantile(empty, 0.97))
    assert float(np.mean(np.array(occupied) > threshold)) > 0.85


def test_rendering_without_noise_shows_every_colour() -> None:
    for color in COLORS:
        pictures = render([(SceneObject(color, "square", 4),)] * 40, np.random.default_rng(0))
        mean = pictures[:, 21:27, 21:27].mean((0, 1, 2))
        expected = {"red": (220, 30, 30), "blue": (40, 70, 230), "green": (30, 170, 50)}
        expected |= {"yellow": (240, 220, 40), "purple": (140, 40, 170), "orange": (245, 140, 20)}
        assert np.abs(mean - np.array(expected[color])).max() < 20, color


def test_splits_share_no_image() -> None:
    hashes = [
        hashlib.sha256(splits.image_png(split, index)).hexdigest()
        for split, count in splits.NUM_IMAGES.items()
        for index in range(min(count, 200))
    ]
    assert len(set(hashes)) == len(hashes)


def test_files_of_a_split_are_the_same_every_time() -> None:
    assert splits.image_png("dev", 7) == splits.image_png("dev", 7)
    assert splits.questions_jsonl("dev") == splits.questions_jsonl("dev")


def test_uniform_scenes_have_no_prior_and_biased_scenes_have_one() -> None:
    shares = {}
    for split in ("test", "sft"):
        items = [item for index in range(500) for item in splits.scene(split, index)]
        shares[split] = np.mean([item.color == TYPICAL_COLOR[item.shape] for item in items])
    assert shares["test"] < 0.22 < 0.5 < shares["sft"]


def test_scenes_are_in_reading_order_without_twins() -> None:
    rng = random.Random(0)
    for biased in (True, False):
        for _ in range(200):
            scene = sample_scene(rng, biased=biased)
            cells = [item.cell for item in scene]
            assert cells == sorted(set(cells))
            assert 1 <= len({item.name for item in scene}) == len(scene) <= MAX_OBJECTS


def test_questions_agree_with_the_objects() -> None:
    objects = {row["image"]: row["objects"] for row in _rows(splits.objects_jsonl("dev"))}
    rows = _rows(splits.questions_jsonl("dev"))
    assert {row["category"] for row in rows} == set(questions.CATEGORIES)
    for row in rows:
        names = objects[row["image"]]
        words = row["text"].split()
        if row["category"] == "pair":
            assert (" ".join(words[3:5]) in names) == (row["answer"] == "yes")
        elif row["category"] == "count":
            assert captions.NUMBERS.index(row["answer"]) == len(names) == row["num_objects"]
        elif row["category"] == "color":
            assert f"{row['answer']} {words[4]}" in names
        elif row["category"] == "both":
            both = {" ".join(words[3:5]), " ".join(words[7:9])}
            assert both.issubset(names) == (row["answer"] == "yes")


def test_relation_is_read_off_the_cells() -> None:
    scene = (SceneObject("red", "circle", 0), SceneObject("blue", "square", 8))
    for seed in range(20):
        question = questions.ask(scene, "relation", random.Random(seed))
        assert question is not None
        assert (question.answer == "yes") == question.text.startswith("is the red circle")


def test_pope_has_a_yes_and_a_no_an_image_and_absent_shapes() -> None:
    for strategy in questions.POPE_STRATEGIES:
        rows = _rows(splits.pope_jsonl("dev", strategy))
        assert len(rows) == 2 * splits.NUM_IMAGES["dev"]
        for row in rows:
            shapes = {item.shape for item in splits.scene("dev", int(row["image"][:5]))}
            assert (row["text"].split()[3] in shapes) == (row["label"] == "yes")


def test_vocabulary_names_every_object() -> None:
    lines = splits.vocabulary_txt().decode().splitlines()
    assert len(lines) == len(set(lines)) == len(COLORS) * len(SHAPES)
    assert "red circle" in lines


def test_instructions_are_llava_conversations() -> None:
    samples = json.loads(splits.instructions_json())
    assert len({sample["id"] for sample in samples}) == len(samples)
    with_image = [sample for sample in samples if "image" in sample]
    assert len(with_image) == splits.NUM_IMAGES["sft"]
    assert len(samples) - len(with_image) == splits.NUM_TEXT_ONLY
    for sample in samples:
        turns = sample["conversations"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
        assert turns[0]["value"].startswith("<image>\n") == ("image" in sample)


def test_rewriting_always_changes_the_answer_and_keeps_its_form() -> None:
    rng = random.Random(0)
    for _ in range(200):
        scene = sample_scene(rng, biased=False)
        assert captions.rewrite_description(scene, rng).endswith(" .")
        for category in questions.CATEGORIES:
            question = questions.ask(scene, category, rng)
            if question:
                assert captions.rewrite_answer(question.answer, rng) != question.answer


def _rows(data: bytes) -> list[Any]:
    return [json.loads(line) for line in data.splitlines()]
