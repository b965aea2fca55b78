"""LLaMA-Factory: sharegpt records, ranking ones for pairs, and their entry in `dataset_info.json`."""

from typing import Any

import pyarrow as pa

from stic_ray.exchange.conversations import (
    answer,
    only,
    question,
    read_sharegpt,
    unmarked,
    write_sharegpt,
)
from stic_ray.exchange.format import (
    IMAGE,
    SHAREGPT,
    SHAREGPT_TURN,
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

NAME = "llama_factory"
INFO = "dataset_info.json"
_IMAGES = "images"


def info_entry(file_name: str, what: str) -> dict[str, Any]:
    """What `dataset_info.json` says of a file of "pairs" or "samples"."""
    columns = {"messages": "conversations", _IMAGES: _IMAGES}
    if what == "pairs":
        columns |= {"chosen": "chosen", "rejected": "rejected"}
    ranking = {"ranking": True} if what == "pairs" else {}
    return {"file_name": file_name, "formatting": "sharegpt", **ranking, "columns": columns}


def _write(item: PairItem) -> dict[str, Any]:
    chosen, rejected = write_sharegpt([answer(item.chosen), answer(item.rejected)], None)
    return {
        "conversations": write_sharegpt([question(item.prompt)], item.image),
        "chosen": chosen,
        "rejected": rejected,
        _IMAGES: write_pictures(item.image),
        "negative": item.negative,
        **write_origin(item),
    }


def _read(tree: Tree) -> list[PairItem]:
    image = read_picture(tree, _IMAGES)
    turns = read_sharegpt(tree.get("conversations"), "conversations")
    only(turns, "user", "conversations")
    chosen, rejected = (only(read_sharegpt(tree.get(name), name), "assistant", name) for name in ("chosen", "rejected"))
    asked, _, _ = unmarked([*turns, answer(chosen), answer(rejected)], image)
    return [pair_item(tree, image=image, prompt=asked.text, chosen=chosen, rejected=rejected)]


def _write_sample(item: SampleItem) -> dict[str, Any]:
    return {
        "conversations": write_sharegpt(item.turns, item.image),
        _IMAGES: write_pictures(item.image),
        "category": item.category,
        **write_origin(item),
    }


def _read_sample(tree: Tree) -> SampleItem:
    image = read_picture(tree, _IMAGES)
    return sample_item(tree, image, read_sharegpt(tree.get("conversations"), "conversations"))


FORMAT = Format(
    name=NAME,
    image=_IMAGES,
    columns=pair_columns(
        ("conversations", SHAREGPT),
        ("chosen", SHAREGPT_TURN),
        ("rejected", SHAREGPT_TURN),
        (_IMAGES, pa.list_(IMAGE)),
    ),
    write=_write,
    read=_read,
    samples=Samples(
        columns=sample_columns(
            ("conversations", SHAREGPT),
            (_IMAGES, pa.list_(IMAGE)),
        ),
        write=_write_sample,
        read=_read_sample,
    ),
)
