"""Training batches of the world: conversations about scenes as token ids and pixels, without the tokenizer's detours.

Legend: B = conversations, T = positions, N = images, C, H, W = channels and pixels.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stic_ray.world import captions, questions
from stic_ray.world.model import ASSISTANT, BOS, EOS, IMAGE, IMAGE_MEAN, IMAGE_STD, USER, vocabulary
from stic_ray.world.scenes import NUM_CELLS, Scene

Turns = list[tuple[str, str]]

_IDS = vocabulary()
_QUESTIONS_A_CONVERSATION = 5
_QUESTIONS_A_DESCRIPTION = 6
_RETRIEVALS_A_DESCRIPTION = 8
_ONE_OBJECT_CATEGORIES = ("existence", "existence", "existence", "pair", "pair", "color", "shape", "where", "count")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Right-padded conversations [B, T], which tokens are trained [B, T], and their images [N, C, H, W] if any."""

    input_ids: Tensor
    trained: Tensor
    pixel_values: Tensor | None


def encode(turns: Turns, *, has_image: bool) -> tuple[list[int], list[bool]]:
    """A conversation as the chat template and the tokenizer write it, and which tokens are an answer's."""
    ids, trained = [_IDS[BOS]], [False]
    for index, (question, answer) in enumerate(turns):
        image = [_IDS[IMAGE]] * NUM_CELLS if has_image and index == 0 else []
        prompt = [_IDS[USER], *image, *(_IDS[word] for word in question.split()), _IDS[ASSISTANT]]
        reply = [*(_IDS[word] for word in answer.split()), _IDS[EOS]]
        ids += prompt + reply
        trained += [False] * len(prompt) + [True] * len(reply)
    return ids, trained


def normalize(images: NDArray[np.uint8]) -> Tensor:
    """Pixels as the image processor makes them: [N, H, W, C] uint8 to [N, C, H, W]."""
    pixels = torch.tensor(images).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(IMAGE_MEAN).view(3, 1, 1)) / torch.tensor(IMAGE_STD).view(3, 1, 1)


def collate(conversations: Sequence[Turns], pixel_values: Tensor | None) -> Batch:
    """Conversations as one batch; all have an image or none has."""
    encoded = [encode(turns, has_image=pixel_values is not None) for turns in conversations]
    length = max(len(ids) for ids, _ in encoded)
    input_ids_BT = torch.zeros(len(encoded), length, dtype=torch.long)
    trained_BT = torch.zeros(len(encoded), length, dtype=torch.bool)
    for row, (ids, trained) in enumerate(encoded):
        input_ids_BT[row, : len(ids)] = torch.tensor(ids)
        trained_BT[row, : len(ids)] = torch.tensor(trained)
    return Batch(input_ids=input_ids_BT, trained=trained_BT, pixel_values=pixel_values)


def caption_turns(scene: Scene, rng: random.Random) -> Turns:
    """One caption in the noise of its prompt: two fifths simple, two fifths detailed, one fifth misleading."""
    kind = rng.random()
    if kind < 0.4:
        return [(rng.choice(captions.SIMPLE), captions.noisy_caption(scene, rng, captions.SIMPLE_NOISE))]
    if kind < 0.8:
        return [(rng.choice(captions.DETAILED), captions.noisy_caption(scene, rng, captions.DETAILED_NOISE))]
    return [(rng.choice(captions.MISLEADING), captions.misleading_caption(scene, rng))]


def question_turns(scene: Scene, rng: random.Random, *, count: int, many_share: float) -> Turns:
    """Several questions about a scene; `many_share` of them need more than one object."""
    turns: Turns = []
    while len(turns) < count:
        pool = questions.MANY_OBJECTS if rng.random() < many_share else _ONE_OBJECT_CATEGORIES
        question = questions.ask(scene, rng.choice(pool), rng)
        if question:
            turns.append((question.text, question.answer))
    return turns


def retrieval_turns(scene: Scene, rng: random.Random) -> Turns:
    """Text only: many questions that one object of a description answers."""
    turns: Turns = []
    while len(turns) < _RETRIEVALS_A_DESCRIPTION:
        question = questions.ask(scene, rng.choice(questions.ONE_OBJECT), rng)
        if question:
            turns.append((question.text, question.answer))
    return _infuse(scene, turns)


def reading_turns(scene: Scene, rng: random.Random) -> Turns:
    """Text only: questions answered from a description."""
    return _infuse(scene, question_turns(scene, rng, count=_QUESTIONS_A_DESCRIPTION, many_share=0.6))


def _infuse(scene: Scene, turns: Turns) -> Turns:
    first, answer = turns[0]
    return [(captions.INFUSED.format(description=captions.caption(scene), question=first), answer), *turns[1:]]


def rewriting_turns(scene: Scene, rng: random.Random) -> Turns:
    """Text only: an answer rewritten wrongly, a description or a question's."""
    if rng.random() < 0.6:
        prompt = captions.REWRITE_DESCRIPTION.format(description=captions.caption(scene))
        return [(prompt, captions.rewrite_description(scene, rng))]
    turns: Turns = []
    for question, answer in question_turns(scene, rng, count=3, many_share=0.5):
        prompt = captions.REWRITE_ANSWER.format(question=question, answer=answer)
        turns.append((prompt, captions.rewrite_answer(answer, rng)))
    return turns


def text_turns(scene: Scene, rng: random.Random) -> Turns:
    """A text-only conversation: mostly reading, some rewriting."""
    return rewriting_turns(scene, rng) if rng.random() < 0.25 else reading_turns(scene, rng)


def instruction_turns(scene: Scene, rng: random.Random) -> Turns:
    """A conversation of visual instruction tuning: captions and questions in equal parts."""
    if rng.random() < 0.45:
        return caption_turns(scene, rng)
    return question_turns(scene, rng, count=_QUESTIONS_A_CONVERSATION, many_share=0.15)
