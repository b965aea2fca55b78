"""What a format is: how a pair and a sample are written as one of its records and read from one, and its columns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pyarrow as pa

from stic_ray.exchange.conversations import check_turns, read_text, unmarked
from stic_ray.exchange.items import IMPORTED, PairItem, Picture, SampleItem
from stic_ray.origins import ORIGIN, PairOrigin, SampleOrigin, read_origin
from stic_ray.records import Turn

Tree = Mapping[str, Any]  # a record as plain data, but for its image: a Picture

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # Hugging Face's
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_SHAREGPT_TURN = [("from", pa.string()), ("value", pa.string())]
SHAREGPT_TURN = pa.struct(_SHAREGPT_TURN)
SHAREGPT = pa.list_(SHAREGPT_TURN)


def _origin_type(kind: type) -> pa.DataType:
    return pa.struct([(f.name, pa.int64() if f.type is int else pa.string()) for f in fields(kind)])


PAIR_ORIGIN, SAMPLE_ORIGIN = _origin_type(PairOrigin), _origin_type(SampleOrigin)


def pair_columns(*own: tuple[str, pa.DataType]) -> pa.Schema:
    """The columns of a table of pairs: a format's own, and what every format tells beside them."""
    return pa.schema([*own, ("negative", pa.string()), (ORIGIN, PAIR_ORIGIN)])


def sample_columns(*own: tuple[str, pa.DataType]) -> pa.Schema:
    """As `pair_columns`, of samples."""
    return pa.schema([*own, ("category", pa.string()), (ORIGIN, SAMPLE_ORIGIN)])


@dataclass(frozen=True, kw_only=True)
class Samples:
    """How a format holds instruction samples; `columns` are those of a table of them."""

    columns: pa.Schema
    write: Callable[[SampleItem], dict[str, Any]]
    read: Callable[[Tree], SampleItem]


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a format holds pairs, several in one record maybe, and samples, None where it holds none.

    `image` is the field that holds the image, or a list of it; `columns` are those of a table of pairs.
    """

    name: str
    image: str
    columns: pa.Schema
    write: Callable[[PairItem], dict[str, Any]]
    read: Callable[[Tree], list[PairItem]]
    samples: Samples | None = None


def read_picture(tree: Tree, name: str) -> Picture | None:
    """The image of a record, None where it has none.

    Raises:
        ValueError: there are several, or it is nothing that an image could be.
    """
    value = tree.get(name)
    if isinstance(value, list):
        if len(value) > 1:
            raise ValueError(f"{name} has {len(value)} images: a record may have one")
        value = value[0] if value else None
    if isinstance(value, Mapping):
        if value.get("bytes") is not None:
            raise ValueError(f"{name} holds an image's bytes as text: give a parquet file, or a path")
        value = value.get("path")
    if value is None or value == "":
        return None
    if isinstance(value, Picture):
        return value
    if not isinstance(value, str):
        raise ValueError(f"{name} is not one path")
    return Picture(path=value)


def pair_item(tree: Tree, *, image: Picture | None, prompt: str, chosen: str, rejected: str) -> PairItem:
    """The pair of a record, with what it tells beside its texts."""
    return PairItem(
        image=image,
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        negative=read_text(tree.get("negative") or IMPORTED, "negative"),
        origin=read_origin(tree, PairOrigin),
    )


def sample_item(tree: Tree, image: Picture | None, marked: Sequence[Turn]) -> SampleItem:
    """The sample of a record; `marked` are its turns with the image's marker.

    Raises:
        ValueError: they do not alternate, or the marker stands where no image can.
    """
    turns = unmarked(marked, image)
    check_turns(turns)
    return SampleItem(image=image, turns=turns, origin=read_origin(tree, SampleOrigin))


def write_pictures(image: Picture | None) -> list[Picture]:
    """The image of a record that holds a list of them."""
    return [image] if image is not None else []


def write_origin(item: PairItem | SampleItem) -> dict[str, Any]:
    """The field with an item's origin, none where it has none."""
    return {ORIGIN: vars(item.origin)} if item.origin is not None else {}
