"""Conversations as token ids whose answers are marked."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor
from transformers import GenerationConfig

from stic_ray.noise import Noise
from stic_ray.records import Turn
from stic_ray.vlm.prompts import add_noise, expand, process_images, render, tokenize_texts


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Which part of a conversation's answers a trained token stands for: characters `start` to `stop` of the answer
    (stripped, counted from 0). An end token stands behind the last one: both are the answer's length."""

    answer: int
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Example:
    """One encoded sequence: token ids [T], which of them are trained (answers with their end token), image tensors.

    `pieces` are the trained tokens', in order.
    """

    input_ids: list[int]
    trained: list[bool]
    pieces: list[Piece]
    image_inputs: dict[str, Tensor]

    @property
    def num_trained(self) -> int:
        """Answer tokens, end tokens included."""
        return sum(self.trained)

    @property
    def answer_ids(self) -> list[int]:
        """The trained tokens' ids, in order."""
        return [token for token, trained in zip(self.input_ids, self.trained, strict=True) if trained]


def encode_example(
    processor: Any, turns: Sequence[Turn], image: Image.Image | None, noise: Noise | None = None
) -> Example:
    """One conversation: see `encode_group`."""
    (example,) = encode_group(processor, [turns], image, noise)
    return example


def encode_group(
    processor: Any, conversations: Sequence[Sequence[Turn]], image: Image.Image | None, noise: Noise | None = None
) -> list[Example]:
    """Conversations on one image as token ids with their answers marked; every answer ends with an end token.

    The whole text is tokenised at once, as whoever continues it would see it. An answer's end is the first special
    token that the template writes after it (`</s>`, `<|eot_id|>`, ...), else the tokenizer's, which is then added.
    `noise` is added to the processed image.

    Raises:
        ValueError: the turns do not alternate user, assistant, the template rewrites earlier turns, or a text holds
            what stands for an image or ends an answer.
    """
    special = _special_tokens(processor.tokenizer)
    for turns in conversations:
        roles = [turn.role for turn in turns]
        if roles != ["user", "assistant"] * (len(turns) // 2) or not turns:
            raise ValueError(f"turns must alternate user and assistant and end with an answer, not {roles}")
        _refuse_special(turns, processor.image_token, special)
    tensors, placeholders = process_images(processor, [] if image is None else [image])
    if image is not None and noise is not None:
        tensors["pixel_values"] = add_noise(tensors["pixel_values"], noise)
    return [_encode(processor, turns, special, tensors, placeholders) for turns in conversations]


def _encode(
    processor: Any,
    turns: Sequence[Turn],
    special: Mapping[str, int],
    tensors: dict[str, Tensor],
    placeholders: list[str],
) -> Example:
    has_image = bool(placeholders)
    whole = render(processor, turns, has_image=has_image, answer_next=False)
    (expanded,) = expand(processor, [whole], placeholders)
    grown = len(expanded) - len(whole)  # the image stands before every answer
    text, cursor, starts, spans = "", 0, list[int](), list[tuple[int, int]]()
    for index in range(1, len(turns), 2):
        start, stop = _answer_span(processor, turns[: index + 1], whole, has_image=has_image)
        text += expanded[cursor : start + grown]
        starts.append(len(text))
        text += _ended(whole[start:stop], special, processor.tokenizer.eos_token)
        cursor = stop + grown
        answer = turns[index].text.strip()
        begin = text.find(answer, starts[-1])
        spans.append((begin if begin >= 0 else starts[-1], len(answer)))
    encoded = tokenize_texts(processor, [text], offsets=True)
    ids, offsets = encoded["input_ids"][0], encoded["offset_mapping"][0]
    answers = _answers(ids, offsets, starts, frozenset(special.values()))
    pieces = [
        _piece(answer, spans[answer], offset) for answer, offset in zip(answers, offsets, strict=True) if answer >= 0
    ]
    return Example(input_ids=ids, trained=[answer >= 0 for answer in answers], pieces=pieces, image_inputs=tensors)


def _piece(answer: int, span: tuple[int, int], offset: tuple[int, int]) -> Piece:
    begin, length = span
    start, stop = (min(max(place - begin, 0), length) for place in offset)
    return Piece(answer=answer, start=start, stop=stop)


def _special_tokens(tokenizer: Any) -> dict[str, int]:
    """What a tokenizer treats as one token that no text holds, but for the unknown token, which any word may be."""
    added = {str(token): index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    named = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    return {token: index for token, index in {**added, **named}.items() if token != tokenizer.unk_token}


def _refuse_special(turns: Sequence[Turn], marker: str, special: Iterable[str]) -> None:
    for turn in turns:
        held = marker if marker in turn.text else ""
        if turn.role == "assistant":
            held = held or next((token for token in special if token in turn.text), "")
        if held:
            raise ValueError(f"a text of the {turn.role} holds {held}, which has a meaning of its own to the model")


def _answer_span(processor: Any, turns: Sequence[Turn], whole: str, *, has_image: bool) -> tuple[int, int]:
    """Where the last turn's answer stands in the whole text, with what the template writes after it."""
    prompt = render(processor, turns[:-1], has_image=has_image, answer_next=True)
    answered = render(processor, turns, has_image=has_image, answer_next=False)
    if not whole.startswith(answered):
        raise ValueError("the chat template rewrites earlier turns: it cannot be trained on several turns")
    if not answered.startswith(prompt):
        raise ValueError("the chat template changes a prompt when it is answered: it cannot be trained on")
    return len(prompt), len(answered)


def _ended(answered: str, special: Iterable[str], end: str) -> str:
    """An answer as the template writes it, with an end token after it where the template writes none."""
    if any(token in answered for token in special):
        return answered
    answer = answered.rstrip()
    return answer + end + answered[len(answer) :]


def _answers(ids: list[int], offsets: list[tuple[int, int]], starts: list[int], ends: frozenset[int]) -> list[int]:
    """The number of the answer that each token is of, -1 for none: from its first character up to an end token."""
    answers = [-1] * len(ids)
    position = 0
    for number, start in enumerate(starts):
        while offsets[position][1] <= start:
            position += 1
        while ids[position] not in ends:
            answers[position] = number
            position += 1
        answers[position] = number
    return answers


def end_token_ids(processor: Any, settings: GenerationConfig) -> list[int]:
    """Token ids that end an answer: of the generation settings, of the tokenizer, and what the template writes."""
    configured = settings.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return sorted({i for i in [*ids, processor.tokenizer.eos_token_id, *_template_ends(processor)] if i is not None})


def _template_ends(processor: Any) -> list[int]:
    """The first special token that the chat template writes after an answer, which is what training teaches."""
    turns = [Turn(role="user", text="what ?"), Turn(role="assistant", text="answer")]
    whole = render(processor, turns, has_image=False, answer_next=False)
    written = whole[_answer_span(processor, turns, whole, has_image=False)[0] :]
    special = _special_tokens(processor.tokenizer)
    found = sorted((written.index(token), index) for token, index in special.items() if token in written)
    return [index for _, index in found[:1]]
