"""STIC's own preference data: two conversations on an `image`, and whether it was corrupted or a prompt misled."""

from typing import Any

import pyarrow as pa

from stic_ray.exchange.conversations import (
    answer,
    question,
    read_messages,
    read_pair_turns,
    read_text,
    write_messages,
)
from stic_ray.exchange.format import IMAGE, MESSAGES, PAIR_ORIGIN, Format, Tree, read_picture, write_origin
from stic_ray.exchange.items import IMPORTED, PairItem
from stic_ray.origins import ORIGIN, PairOrigin, read_origin

_IMAGE, _CORRUPTED, _HALLU = "image", "image_corruption", "hallu_prompt"
_MISLEADING = "misleading_prompt"  # the names of negatives in stages/generate.py
_CORRUPTED_IMAGES = ("corrupted_image", "noised_image")


def _write(item: PairItem) -> dict[str, Any]:
    return {
        _IMAGE: item.image,
        _CORRUPTED: item.negative in _CORRUPTED_IMAGES,
        _HALLU: item.rejected_prompt if item.negative == _MISLEADING else "",
        "chosen": write_messages([question(item.prompt), answer(item.chosen)], None),
        "rejected": write_messages([question(item.prompt), answer(item.rejected)], None),
        "negative": item.negative,
        **write_origin(item),
    }


def _read(tree: Tree) -> list[PairItem]:
    image = read_picture(tree, _IMAGE)
    prompt, chosen = read_pair_turns(read_messages(tree.get("chosen"), "chosen"), image, "chosen")
    asked, rejected = read_pair_turns(read_messages(tree.get("rejected"), "rejected"), image, "rejected")
    corrupted, misleading = tree.get(_CORRUPTED) or False, read_text(tree.get(_HALLU) or "", _HALLU)
    if not isinstance(corrupted, bool):
        raise ValueError(f"{_CORRUPTED} is neither true nor false")
    negative = _CORRUPTED_IMAGES[0] if corrupted else _MISLEADING if misleading else IMPORTED
    return [
        PairItem(
            image=image,
            prompt=prompt,
            chosen=chosen,
            rejected=rejected,
            negative=read_text(tree.get("negative") or negative, "negative"),
            rejected_prompt=misleading or asked,
            origin=read_origin(tree, PairOrigin),
        )
    ]


FORMAT = Format(
    name="stic",
    image=_IMAGE,
    columns=pa.schema(
        [
            (_IMAGE, IMAGE),
            (_CORRUPTED, pa.bool_()),
            (_HALLU, pa.string()),
            ("chosen", MESSAGES),
            ("rejected", MESSAGES),
            ("negative", pa.string()),
            (ORIGIN, PAIR_ORIGIN),
        ]
    ),
    write=_write,
    read=_read,
)
