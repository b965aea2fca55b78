"""ms-swift: `messages` and `images`; of pairs the messages hold the chosen answer, beside a `rejected_response`."""

from typing import Any

import pyarrow as pa

from stic_ray.exchange.conversations import (
    answer,
    check_turns,
    question,
    read_messages,
    read_pair_turns,
    read_text,
    refuse_markers,
    unmarked,
    write_messages,
)
from stic_ray.exchange.format import (
    IMAGE,
    MESSAGES,
    PAIR_ORIGIN,
    SAMPLE_ORIGIN,
    Format,
    Samples,
    Tree,
    read_picture,
    write_origin,
    write_pictures,
)
from stic_ray.exchange.items import IMPORTED, PairItem, SampleItem
from stic_ray.origins import ORIGIN, PairOrigin, SampleOrigin, read_origin

_IMAGES, _REJECTED = "images", "rejected_response"


def _write(item: PairItem) -> dict[str, Any]:
    refuse_markers([item.rejected])
    return {
        "messages": write_messages([question(item.prompt), answer(item.chosen)], item.image),
        _IMAGES: write_pictures(item.image),
        _REJECTED: item.rejected,
        "negative": item.negative,
        **write_origin(item),
    }


def _read(tree: Tree) -> list[PairItem]:
    image = read_picture(tree, _IMAGES)
    prompt, chosen = read_pair_turns(read_messages(tree.get("messages"), "messages"), image, "messages")
    rejected = read_text(tree.get(_REJECTED), _REJECTED)
    unmarked([question(prompt), answer(rejected)], image)
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
        "messages": write_messages(item.turns, item.image),
        _IMAGES: write_pictures(item.image),
        "category": item.category,
        **write_origin(item),
    }


def _read_sample(tree: Tree) -> SampleItem:
    image = read_picture(tree, _IMAGES)
    turns = unmarked(read_messages(tree.get("messages"), "messages"), image)
    check_turns(turns)
    return SampleItem(image=image, turns=turns, origin=read_origin(tree, SampleOrigin))


FORMAT = Format(
    name="ms_swift",
    image=_IMAGES,
    columns=pa.schema(
        [
            ("messages", MESSAGES),
            (_IMAGES, pa.list_(IMAGE)),
            (_REJECTED, pa.string()),
            ("negative", pa.string()),
            (ORIGIN, PAIR_ORIGIN),
        ]
    ),
    write=_write,
    read=_read,
    samples=Samples(
        columns=pa.schema(
            [
                ("messages", MESSAGES),
                (_IMAGES, pa.list_(IMAGE)),
                ("category", pa.string()),
                (ORIGIN, SAMPLE_ORIGIN),
            ]
        ),
        write=_write_sample,
        read=_read_sample,
    ),
)
