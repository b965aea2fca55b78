"""Files of records: JSON lines, a JSON list, parquet, a Hugging Face data set on disk; each appears whole."""

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from stic_ray import storage
from stic_ray.exchange.format import IMAGE
from stic_ray.exchange.items import Picture
from stic_ray.sources import SAVED_STATE

JSON_LINES, JSON_LIST, PARQUET = ".jsonl", ".json", ".parquet"
_ROWS_PER_GROUP = 256  # few, since one image is read with its group
_BYTES_PER_GROUP = 32 << 20
_BYTES_PER_SHARD = 500 << 20

Trees = Iterable[Mapping[str, Any]]


class _Table(Protocol):
    def write_table(self, table: pa.Table) -> None: ...


def holds_images(uri: str) -> bool:
    """Whether the kind of file that this name says can hold the images themselves."""
    return not uri.endswith((JSON_LINES, JSON_LIST))


def write(uri: str, trees: Trees, image: str, columns: pa.Schema) -> int:
    """Write records as the kind of file that the name says, without an ending as `save_to_disk` does; returns how many.

    `image` is the field with pictures. Nothing stands at `uri` before all is written.
    """
    if holds_images(uri):
        columns = columns.with_metadata({"huggingface": json.dumps({"info": {"features": _features(columns)}})})
        return (_write_parquet if uri.endswith(PARQUET) else _write_saved)(uri, trees, image, columns)
    number = 0
    with storage.appearing(uri) as file:
        for tree in trees:
            before = b"" if uri.endswith(JSON_LINES) else b"[\n" if number == 0 else b",\n"
            after = b"\n" if uri.endswith(JSON_LINES) else b""
            named = {key: _named(value) if key == image else value for key, value in tree.items()}
            file.write(before + json.dumps(named, ensure_ascii=False).encode() + after)
            number += 1
        if uri.endswith(JSON_LIST):
            file.write(b"\n]\n" if number else b"[]\n")
    return number


def _named(value: Any) -> Any:
    """Pictures by their names, which is all that JSON holds of them."""
    if isinstance(value, list):
        return [_named(item) for item in value]
    return value.path if isinstance(value, Picture) else value


def _held(value: Any) -> Any:
    """Pictures as Hugging Face's image structs."""
    if isinstance(value, list):
        return [_held(item) for item in value]
    return {"bytes": value.data, "path": value.path} if isinstance(value, Picture) else value


def _groups(trees: Trees, image: str, columns: pa.Schema) -> Iterator[pa.Table]:
    rows: list[dict[str, Any]] = []
    num_bytes = 0
    for tree in trees:
        row = {**tree, image: _held(tree.get(image))}
        held = row[image] if isinstance(row[image], list) else [row[image]]
        num_bytes += sum(len(cell["bytes"] or b"") for cell in held if cell)
        rows.append(row)
        if len(rows) == _ROWS_PER_GROUP or num_bytes > _BYTES_PER_GROUP:
            yield pa.Table.from_pylist(rows, columns).combine_chunks()
            rows, num_bytes = [], 0
    if rows:
        yield pa.Table.from_pylist(rows, columns).combine_chunks()


def _write_parquet(uri: str, trees: Trees, image: str, columns: pa.Schema) -> int:
    number = 0
    with (
        storage.appearing(uri) as file,
        pq.ParquetWriter(file, columns, compression="zstd", write_page_checksum=True) as table,
    ):
        for group in _groups(trees, image, columns):
            table.write_table(group)
            number += group.num_rows
    return number


def _write_saved(uri: str, trees: Trees, image: str, columns: pa.Schema) -> int:
    """A data set's tables, then what says which they are: until that is there, nobody takes the folder for one."""
    number, names = 0, list[str]()
    groups = _groups(trees, image, columns)
    group = next(groups, None)
    while group is not None or not names:
        names.append(f"data-{len(names):05d}.arrow")
        num_bytes = 0
        with _stream(storage.join(uri, names[-1]), columns) as table:
            while group is not None and num_bytes < _BYTES_PER_SHARD:
                table.write_table(group)
                number += group.num_rows
                num_bytes += group.nbytes
                group = next(groups, None)
    state: dict[str, Any] = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": uuid.uuid4().hex[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    info = {"citation": "", "description": "", "features": _features(columns), "homepage": "", "license": ""}
    storage.write_bytes(storage.join(uri, "dataset_info.json"), json.dumps(info, indent=1).encode())
    storage.write_bytes(storage.join(uri, SAVED_STATE), json.dumps(state, indent=1).encode())
    return number


@contextmanager
def _stream(uri: str, columns: pa.Schema) -> Iterator[_Table]:
    with storage.appearing(uri) as file, pa.ipc.new_stream(file, columns) as table:
        yield table


def _features(columns: pa.Schema | pa.StructType) -> dict[str, Any]:
    """How Hugging Face's data sets describe columns: without it they would take images for structs."""
    return {field.name: _feature(field.type) for field in columns}


def _feature(kind: pa.DataType) -> Any:
    if kind == IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return [_feature(kind.value_type)]
    if pa.types.is_struct(kind):
        return _features(kind)
    return {"dtype": str(kind), "_type": "Value"}
