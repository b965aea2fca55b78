"""The splits of the world and what each of their files holds, a function of the split's name and the index alone.

Biased scenes for the SFT data, uniform ones for everything else. The formats are those of POPE, CHAIR's synonyms file
and LLaVA's instruction JSON.
"""

import io
import json
import random
from collections import Counter
from typing import Any

import numpy as np
from PIL import Image

from stic_ray.world import captions, questions
from stic_ray.world.scenes import COLORS, SHAPES, Scene, render, sample_scene

# Raise it whenever a file's content changes: artifacts made from the old files are then made again.
VERSION = 3
# Part of every draw; it stays when only a file's making changes.
_SEEDS = 1

NUM_IMAGES = {"unlabeled": 4000, "dev": 200, "test": 500, "sft": 1500}
NUM_TEXT_ONLY = 150
LABELED = ("dev", "test")

_ASK_ATTEMPTS = 10
_QUESTIONS_A_SAMPLE = 4
_CAPTION_SHARE = 0.25
# Of the noisy instruction data: captions by the simple and by the detailed prompt, wrong answers to questions.
_NOISY_SIMPLE_SHARE = 0.45
_NOISY_DETAILED_SHARE = 0.15
_WRONG_SHARE = 0.3


def scene(split: str, index: int) -> Scene:
    """The scene of an image."""
    return sample_scene(_rng(split, index, "scene"), biased=split == "sft")


def image_png(split: str, index: int) -> bytes:
    """An image file."""
    pixels = render([scene(split, index)], np.random.default_rng(_rng(split, index, "pixels").getrandbits(64)))
    buffer = io.BytesIO()
    Image.fromarray(pixels[0]).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def image_name(index: int) -> str:
    """An image's file name."""
    return f"{index:05d}.png"


def vocabulary_txt() -> bytes:
    """CHAIR's synonyms file: one object a line."""
    return "".join(f"{color} {shape}\n" for color in COLORS for shape in SHAPES).encode()


def objects_jsonl(split: str) -> bytes:
    """The objects of every image of a labeled split."""
    return _jsonl(
        {"image": image_name(index), "objects": [item.name for item in scene(split, index)]}
        for index in range(NUM_IMAGES[split])
    )


def questions_jsonl(split: str) -> bytes:
    """One question of each type an image, where the image allows one."""
    rows: list[dict[str, Any]] = []
    said: Counter[tuple[str, str]] = Counter()
    for index in range(NUM_IMAGES[split]):
        seen = scene(split, index)
        rng = _rng(split, index, "questions")
        for category in questions.CATEGORIES:
            wanted = "yes" if said[category, "yes"] <= said[category, "no"] else "no"
            asked = [question for _ in range(_ASK_ATTEMPTS) if (question := questions.ask(seen, category, rng))]
            # Yes and no are balanced as far as the scenes allow; other answers are taken as they come.
            question = next((item for item in asked if item.answer == wanted), None)
            question = question or next(iter(asked), None)
            if question:
                said[category, question.answer] += 1
                rows.append(
                    {
                        "question_id": len(rows) + 1,
                        "image": image_name(index),
                        "text": question.text,
                        "answer": question.answer,
                        "category": category,
                        "group": "one object" if category in questions.ONE_OBJECT else "many objects",
                        "num_objects": len(seen),
                    }
                )
    return _jsonl(rows)


def reading_jsonl(split: str) -> bytes:
    """Questions of text alone: about a scene that nobody has drawn, with its description in front."""
    rows: list[dict[str, Any]] = []
    for index in range(NUM_IMAGES[split]):
        rng = _rng(split, index, "reading")
        imagined = sample_scene(rng, biased=False)
        category = questions.CATEGORIES[index % len(questions.CATEGORIES)]
        question = questions.ask(imagined, category, rng)
        if question:
            text = captions.INFUSED.format(description=captions.caption(imagined), question=question.text)
            row = {"question_id": len(rows) + 1, "text": text, "answer": question.answer, "category": category}
            rows.append({**row, "group": "one object" if category in questions.ONE_OBJECT else "many objects"})
    return _jsonl(rows)


def pope_jsonl(split: str, strategy: str) -> bytes:
    """POPE's questions: one with the answer yes and one with no an image."""
    rows: list[dict[str, Any]] = []
    for index in range(NUM_IMAGES[split]):
        rng = _rng(split, index, f"pope {strategy}")
        for label in ("yes", "no"):
            question = questions.ask_existence(scene(split, index), strategy, label, rng)
            row = {"question_id": len(rows) + 1, "image": image_name(index), "text": question.text, "label": label}
            rows.append(row)
    return _jsonl(rows)


def instructions_json() -> bytes:
    """Instruction data in LLaVA's format: questions of all types, some detailed captions, some text-only samples."""
    samples: list[dict[str, Any]] = []
    for index in range(NUM_IMAGES["sft"]):
        turns = _instruction_turns(index)
        turns[0] = (f"<image>\n{turns[0][0]}", turns[0][1])
        samples.append({"id": f"image-{index:05d}", "image": image_name(index), "conversations": _speak(turns)})
    for index in range(NUM_TEXT_ONLY):
        samples.append({"id": f"text-{index:05d}", "conversations": _speak(_text_turns(index))})
    return json.dumps(samples, indent=1).encode()


def noisy_instructions_json() -> bytes:
    """Instruction data as it is found in the wild: captions by captioners that follow the language prior, short answers
    of which three in ten are wrong. One question a sample, whose type is its `category`."""
    samples: list[dict[str, Any]] = []
    for index in range(NUM_IMAGES["sft"]):
        question, answer, category = _noisy_turn(index)
        turns = [(f"<image>\n{question}", answer)]
        name = f"noisy-{index:05d}"
        samples.append({"id": name, "image": image_name(index), "category": category, "conversations": _speak(turns)})
    return json.dumps(samples, indent=1).encode()


def _noisy_turn(index: int) -> tuple[str, str, str]:
    seen = scene("sft", index)
    rng = _rng("sft", index, "noisy turn")
    kind = rng.random()
    if kind < _NOISY_SIMPLE_SHARE:
        return rng.choice(captions.SIMPLE), captions.noisy_caption(seen, rng, captions.SIMPLE_NOISE), "caption"
    if kind < _NOISY_SIMPLE_SHARE + _NOISY_DETAILED_SHARE:
        return rng.choice(captions.DETAILED), captions.noisy_caption(seen, rng, captions.DETAILED_NOISE), "caption"
    question = None
    while question is None:
        question = questions.ask(seen, rng.choice(("existence", *questions.ONE_OBJECT, "count")), rng)
    wrong = rng.random() < _WRONG_SHARE
    answer = captions.rewrite_answer(question.answer, rng) if wrong else question.answer
    return question.text, answer, question.category


def captions_json(kind: str) -> bytes:
    """Annotated captions of the instruction data's images under the simple prompts: "noisy" ones or "clean" ones."""
    samples: list[dict[str, Any]] = []
    for index in range(NUM_IMAGES["sft"]):
        seen = scene("sft", index)
        rng = _rng("sft", index, f"{kind} caption")
        said = captions.caption(seen)
        if kind == "noisy":
            said = captions.noisy_caption(seen, rng, captions.DETAILED_NOISE)
        turns = [(f"<image>\n{rng.choice(captions.SIMPLE)}", said)]
        samples.append({"id": f"{kind}-{index:05d}", "image": image_name(index), "conversations": _speak(turns)})
    return json.dumps(samples, indent=1).encode()


def _instruction_turns(index: int) -> list[tuple[str, str]]:
    seen = scene("sft", index)
    rng = _rng("sft", index, "turns")
    if rng.random() < _CAPTION_SHARE:
        return [(rng.choice(captions.DETAILED), captions.noisy_caption(seen, rng, captions.DETAILED_NOISE))]
    turns: list[tuple[str, str]] = []
    while len(turns) < _QUESTIONS_A_SAMPLE:
        question = questions.ask(seen, rng.choice(("existence", *questions.CATEGORIES)), rng)
        if question:
            turns.append((question.text, question.answer))
    return turns


def _text_turns(index: int) -> list[tuple[str, str]]:
    rng = _rng("sft", index, "text")
    imagined = sample_scene(rng, biased=True)
    if index % 2:
        prompt = captions.REWRITE_DESCRIPTION.format(description=captions.caption(imagined))
        return [(prompt, captions.rewrite_description(imagined, rng))]
    question = questions.ask(imagined, "pair", rng)
    assert question is not None
    prompt = captions.REWRITE_ANSWER.format(question=question.text, answer=question.answer)
    return [(prompt, captions.rewrite_answer(question.answer, rng))]


def _speak(turns: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [
        {"from": speaker, "value": value}
        for turn in turns
        for speaker, value in zip(("human", "gpt"), turn, strict=True)
    ]


def _rng(split: str, index: int, purpose: str) -> random.Random:
    return random.Random(f"{_SEEDS}/{split}/{index}/{purpose}")


def _jsonl(rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
