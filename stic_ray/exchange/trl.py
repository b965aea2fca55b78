"""TRL: vision preference (`prompt`, `chosen`, `rejected`, `images`) and language modelling (`messages`, `images`)."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from stic_ray.exchange.conversations import (
    answer,
    only,
    question,
    read_messages,
    read_pair_turns,
    read_text,
    refuse_markers,
    unmarked,
)
from stic_ray.exchange.format import (
    IMAGE,
    Format,
    Samples,
    Tree,
    pair_columns,
    pair_item,
    read_picture,
    sample_columns,
    sample_item,
    write_origin,
    write_pictures,
)
from stic_ray.exchange.items import PairItem, Picture, SampleItem
from stic_ray.records import Turn

_IMAGES = "images"
_PART = pa.struct([("type", pa.string()), ("text", pa.string())])
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.list_(_PART))]))


def _write(item: PairItem) -> dict[str, Any]:
    return {
        _IMAGES: write_pictures(item.image),
        "prompt": _parts([question(item.prompt)], item.image),
        "chosen": _parts([answer(item.chosen)], None),
        "rejected": _parts([answer(item.rejected)], None),
        "negative": item.negative,
        **write_origin(item),
    }


def _parts(turns: Sequence[Turn], image: Picture | None) -> list[dict[str, Any]]:
    refuse_markers([turn.text for turn in turns])
    first = [{"type": "image"}] if image is not None else []
    return [
        {"role": turn.role, "content": [*(first if number == 0 else []), {"type": "text", "text": turn.text}]}
        for number, turn in enumerate(turns)
    ]


def _read(tree: Tree) -> list[PairItem]:
    image = _read_image(tree)
    if tree.get("prompt") is None:  # both conversations whole: the prompt is what they share
        prompt, chosen = read_pair_turns(read_messages(tree.get("chosen"), "chosen"), image, "chosen")
        other, rejected = read_pair_turns(read_messages(tree.get("rejected"), "rejected"), image, "rejected")
        if prompt != other:
            raise ValueError("prompt is missing, and chosen and rejected do not begin with the same question")
    else:
        asked = question(_text(tree, "prompt", "user"))
        (asked,) = unmarked([asked], image)
        prompt, chosen, rejected = asked.text, _text(tree, "chosen", "assistant"), _text(tree, "rejected", "assistant")
        unmarked([asked, answer(chosen), answer(rejected)], image)
    return [pair_item(tree, image=image, prompt=prompt, chosen=chosen, rejected=rejected)]


def _text(tree: Tree, name: str, role: str) -> str:
    value = tree.get(name)
    return read_text(value, name) if isinstance(value, str) else only(read_messages(value, name), role, name)


def _read_image(tree: Tree) -> Picture | None:
    return read_picture(tree, _IMAGES) or read_picture(tree, "image")


def _write_sample(item: SampleItem) -> dict[str, Any]:
    return {
        _IMAGES: write_pictures(item.image),
        "messages": _parts(item.turns, item.image),
        "category": item.category,
        **write_origin(item),
    }


def read_sample(tree: Tree) -> SampleItem:
    """A sample of a `messages` record."""
    image = _read_image(tree)
    return sample_item(tree, image, read_messages(tree.get("messages"), "messages"))


FORMAT = Format(
    name="trl",
    image=_IMAGES,
    columns=pair_columns(
        (_IMAGES, pa.list_(IMAGE)),
        *((name, _MESSAGES) for name in ("prompt", "chosen", "rejected")),
    ),
    write=_write,
    read=_read,
    samples=Samples(
        columns=sample_columns(
            (_IMAGES, pa.list_(IMAGE)),
            ("messages", _MESSAGES),
        ),
        write=_write_sample,
        read=read_sample,
    ),
)
