"""Records of files of any kind, one after the other: JSON lines, JSON lists, parquet, data sets that were saved.

A file may hold millions: of a list a piece of text is held, of a table a batch of rows, and images stay where they are.
What is wrong with one record is told in it; where the next one cannot be found either, reading ends with a ValueError.
"""

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stic_ray import members, sources, storage
from stic_ray.exchange.items import Picture
from stic_ray.images import BadImageError

_MAX_RECORD = 64 << 20  # bytes of a line, characters of a list's record
_PIECE = 1 << 20
_BEGINNING = 4096  # bytes of JSON that say whether it is one list
_ROWS = 64  # of a table, with their images, at a time
_TABLES = (".parquet", members.ARROW)
_SUFFIXES = (".parquet", ".jsonl", ".json")  # of a folder's files
_NO_RECORDS = "dataset_info.json"  # of LLaMA-Factory: it says what the files beside it are
_MAX_DIGITS = 20  # with a sign: of a seed
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One record: its place in words for a message, what no other record of the source is called, and what it holds.

    `key` is its file's path below the source with its number from 0; `error` says why there is nothing to read in it.
    """

    place: str
    key: str
    tree: Mapping[str, Any]
    error: str = ""


def list_files(uri: str) -> Iterator[tuple[str, str]]:
    """The files of a source by key and URI: one file, a data set as `save_to_disk` left it, or a folder's files.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: the folder holds nothing that is read.
    """
    if not storage.is_directory(uri):
        if not storage.exists(uri):
            raise FileNotFoundError(uri)
        yield uri.rpartition("/")[2], uri
        return
    if any(storage.exists(storage.join(uri, name)) for name in (sources.SAVED_STATE, "dataset_dict.json")):
        yield from sources.saved_files(uri)
        return
    empty = True
    for listed in storage.walk(uri):
        if listed.key.lower().endswith(_SUFFIXES) and listed.key.rpartition("/")[2] != _NO_RECORDS:
            empty = False
            yield listed.key, listed.uri
    if empty:
        raise ValueError(
            f"{uri} is a folder without {', '.join(_SUFFIXES)} files: give a file, or the folder that save_to_disk "
            "wrote"
        )


def read(uri: str) -> Iterator[Record]:
    """All records of a source.

    Raises:
        ValueError: a file is damaged so that the records behind cannot be found; the message names file and line.
    """
    for key, file_uri in list_files(uri):
        with storage.reaching(file_uri):
            yield from _table_rows(key, file_uri) if file_uri.lower().endswith(_TABLES) else _json(key, file_uri)


def _json(key: str, uri: str) -> Iterator[Record]:
    filesystem, path = storage.split(uri)
    with filesystem.open(path, "rb") as raw:
        begins = raw.read(_BEGINNING).removeprefix(_BOM).lstrip()[:1]
        raw.seek(0)
        file = io.BufferedReader(raw, _PIECE)
        yield from (_list_entries if begins == b"[" else _lines)(key, file)


def _record(place: str, key: str, number: int, tree: Any) -> Record:
    error = "" if isinstance(tree, Mapping) else "no record: it must be a JSON object"
    return Record(place=place, key=f"{key}/{number}", tree={} if error else tree, error=error)


def _lines(key: str, file: io.BufferedReader) -> Iterator[Record]:
    decoder = json.JSONDecoder(parse_int=_integer)
    number = 0
    while line := file.readline(_MAX_RECORD):
        number += 1
        place = f"{key} line {number}"
        if len(line) == _MAX_RECORD and not line.endswith(b"\n"):
            while (rest := file.readline(_MAX_RECORD)) and not rest.endswith(b"\n"):
                pass
            yield Record(place=place, key=f"{key}/{number - 1}", tree={}, error=f"more than {_MAX_RECORD} bytes")
            continue
        line = line.removeprefix(_BOM) if number == 1 else line
        if not line.strip():
            continue
        try:
            tree = decoder.decode(line.decode())
        except (ValueError, RecursionError) as error:
            yield Record(place=place, key=f"{key}/{number - 1}", tree={}, error=_no_json(error))
            continue
        yield _record(place, key, number - 1, tree)


def _no_json(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "no UTF-8 text"
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON: {error.msg}"
    return f"no JSON that can be read: {error}"


def _integer(digits: str) -> int | float:
    """A number; Python refuses to read those of thousands of digits, which are nobody's count of anything."""
    return int(digits) if len(digits) <= _MAX_DIGITS else float(digits)


def _list_entries(key: str, file: io.BufferedReader) -> Iterator[Record]:
    text = _Window(key, io.TextIOWrapper(file, "utf-8-sig"))
    text.take("[")
    number = 0
    while text.peek() != "]":
        if number:
            text.take(",")
        text.peek()
        place = f"{key} line {text.line} (record {number + 1})"
        yield _record(place, key, number, text.value())
        number += 1
    text.take("]")
    if text.peek():
        raise ValueError(f"{key} line {text.line}: there is something behind the end of the list")


class _Window:
    """A part of a JSON text: what is read stands at `_at`, in line `line`."""

    def __init__(self, key: str, file: io.TextIOWrapper) -> None:
        self._key, self._file = key, file
        self._text, self._at = "", 0
        self._decoder = json.JSONDecoder(parse_int=_integer)
        self.line = 1

    def peek(self) -> str:
        """The next character that is no space, "" at the end; it stays."""
        while True:
            rest = self._text[self._at : self._at + 64]
            stripped = rest.lstrip(" \t\r\n")
            self._move(len(rest) - len(stripped))
            if stripped:
                return stripped[0]
            if self._at == len(self._text) and not self._extend():
                return ""

    def take(self, wanted: str) -> None:
        """Pass over this character, which must be the next."""
        found = self.peek()
        if found != wanted:
            has = f"there is {found!r}" if found else "the text ends"
            raise ValueError(f"{self._key} line {self.line}: {has} where {wanted!r} must be: what follows is not read")
        self._move(1)

    def value(self) -> Any:
        """Pass over the next value."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:  # the value may only be cut off here
                if self._extend():
                    continue
                line = self.line + self._text.count("\n", self._at, error.pos)
                raise ValueError(f"{self._key} line {line}: no JSON: {error.msg}: what follows is not read") from None
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{self._key} line {self.line}: {_no_json(error)}: what follows is not read") from None
            if end == len(self._text) and self._extend():
                continue
            self._move(end - self._at)
            return value

    def _move(self, count: int) -> None:
        self.line += self._text.count("\n", self._at, self._at + count)
        self._at += count

    def _extend(self) -> bool:
        """Whether there was more to read; as much again as is held, so that a long record is not parsed often."""
        rest = self._text[self._at :]
        if len(rest) > _MAX_RECORD:
            raise ValueError(f"{self._key} line {self.line}: a record of more than {_MAX_RECORD} characters")
        try:
            more = self._file.read(max(_PIECE, len(rest)))
        except UnicodeDecodeError:
            raise ValueError(f"{self._key} is no UTF-8 text, from line {self.line} on or a little later") from None
        if more:
            self._text, self._at = rest + more, 0
        return bool(more)


def _table_rows(key: str, uri: str) -> Iterator[Record]:
    number = 0
    try:
        for group, start, batch in members.table_batches(uri, _ROWS):
            names = batch.schema.names
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise ValueError(f"there are two columns {twice}: rename or remove one")
            columns = {}
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                at = [members.cell(group, start + row, name, uri) for row in range(batch.num_rows)]
                columns[name] = _pictures(column, at) if members.holds_images(column.type) else _values(name, column)
            for values in zip(*columns.values(), strict=True):
                yield _record(f"{key} row {number + 1}", key, number, dict(zip(columns, values, strict=True)))
                number += 1
    except (BadImageError, ValueError) as error:
        raise ValueError(f"{key} from row {number + 1} on: {error}") from None


def _values(name: str, column: pa.Array) -> list[Any]:
    """The values of a column; times are nobody's text, and some of them are none that Python has."""
    if pa.types.is_temporal(column.type):
        return [None] * len(column)
    try:
        return list(column.to_pylist())
    except (ArithmeticError, LookupError, TypeError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"column {name} cannot be read: {error}") from None


def _pictures(column: pa.Array, at: list[str]) -> list[Any]:
    """The images of a column, each a Picture or a list of them: their places instead of their bytes."""
    if not members.is_list(column.type):
        return _flat_pictures(column, at)
    lengths = pc.list_value_length(column).to_pylist()
    owners = [place for place, length in zip(at, lengths, strict=True) for _ in range(length or 0)]
    flat = iter(_flat_pictures(pc.list_flatten(column), owners))
    return [[next(flat) for _ in range(length or 0)] for length in lengths]


def _flat_pictures(column: pa.Array, at: list[str]) -> list[Picture | None]:
    if not pa.types.is_struct(column.type):
        return [
            Picture(path="", location=place) if valid else None
            for valid, place in zip(column.is_valid().to_pylist(), at, strict=True)
        ]
    has = pc.struct_field(column, "bytes").is_valid().to_pylist()
    names = [column.type.field(index).name for index in range(column.type.num_fields)]
    paths = pc.struct_field(column, "path").to_pylist() if "path" in names else [None] * len(at)
    return [
        Picture(path=path or "", location=place if valid else "") if valid or path else None
        for valid, path, place in zip(has, paths, at, strict=True)
    ]
