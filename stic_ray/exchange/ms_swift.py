"""ms-swift: `messages` and `images`; of pairs the messages hold the chosen answer, beside a `rejected_response`."""

from typing import Any

import pyarrow as pa

from stic_ray.exchange.conversations import (
    answer,
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
from stic_ray.exchange.items import PairItem, SampleItem

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
    return [pair_item(tree, image=image, prompt=prompt, chosen=chosen, rejected=rejected)]


def _write_sample(item: SampleItem) -> dict[str, Any]:
    return {
        "messages": write_messages(item.turns, item.image),
        _IMAGES: write_pictures(item.image),
        "category": item.category,
        **write_origin(item),
    }


def _read_sample(tree: Tree) -> SampleItem:
    image = read_picture(tree, _IMAGES)
    return sample_item(tree, image, read_messages(tree.get("messages"), "messages"))


FORMAT = Format(
    name="ms_swift",
    image=_IMAGES,
    columns=pair_columns(
        ("messages", MESSAGES),
        (_IMAGES, pa.list_(IMAGE)),
        (_REJECTED, pa.string()),
    ),
    write=_write,
    read=_read,
    samples=Samples(
        columns=sample_columns(
            ("messages", MESSAGES),
            (_IMAGES, pa.list_(IMAGE)),
        ),
        write=_write_sample,
        read=_read_sample,
    ),
)
