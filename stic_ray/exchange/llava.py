"""LLaVA's JSON: `conversations` on an `image`; of pairs with `rejected_conversations` beside them."""

from typing import Any

import pyarrow as pa

from stic_ray.exchange.conversations import (
    answer,
    question,
    read_pair_turns,
    read_sharegpt,
    write_sharegpt,
)
from stic_ray.exchange.format import (
    IMAGE,
    SHAREGPT,
    Format,
    Samples,
    Tree,
    pair_columns,
    pair_item,
    read_picture,
    sample_columns,
    sample_item,
    write_origin,
)
from stic_ray.exchange.items import PairItem, SampleItem

_IMAGE, _REJECTED = "image", "rejected_conversations"


def _head(item: PairItem | SampleItem) -> dict[str, Any]:
    named = {"id": item.origin.id} if item.origin is not None else {}
    return {**named, **({_IMAGE: item.image} if item.image is not None else {})}


def _write(item: PairItem) -> dict[str, Any]:
    return {
        **_head(item),
        "conversations": write_sharegpt([question(item.prompt), answer(item.chosen)], item.image),
        _REJECTED: write_sharegpt([question(item.prompt), answer(item.rejected)], item.image),
        "negative": item.negative,
        **write_origin(item),
    }


def _read(tree: Tree) -> list[PairItem]:
    image = read_picture(tree, _IMAGE)
    turns = read_sharegpt(tree.get("conversations"), "conversations")
    prompt, chosen = read_pair_turns(turns, image, "conversations")
    worse = read_sharegpt(tree.get(_REJECTED), _REJECTED)
    if len(worse) == 1:  # the answer alone
        worse = [turns[0], *worse]
    other, rejected = read_pair_turns(worse, image, _REJECTED)
    if other != prompt:
        raise ValueError(f"conversations and {_REJECTED} do not begin with the same question")
    return [pair_item(tree, image=image, prompt=prompt, chosen=chosen, rejected=rejected)]


def _write_sample(item: SampleItem) -> dict[str, Any]:
    return {
        **_head(item),
        "conversations": write_sharegpt(item.turns, item.image),
        **({"category": item.category} if item.category else {}),
        **write_origin(item),
    }


def _read_sample(tree: Tree) -> SampleItem:
    image = read_picture(tree, _IMAGE)
    return sample_item(tree, image, read_sharegpt(tree.get("conversations"), "conversations"))


FORMAT = Format(
    name="llava",
    image=_IMAGE,
    columns=pair_columns(
        ("id", pa.string()),
        (_IMAGE, IMAGE),
        ("conversations", SHAREGPT),
        (_REJECTED, SHAREGPT),
    ),
    write=_write,
    read=_read,
    samples=Samples(
        columns=sample_columns(
            ("id", pa.string()),
            (_IMAGE, IMAGE),
            ("conversations", SHAREGPT),
        ),
        write=_write_sample,
        read=_read_sample,
    ),
)
