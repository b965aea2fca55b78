"""Rows drawn from artifacts of any size: by group, seeded, from columns; only the rows that were drawn are read."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stic_ray import artifacts
from stic_ray.records import make_seed

_READERS = 4  # files read at once

Ints = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
GroupOf = Callable[[pa.ChunkedArray], pa.ChunkedArray]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows that have a value in common: how many there are, and those that were drawn of them."""

    name: str
    num: int
    rows: pa.Table


def draw_by_group(
    files: Sequence[str], column: str, num: int, *, seed: int, group_of: GroupOf = lambda values: values
) -> Iterator[Group]:
    """Up to `num` rows of every group, the largest group first; groups are what `group_of` makes of a column.

    Ids are hashes, so that the smallest of them, seen through a mask of the seed, are a draw at random: the same
    whatever files they stand in. 12 bytes a row are held.
    """
    if not files:
        return
    keys_N, groups = _read_groups(files, column, group_of, np.uint64(make_seed("report", seed)))
    starts = np.cumsum([0, *map(len, groups.chunks)])
    groups = groups.unify_dictionaries()
    codes_N = np.concatenate([chunk.indices.to_numpy() for chunk in groups.chunks])
    names = groups.chunk(0).dictionary.to_pylist()
    counts = np.bincount(codes_N, minlength=len(names))
    for code in sorted(range(len(names)), key=lambda code: (-counts[code], names[code])):
        if counts[code]:
            places = np.flatnonzero(codes_N == code)
            drawn = places[_smallest(keys_N[places], num)]
            rows = pa.concat_tables(read_places(files, starts, sorted(drawn.tolist())))
            yield Group(name=names[code], num=int(counts[code]), rows=rows)


def _read_groups(files: Sequence[str], column: str, group_of: GroupOf, mask: np.uint64) -> tuple[Keys, pa.ChunkedArray]:
    def read(file: str) -> tuple[Keys, pa.Array]:
        table = artifacts.read_file(file, ["id", column])
        packed = artifacts.packed_ids(table.column("id"))
        keys = packed.view(np.uint64).reshape(-1, 2)[:, 0] ^ mask
        return keys, group_of(table.column(column)).combine_chunks().dictionary_encode()

    with ThreadPoolExecutor(_READERS) as readers:
        parts = list(readers.map(read, files))
    return np.concatenate([keys for keys, _ in parts]), pa.chunked_array([groups for _, groups in parts])


def _smallest(keys: Keys, num: int) -> Ints:
    if len(keys) <= num:
        return np.argsort(keys, kind="stable")
    first = np.argpartition(keys, num)[:num]
    return first[np.argsort(keys[first], kind="stable")]


def read_places(files: Sequence[str], starts: Ints, places: Sequence[int]) -> list[pa.Table]:
    """The rows at these places of all files one after another, of which `starts` says where each begins."""
    by_file: dict[int, list[int]] = {}
    for place in places:
        number = int(np.searchsorted(starts, place, side="right")) - 1
        by_file.setdefault(number, []).append(place - int(starts[number]))
    return [artifacts.read_rows(files[number], rows) for number, rows in by_file.items()]


def find_values(files: Sequence[str], keys: Sequence[str], value: str, wanted: Sequence[str]) -> Mapping[str, str]:
    """Values of a column by id, for these ids, which may stand in any of the columns `keys`."""
    ids = pa.array(wanted, pa.string())

    def read(file: str) -> dict[str, Any]:
        table = artifacts.read_file(file, [*keys, value])
        found: dict[str, Any] = {}
        for key in keys:
            rows = table.filter(pc.is_in(table.column(key), ids))
            found |= dict(zip(rows.column(key).to_pylist(), rows.column(value).to_pylist(), strict=True))
        return found

    with ThreadPoolExecutor(_READERS) as readers:
        return {key: text for part in readers.map(read, files if wanted else []) for key, text in part.items()}
