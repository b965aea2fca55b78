"""Benchmark files as rows whose readers complain by file, place, field and remedy."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from stic_ray import members, storage
from stic_ray.images import BadImageError

_MAX_NAME = 300  # characters: what is longer and stands for an image is its bytes in base64
_NUMBER = re.compile(r"-?[0-9]{1,18}")
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")


@dataclass(frozen=True)
class Row:
    """One entry of a benchmark's file; `place` says where in it ("line 3")."""

    uri: str
    place: str
    values: Mapping[str, Any]

    def fail(self, name: str, wanted: str) -> NoReturn:
        """Raises ValueError: the field is missing or is not what it must be."""
        given = repr(self.values[name]) if name in self.values else "missing"
        given = given if len(given) <= 100 else f"{given[:100]}..."
        raise ValueError(f"{self.uri}, {self.place}: {name} is {given}: it must be {wanted}")

    def text(self, name: str) -> str:
        """A text that is not empty."""
        value = self.values.get(name)
        if not isinstance(value, str) or not value.strip():
            self.fail(name, "a text that is not empty")
        return self._whole(name, value)

    def _whole(self, name: str, text: str) -> str:
        if not _is_whole(text):
            self.fail(name, "a text without halves of characters (\\ud800 to \\udfff)")
        return text

    def any_text(self, name: str) -> str:
        """A text, "" where the field is missing, null or an empty cell of a table."""
        value = self.values.get(name)
        if value is None or value != value:  # not a number: an empty cell of a parquet file
            return ""
        if not isinstance(value, str):
            self.fail(name, "a text, or left out")
        return self._whole(name, value.strip())

    def key(self, name: str) -> str:
        """A question's own id."""
        value = self.values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
            self.fail(name, "a whole number or a text")
        return self._whole(name, str(value))

    def number(self, name: str) -> int:
        """A whole number, in a table also as a text."""
        value = self.values.get(name)
        if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self.fail(name, "a whole number")
        return value

    def texts(self, name: str, *, empty: bool = False, most: int | None = None) -> list[str]:
        """A list of texts, at most so many; where it may not be empty, one of them at least says something."""
        value = self.values.get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.fail(name, "a list of texts")
        if not empty and not any(item.strip() for item in value):
            self.fail(name, "a list of texts, of which one at least is not blank")
        if most is not None and len(value) > most:
            self.fail(name, f"a list of at most {most} texts")
        return [self._whole(name, item) for item in value]

    def rows(self, name: str) -> Iterator["Row"]:
        """The objects of a list."""
        value = self.values.get(name)
        if not isinstance(value, list):
            self.fail(name, "a list of JSON objects")
        for number, values in enumerate(value):
            place = f"{self.place}, {name}[{number}]"
            yield Row(self.uri, place, _object(self.uri, place, values))

    def image(self, name: str, folder: str) -> str:
        """The URI of an image file in a folder, by the name that the field holds.

        Raises:
            ValueError: also where the name leads out of the folder.
        """
        return self.image_named(name, self.text(name), folder)

    def image_named(self, name: str, file: str, folder: str) -> str:
        """As `image`, by the name that was made of the field."""
        try:
            return storage.join_inside(folder, file)
        except ValueError:
            self.fail(name, f"a path below {folder}, without ..")


def json_lines(uri: str, key: Sequence[str]) -> Iterator[Row]:
    """The objects of a JSON-lines file. Two with the same `key` would become one question and are refused.

    Raises:
        ValueError: the file is missing or empty, a line is no JSON object or repeats a key.
    """
    # splitlines() would also split at U+2028, which JSON texts may hold.
    lines = [(number, line) for number, line in enumerate(read_text(uri).split("\n"), start=1) if line.strip()]
    return unique(_parsed_lines(uri, lines), key)


def _parsed_lines(uri: str, lines: Sequence[tuple[int, str]]) -> Iterator[Row]:
    for number, line in lines:
        try:
            values = _parse(line)
        except ValueError as error:
            raise ValueError(f"{uri}, line {number}: not JSON ({_told(error)}): write one object a line") from None
        yield Row(uri, f"line {number}", _object(uri, f"line {number}", values))


def json_list(uri: str, key: Sequence[str], *, under: str = "") -> Iterator[Row]:
    """The objects of a JSON list, of the whole file or `under` a name in its top object; keys as of `json_lines`, none
    where questions have none.

    Raises:
        ValueError: the file is missing, empty or no such JSON, or a key is repeated.
    """
    tree = _json(uri)
    if under:
        tree = _object(uri, "top level", tree).get(under)
    if not isinstance(tree, list) or not tree:
        where = f"a list that is not empty under {under!r}" if under else "a list that is not empty"
        raise ValueError(f"{uri}: it must be JSON with {where}, as the benchmark publishes it")
    rows = (Row(uri, f"entry {n}", _object(uri, f"entry {n}", values)) for n, values in enumerate(tree, start=1))
    return unique(rows, key) if key else rows


def json_map(uri: str) -> Iterator[tuple[str, Row]]:
    """The objects of a JSON object of objects, with the names that they have there.

    Raises:
        ValueError: the file is missing, empty or no such JSON.
    """
    tree = json_object(uri)
    for name in tree:
        if not _is_whole(name):
            raise ValueError(f"{uri}, entry {name!r}: its name has halves of characters: mend it")
    return ((name, Row(uri, f"entry {name}", _object(uri, f"entry {name}", values))) for name, values in tree.items())


def json_object(uri: str) -> dict[str, Any]:
    """The JSON object that a file is.

    Raises:
        ValueError: the file is missing, empty or no such JSON.
    """
    tree = _object(uri, "top level", _json(uri))
    if not tree:
        raise ValueError(f"{uri} holds an empty object: fill it, or leave it out")
    return tree


def _object(uri: str, place: str, values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ValueError(f"{uri}, {place}: {type(values).__name__}: it must be a JSON object")
    return values


def _json(uri: str) -> Any:
    try:
        return _parse(read_text(uri))
    except ValueError as error:
        where = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ValueError(f"{uri}{where}: not JSON ({_told(error)}): copy the benchmark's file again") from None


def _parse(text: str) -> Any:
    """JSON in which no name stands twice in one object: the first of them would be lost."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{twice[:50]!r} stands twice in one object")
    return tree


def _told(error: ValueError) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error)


def _is_whole(text: str) -> bool:
    """Whether a text can be written: JSON's escapes can hold halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def table_lines(uri: str, key: Sequence[str]) -> Iterator[Row]:
    """The rows of a table of texts with tabs between them and a header; keys as of `json_lines`.

    Raises:
        ValueError: the file is missing or empty, or a key is repeated.
    """
    csv.field_size_limit(1 << 30)  # an image in base64 is a cell
    reader = csv.DictReader(io.StringIO(read_text(uri)), delimiter="\t")
    return unique((Row(uri, f"row {number}", values) for number, values in enumerate(reader, start=1)), key)


def cells(uri: str) -> Iterator[tuple[int, list[str]]]:
    """The rows, from 1, of a CSV file without a header.

    Raises:
        ValueError: the file is missing or empty.
    """
    csv.field_size_limit(1 << 30)
    return enumerate(csv.reader(io.StringIO(read_text(uri), newline=None)), start=1)  # also lines that end with CR


def parquet_rows(uri: str, image: str) -> Iterator[tuple[str, Row]]:
    """The rows of a parquet file without the column of images, and each one's image's location (see members.py).

    Raises:
        ValueError: the file is missing or damaged, or has no such column.
    """
    try:
        number = 0
        for group, first, batch in members.table_batches(uri, 1024):
            if image not in batch.schema.names:
                raise ValueError(f"{uri} has no column {image}: it has {', '.join(batch.schema.names)}")
            for row, values in enumerate(batch.drop_columns([image]).to_pylist()):
                number += 1
                yield members.cell(group, first + row, image, uri), Row(uri, f"row {number}", values)
    except FileNotFoundError:
        raise ValueError(f"{uri} is not there: correct the benchmark's path or leave it out") from None
    except BadImageError as error:
        raise ValueError(f"{uri}: {error}: copy the benchmark's file again") from None


def unique(rows: Iterator[Row], key: Sequence[str]) -> Iterator[Row]:
    """The rows; raises ValueError where two have the same key, of one field or more."""
    places: dict[tuple[str, ...], str] = {}
    for row in rows:
        first = places.setdefault(tuple(row.key(name) for name in key), row.place)
        if first != row.place:
            row.fail(key[-1], f"different from {first}'s")
        yield row


class Embedded:
    """Where the images lie that a text file holds in base64, found in the order of its rows."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._data = storage.read_bytes(uri)
        self._at = 0

    def location(self, row: Row, name: str) -> str:
        """Of the image in a row's field (see members.py); "" where the field holds no base64 but a name.

        Raises:
            ValueError: the field is empty, or rows were asked for in another order.
        """
        text = row.text(name).strip()
        if len(text) <= _MAX_NAME:
            return ""
        if not _BASE64.fullmatch(text):
            row.fail(name, "an image in base64, or the name of a file")
        found = self._data.find(text.encode(), self._at)
        if found < 0:
            row.fail(name, "an image in base64 on one line")
        self._at = found + len(text)
        return members.base64_part(found, len(text), self._uri)


def read_text(uri: str) -> str:
    """A benchmark's file.

    Raises:
        ValueError: it is missing, empty or no UTF-8.
    """
    try:
        text = storage.read_text(uri).removeprefix("\ufeff")
    except FileNotFoundError:
        raise ValueError(f"{uri} is not there: correct the benchmark's path or leave it out") from None
    except UnicodeDecodeError:
        raise ValueError(f"{uri} is not UTF-8 text: convert it, or correct the benchmark's path") from None
    if not text.strip():
        raise ValueError(f"{uri} is empty: fill it, or leave it out of the benchmark")
    return text
