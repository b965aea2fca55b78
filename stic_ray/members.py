"""Images inside larger files: where each one lies, and how its bytes are read without the rest.

A location is a text that goes wherever a file's URI goes: `bytes:START+SIZE:URI` is a part of a file (a member of a
tar), `base64:START+SIZE:URI` a part that holds it as text (a cell of a TSV), `row:GROUP.ROW:COLUMN:URI` a cell of a
table (a parquet row group, an Arrow record batch), which holds bytes, a Hugging Face image struct, or a list with one.
"""

import base64
import binascii
import itertools
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stic_ray import storage
from stic_ray.images import BadImageError

ARROW = ".arrow"
_PART = re.compile(r"(?P<kind>bytes|base64):(?P<start>\d+)\+(?P<size>\d+):(?P<uri>.+)", re.DOTALL)
_CELL = re.compile(r"row:(?P<group>\d+)\.(?P<row>\d+):(?P<column>[^:]*):(?P<uri>.+)", re.DOTALL)
_HEADERS_BYTES = 1 << 20  # read at once when a remote tar's headers are looked for
_BYTES = "bytes"  # the field of an image struct (Hugging Face) that holds the file


def is_inside(location: str) -> bool:
    """Whether a location is a part of a file, rather than a file."""
    return location.startswith(("bytes:", "base64:", "row:"))


def file_of(location: str) -> str:
    """The URI of the file that a location is in; itself where it is a file."""
    if not is_inside(location):
        return location
    return _parse(location)["uri"]


def read(location: str) -> bytes:
    """The bytes at a location.

    Raises:
        FileNotFoundError: the file is gone.
        BadImageError: the file is shorter than it was, the text is no base64, or the cell holds nothing.
    """
    found = _parse(location)
    if "start" in found:
        part = _read_part(found["uri"], int(found["start"]), int(found["size"]))
        return part if found["kind"] == "bytes" else _decoded(part)
    with _damage_told():
        cells = _read_cells(found["uri"], int(found["group"]), unquote(found["column"]))
    row = int(found["row"])
    if row >= len(cells):
        raise BadImageError(f"row {row} of {found['uri']} is gone")
    data = cells[row].as_py()
    if isinstance(data, list):
        if len(data) > 1:
            raise BadImageError(f"the row holds {len(data)} images")
        data = data[0] if data else None
    if isinstance(data, dict):
        data = data[_BYTES]
    if data is None:
        raise BadImageError("the row holds no bytes (a path alone is not followed)")
    return bytes(data)


def _parse(location: str) -> dict[str, str]:
    found = _PART.fullmatch(location) or _CELL.fullmatch(location)
    if found is None:
        raise ValueError(f"{location!r} is no location of an image")
    return found.groupdict()


def _read_part(uri: str, start: int, size: int) -> bytes:
    filesystem, path = storage.split(uri)
    data: bytes = filesystem.cat_file(path, start=start, end=start + size)
    if len(data) < size:
        raise BadImageError(f"cut off: {len(data)} of {size} bytes are there")
    return data


def _decoded(text: bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise BadImageError(f"no base64: {error}") from None


def base64_part(start: int, size: int, uri: str) -> str:
    """The location of an image that stands as base64 in a text file; places are counted in bytes."""
    return f"base64:{start}+{size}:{uri}"


@lru_cache(maxsize=2)
def _read_cells(uri: str, group: int, column: str) -> pa.ChunkedArray:
    """One group's image bytes. Neighbours are asked for one after the other, so two groups are kept."""
    if uri.endswith(ARROW):
        batch = next(itertools.islice(_open_stream(uri), group, None), None)
        if batch is None:
            raise BadImageError(f"record batch {group} of {uri} is gone")
        return _bytes_of(pa.chunked_array([batch.column(column)]))
    filesystem, path = storage.split(uri)
    with filesystem.open(path, "rb") as file:
        parquet = pq.ParquetFile(file)
        struct = pa.types.is_struct(parquet.schema_arrow.field(column).type)
        table = parquet.read_row_group(group, columns=[f"{column}.{_BYTES}" if struct else column])
    return _bytes_of(table.column(column))


def _bytes_of(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """The bytes of image structs; of a row without a struct, none (`Array.field` would give what lies beneath)."""
    return pc.struct_field(cells, _BYTES) if pa.types.is_struct(cells.type) else cells


@contextmanager
def _damage_told() -> Iterator[None]:
    """Turns what Arrow finds wrong in a table into a BadImageError; it has no error code, as one of a disk or a network
    has."""
    try:
        yield
    except (pa.ArrowException, OSError, IndexError, KeyError) as error:
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise
        raise BadImageError(f"damaged table: {' '.join(str(error).split())[:120]}") from None


def _open_stream(uri: str) -> Any:
    if storage.is_local(uri):
        return pa.ipc.open_stream(pa.memory_map(storage.split(uri)[1]))
    filesystem, path = storage.split(uri)
    return pa.ipc.open_stream(filesystem.open(path, "rb"))


def tar_members(uri: str, suffixes: tuple[str, ...]) -> Iterator[tuple[str, str, int]]:
    """The members of an uncompressed tar whose names end so: name, location and size (bytes).

    A name that is there again gets a number.

    Only headers are read; nothing is unpacked, and names are never taken for paths.

    Raises:
        BadImageError: the tar is damaged or compressed, from there on.
    """
    filesystem, path = storage.split(uri)
    seen: dict[str, int] = {}
    with filesystem.open(path, "rb", block_size=_HEADERS_BYTES) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                while (member := archive.next()) is not None:
                    archive.members.clear()  # type: ignore[attr-defined]  # it would keep millions of headers
                    if not member.isreg() or member.issparse() or not member.name.lower().endswith(suffixes):
                        continue
                    seen[member.name] = seen.get(member.name, 0) + 1
                    name = member.name if seen[member.name] == 1 else f"{member.name}#{seen[member.name]}"
                    yield storage.as_utf8(name), f"bytes:{member.offset_data}+{member.size}:{uri}", member.size
                end = archive.offset
        except (tarfile.TarError, EOFError) as error:
            raise BadImageError(f"damaged tar: {error}") from None
        file.seek(end)  # tarfile takes a damaged header for the end
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise BadImageError("damaged tar: it does not end where its last readable header says")


def table_rows(uri: str, column: str) -> Iterator[tuple[str, str, int]]:
    """The rows of a parquet or Arrow stream file: number, location of the image column's cell, and 0 for its size.

    Of a parquet file only the footer is read.

    Raises:
        BadImageError: the file is damaged.
        ValueError: it has no such column, or the column holds no bytes; the message names what there is.
    """
    number = 0
    for group, num_rows in enumerate(_group_sizes(uri, column)):
        for row in range(num_rows):
            yield str(number), cell(group, row, column, uri), 0
            number += 1


def cell(group: int, row: int, column: str, uri: str) -> str:
    """The location of a cell of a table."""
    return f"row:{group}.{row}:{quote(column, safe='')}:{uri}"


def table_batches(uri: str, num_rows: int) -> Iterator[tuple[int, int, pa.RecordBatch]]:
    """All of a parquet or Arrow stream file, up to so many rows at a time: a batch with its group and its first row in
    that group.

    Raises:
        BadImageError: the file is damaged, from there on.
    """
    with _damage_told():
        if uri.endswith(ARROW):
            for group, whole in enumerate(_open_stream(uri)):
                for start in range(0, whole.num_rows, num_rows):
                    yield group, start, whole.slice(start, num_rows)
            return
        filesystem, path = storage.split(uri)
        with filesystem.open(path, "rb") as file:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            for group in range(parquet.num_row_groups):
                start = 0
                for batch in parquet.iter_batches(num_rows, row_groups=[group], use_threads=False):
                    yield group, start, batch
                    start += batch.num_rows


def _group_sizes(uri: str, column: str) -> Iterator[int]:
    with _damage_told():
        if uri.endswith(ARROW):
            batches = _open_stream(uri)
            _check_column(uri, batches.schema, column)
            for batch in batches:
                yield batch.num_rows
            return
        filesystem, path = storage.split(uri)
        with filesystem.open(path, "rb") as file:
            parquet = pq.ParquetFile(file)
            _check_column(uri, parquet.schema_arrow, column)
            sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        yield from sizes


def _check_column(uri: str, schema: pa.Schema, column: str) -> None:
    if column not in schema.names:
        raise ValueError(f"{uri} has no column {column}: it has {', '.join(schema.names)}")
    kind = schema.field(column).type
    if not holds_images(kind):
        raise ValueError(f"column {column} of {uri} is {kind}: it must hold the bytes of image files")


def holds_images(kind: pa.DataType) -> bool:
    """Whether a column of this type has cells that are read as images."""
    if is_list(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        kind = kind.field(_BYTES).type if kind.get_field_index(_BYTES) >= 0 else kind
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether a type's values are lists."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
