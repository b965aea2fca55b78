"""What a pair or a sample was in the store that it was exported from, as its record tells it beside the rest."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

ORIGIN = "stic_ray"  # the key of a record under which its origin stands
EMPTY = "an answer is empty"
AGAIN = "its id stands before in the file"
_ID = re.compile(r"[0-9a-f]{32}")
_MAX_SEED = 2**63 - 1

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class PairOrigin:
    """What a pair was in the store that it was written from, as far as no format has a place for it: see `Pair`."""

    id: str
    item_id: str
    image_id: str
    chosen_id: str
    chosen_prompt: str
    chosen_seed: int
    chosen_seen_hash: str
    rejected_id: str
    rejected_prompt: str
    rejected_seed: int
    rejected_seen_hash: str
    corruption: str


@dataclass(frozen=True, kw_only=True)
class SampleOrigin:
    """What a sample was in the store that it was written from: see `Sample`."""

    id: str
    image_id: str
    description: str


def read_origin(tree: Mapping[str, Any], kind: type[T]) -> T | None:
    """The origin that a record tells, None where it tells none.

    Raises:
        ValueError: it is not whole, or no value of the store could be so.
    """
    told = tree.get(ORIGIN)
    if told is None or (isinstance(told, Mapping) and told and not any(v is not None for v in told.values())):
        return None  # a table may hold a struct of nothing where records of others stand beside ours
    names = {f.name: f.type for f in fields(kind)}  # type: ignore[arg-type]
    if not isinstance(told, Mapping) or told.keys() != names.keys():
        raise ValueError(f"{ORIGIN} must have exactly the fields {', '.join(names)}: remove it, or leave it as it was")
    for name, wanted in names.items():
        if not _may_be(name, wanted, told[name]):
            raise ValueError(f"{ORIGIN}.{name} is not what was written: remove {ORIGIN}, or leave it as it was")
    return kind(**told)


def _may_be(name: str, wanted: Any, value: Any) -> bool:
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_SEED
    if not isinstance(value, str) or not is_unicode(value):
        return False
    is_id = name == "id" or name.endswith("_id")
    return not is_id or bool(_ID.fullmatch(value)) or (name == "image_id" and not value)


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can hold a text: JSON can escape half of a character alone (a lone surrogate)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
