"""LLaVA's JSON: `conversations` on an `image`; of pairs with `rejected_conversations` beside them."""

from typing import Any

import pyarrow as pa

from stic_ray.exchange.conversations import (
    answer,
    check_turns,
    question,
    read_pair_turns,
    read_sharegpt,
    read_text,
    unmarked,
    write_sharegpt,
)
from stic_ray.exchange.format import (
    IMAGE,
    PAIR_ORIGIN,
    SAMPLE_ORIGIN,
    SHAREGPT,
    Format,
    Samples,
    Tree,
    read_picture,
    write_origin,
)
from stic_ray.exchange.items import IMPORTED, PairItem, SampleItem
from stic_ray.origins import ORIGIN, PairOrigin, SampleOrigin, read_origin

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
    return [
        PairItem(
            image=image,
            prompt=prompt,
            chosen=chosen,
            rejected=rejected,
            negative=read_text(tree.get("negative") or IMPORTED, "negative"),
            origin=read_origin(tree, PairOrigin),
        )
    ]


def _write_sample(item: SampleItem) -> dict[str, Any]:
    return {
        **_head(item),
        "conversations": write_sharegpt(item.turns, item.image),
        **({"category": item.category} if item.category else {}),
        **write_origin(item),
    }


def _read_sample(tree: Tree) -> SampleItem:
    image = read_picture(tree, _IMAGE)
    turns = unmarked(read_sharegpt(tree.get("conversations"), "conversations"), image)
    check_turns(turns)
    return SampleItem(image=image, turns=turns, origin=read_origin(tree, SampleOrigin))


FORMAT = Format(
    name="llava",
    image=_IMAGE,
    columns=pa.schema(
        [
            ("id", pa.string()),
            (_IMAGE, IMAGE),
            ("conversations", SHAREGPT),
            (_REJECTED, SHAREGPT),
            ("negative", pa.string()),
            (ORIGIN, PAIR_ORIGIN),
        ]
    ),
    write=_write,
    read=_read,
    samples=Samples(
        columns=pa.schema(
            [
                ("id", pa.string()),
                (_IMAGE, IMAGE),
                ("conversations", SHAREGPT),
                ("category", pa.string()),
                (ORIGIN, SAMPLE_ORIGIN),
            ]
        ),
        write=_write_sample,
        read=_read_sample,
    ),
)
