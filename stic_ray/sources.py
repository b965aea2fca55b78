"""Readers of what a user has: folders, tables and tars of images, LLaVA JSON, on any filesystem."""

import heapq
import itertools
import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from stic_ray import members, storage
from stic_ray.config import ImageFolder, ImageSource, LlavaImages, LlavaJson, ParquetImages, SavedDataset, WebDataset
from stic_ray.images import MAX_BYTES, SUFFIXES, BadImageError
from stic_ray.origins import AGAIN, EMPTY, SampleOrigin, read_origin
from stic_ray.records import Found, Reject, Sample, Turn, make_id

SAVED_STATE = "state.json"  # of a data set that save_to_disk wrote: which files it is
_ROLES = {"human": "user", "gpt": "assistant"}
_PAUSES_S = (0.5, 2.0, 8.0)  # between attempts to read an image
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can escape one alone, UTF-8 cannot hold it


def image_id(key: str) -> str:
    """An image's id: the hash of its source-relative key."""
    return make_id("image", key)


def check_images(source: ImageSource) -> None:
    """Raises ValueError when the source is missing, is of another kind, or holds no image by name."""
    try:
        first = next(list_files(source), None)
        if first is None:
            raise ValueError(f"unlabeled.uri {source.uri} holds no image{_expected(source)}")
        if isinstance(source, LlavaImages):
            check_root("unlabeled.images", source.images)
        if not isinstance(source, ImageFolder):
            next(images_in(source, first), None)
    except FileNotFoundError:
        raise ValueError(f"unlabeled.uri {source.uri} does not exist: give {_WANTED[type(source)]}") from None
    except NotADirectoryError:
        raise ValueError(f"unlabeled.uri {source.uri} is a file: give {_WANTED[type(source)]}") from None


_WANTED: dict[type, str] = {
    ImageFolder: "a folder of images",
    ParquetImages: "a parquet file, or a folder of them",
    WebDataset: "a tar, or a folder of them",
    SavedDataset: "the folder that save_to_disk wrote",
    LlavaImages: "a LLaVA JSON file",
}
_SUFFIXES: dict[type, tuple[str, ...]] = {
    ImageFolder: SUFFIXES,
    ParquetImages: (".parquet",),
    WebDataset: (".tar",),
}


def _expected(source: ImageSource) -> str:
    suffixes = _SUFFIXES.get(type(source), ())
    return f": expected files ending in {', '.join(suffixes)}" if suffixes else ""


def images_version(source: ImageSource) -> str:
    """The version that the user gave, else a hash of the listing."""
    if source.version:
        return source.version
    if isinstance(source, LlavaImages):
        return f"{storage.file_version(source.uri)}+{storage.listing_version(source.images)}"
    return storage.listing_version(source.uri) if storage.is_directory(source.uri) else storage.file_version(source.uri)


def list_files(source: ImageSource) -> Iterator[Found]:
    """What the source's listing names, one after the other, unopened: its images, or the files that hold them.

    Raises:
        FileNotFoundError, NotADirectoryError: `uri` is not what this kind of source needs.
        ValueError: a saved data set that cannot be read as it is, with the remedy.
    """
    if isinstance(source, SavedDataset):
        yield from _saved_files(source)
    elif isinstance(source, LlavaImages):
        if not storage.exists(source.uri):
            raise FileNotFoundError(source.uri)
        yield _file(source.uri.rpartition("/")[2], source.uri)
    elif isinstance(source, ImageFolder) or storage.is_directory(source.uri):
        for listed in storage.walk(source.uri):
            if listed.key.lower().endswith(_SUFFIXES[type(source)]):
                file = _file(listed.key, listed.uri)
                if isinstance(source, ImageFolder):
                    strange = "" if storage.is_addressable(listed.uri) else "its name holds ?versionId=: rename it"
                    file = replace(file, error=_too_large(listed.num_bytes) or strange)
                yield file
    elif not storage.exists(source.uri):
        raise FileNotFoundError(source.uri)
    elif not source.uri.lower().endswith(_SUFFIXES[type(source)]):
        raise NotADirectoryError(source.uri)
    else:
        yield _file(source.uri.rpartition("/")[2], source.uri)


def _file(key: str, uri: str) -> Found:
    return Found(id=image_id(key), key=key, uri=uri)


def _too_large(num_bytes: int) -> str:
    return f"the file has {num_bytes} bytes, more than {MAX_BYTES}" if num_bytes > MAX_BYTES else ""


def _saved_files(source: SavedDataset) -> Iterator[Found]:
    try:
        for name, uri in saved_files(source.uri):
            yield _file(name, uri)
    except ValueError as error:
        raise ValueError(f"unlabeled.uri {error}") from None


def saved_files(uri: str) -> list[tuple[str, str]]:
    """The names and URIs of the tables of a Hugging Face data set as `save_to_disk` left it.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such folder.
        ValueError: it is none, or cannot be read as it is, with the remedy.
    """
    if not storage.is_directory(uri):
        raise NotADirectoryError(uri) if storage.exists(uri) else FileNotFoundError(uri)
    if storage.exists(storage.join(uri, "dataset_dict.json")):
        splits = ", ".join(folder.rpartition("/")[2] for folder in storage.list_directories(uri))
        raise ValueError(f"{uri} holds several splits ({splits}): give the folder of one")
    try:
        state = json.loads(storage.read_text(storage.join(uri, SAVED_STATE)))
        names = [str(file["filename"]) for file in state["_data_files"]]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        raise ValueError(f"{uri} has no {SAVED_STATE}: give {_WANTED[SavedDataset]}") from None
    if state.get("_indices_files"):
        raise ValueError(f"{uri} is a selection of rows: save it again after flatten_indices()")
    return [(name, storage.join_inside(uri, name)) for name in names]


def images_in(source: ImageSource, file: Found) -> Iterator[Found]:
    """The images of one listed file; where it is damaged, those before the damage and then the file with the error.

    Raises:
        ValueError: a table has no such column of images.
    """
    if isinstance(source, ImageFolder):
        yield file
        return
    if isinstance(source, LlavaImages):
        yield from _named_images(source)
        return
    try:
        if isinstance(source, WebDataset):
            members_of = members.tar_members(file.uri, SUFFIXES)
        else:
            members_of = members.table_rows(file.uri, source.column)
        for name, location, num_bytes in members_of:
            key = f"{file.key}/{name}"
            yield Found(id=image_id(key), key=key, uri=location, error=_too_large(num_bytes))
    except FileNotFoundError:
        yield replace(file, error="the file is missing")
    except BadImageError as error:
        yield replace(file, error=str(error))


def _named_images(source: LlavaImages) -> Iterator[Found]:
    seen = set()
    for entry in _read_entries(source.uri, "unlabeled.uri"):
        image = entry.get("image", "") if isinstance(entry, dict) else ""
        if not image or not isinstance(image, str) or image in seen:
            continue
        seen.add(image)
        try:
            yield _file(image, storage.join_inside(source.images, image))
        except ValueError as error:
            yield Found(id=image_id(image), key=storage.as_utf8(image), uri="", error=str(error))


def in_shard(found: Found, shard: str) -> bool:
    """Whether an image is in the part "i/n" of the source; "" is all of it."""
    part, _, parts = shard.partition("/")
    return not shard or int(found.id[:16], 16) % int(parts) == int(part)


def list_images(source: ImageSource, seed: int) -> Iterator[Found]:
    """The source's images one after the other, those of one file together; `sample` keeps the smallest seeded hashes.

    Raises:
        ValueError: there are none.
    """
    images: Iterator[tuple[str, int, Found]] = (
        (file.id, position, image)
        for file in list_files(source)
        for position, image in enumerate(images_in(source, file))
        if in_shard(image, source.shard)
    )
    if source.sample is not None:
        drawn = heapq.nsmallest(source.sample, images, key=lambda listed: make_id("sample", seed, listed[2].id))
        images = iter(sorted(drawn, key=lambda listed: listed[:2]))
    empty = True
    for _, _, image in itertools.islice(images, source.limit):
        empty = False
        yield image
    if empty:
        part = f" in shard {source.shard}" if source.shard else ""
        raise ValueError(f"unlabeled.uri {source.uri} holds no image{part}")


def read_image(uri: str) -> bytes:
    """An image's encoded bytes; over a network, asked for again a few times.

    Raises:
        BadImageError: there is no such file, or it cannot be read; it says so of this image.
        ValueError: the network or the server failed, for longer than a moment: that is no fault of the image.
    """
    try:
        data = _read(uri) if storage.is_local(members.file_of(uri)) else _read_patiently(uri)
    except FileNotFoundError:
        raise BadImageError("the image file is missing") from None
    except OSError as error:
        raise BadImageError(f"cannot be read: {' '.join(str(error).split())[:120]}") from None
    if too_large := _too_large(len(data)):
        raise BadImageError(too_large)
    return data


def _read(uri: str) -> bytes:
    if members.is_inside(uri):
        return members.read(uri)
    if storage.is_local(uri):
        if storage.exists(uri) and not storage.is_plain_file(uri):
            raise BadImageError("it is no file, but a folder, a pipe or a device")
        if too_large := _too_large(storage.size(uri)):
            raise BadImageError(too_large)
    return storage.read_bytes(uri)


def _read_patiently(uri: str) -> bytes:
    for pause_s in (*_PAUSES_S, 0.0):
        try:
            with storage.reaching(uri):
                return _read(uri)
        except BadImageError:
            raise
        except ValueError as error:
            failure, cause = error, error.__cause__
            if cause is None or isinstance(cause, _FINAL):
                raise (cause or error) from None
            time.sleep(pause_s)
    raise ValueError(
        f"{failure}. It was tried {len(_PAUSES_S) + 1} times; the same command goes on from what is done"
    ) from failure


def check_instructions(source: LlavaJson, field: str) -> None:
    """Raises ValueError when the JSON file or the folder of its images is missing or the one is the other.

    `field` is what the configuration calls the source.
    """
    if not storage.exists(source.uri):
        raise ValueError(f"{field}.uri {source.uri} does not exist: give a LLaVA JSON file")
    if storage.is_directory(source.uri):
        raise ValueError(f"{field}.uri {source.uri} is a folder: give the LLaVA JSON file in it")
    if not storage.read_beginning(source.uri, 4096)[0].removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        raise ValueError(f"{field}.uri {source.uri} does not begin with [: give a JSON list of LLaVA samples")
    check_root(f"{field}.images", source.images)


def check_root(field: str, uri: str) -> None:
    """Raises ValueError unless there is a folder; `field` is what the configuration calls it."""
    remedy = "give the folder that the samples' image paths start in"
    if not storage.exists(uri):
        raise ValueError(f"{field} {uri} does not exist: {remedy}")
    if not storage.is_directory(uri):
        raise ValueError(f"{field} {uri} is a file: {remedy}")


def instructions_version(source: LlavaJson) -> str:
    """The version that the user gave, else the file's size and time or etag and a hash of its images' listing."""
    return source.version or f"{storage.file_version(source.uri)}+{storage.listing_version(source.images)}"


def read_instructions(source: LlavaJson, seed: int) -> tuple[list[Sample], list[Reject]]:
    """The samples of a LLaVA JSON file, sorted by image so that an image's samples stand together, and the bad ones.

    Raises:
        ValueError: the file is no JSON list.
    """
    entries = _read_entries(source.uri, "the instruction file")
    numbered = list(enumerate(entries))
    if source.sample is not None:
        numbered = heapq.nsmallest(source.sample, numbered, key=lambda pair: make_id("sample", seed, _key(*pair)))
    samples: list[Sample] = []
    rejects: list[Reject] = []
    seen: set[str] = set()
    for index, entry in numbered:
        try:
            sample = _sample(source, index, entry)
            if sample.id in seen:
                raise ValueError(AGAIN)
            seen.add(sample.id)
            samples.append(sample)
        except ValueError as error:
            rejects.append(Reject(id=_key(index, entry), stage="samples", reason=str(error)))
    return sorted(samples, key=lambda sample: (sample.image_id, sample.id)), rejects


def _read_entries(uri: str, field: str) -> list[Any]:
    try:
        entries = json.loads(storage.read_text(uri).removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{field} {uri} is no JSON: line {error.lineno}: {error.msg}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{field} {uri} is no UTF-8 text: give a LLaVA JSON file") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise ValueError(f"{field} {uri} cannot be read: {error}") from None
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{field} {uri} must be a JSON list of samples, and not empty")
    return entries


def _key(index: int, entry: Any) -> str:
    return make_id("sample", index, entry.get("id", "") if isinstance(entry, dict) else "")


def _sample(source: LlavaJson, index: int, entry: Any) -> Sample:
    if not isinstance(entry, dict) or not isinstance(entry.get("conversations"), list):
        raise ValueError("no list of conversations in the sample")
    image = entry.get("image", "")
    if not isinstance(image, str):
        raise ValueError("image is not one path")
    turns = []
    for position, turn in enumerate(entry["conversations"]):
        if not isinstance(turn, dict) or turn.get("from") not in list(_ROLES) or not isinstance(turn.get("value"), str):
            raise ValueError("a turn needs `from` (human or gpt) and a text `value`")
        text = turn["value"]
        if "<image>" in text:
            if position > 0 or text.count("<image>") > 1 or not image:
                raise ValueError("<image> must stand once, in the first turn, of a sample that has an image")
            text = re.sub(r"\s*<image>\s*", " ", text).strip()
        if _SURROGATE.search(text):
            raise ValueError("a text holds half of a character (a lone surrogate)")
        turns.append(Turn(role=_ROLES[turn["from"]], text=text))
    category = entry.get(source.category, "") if source.category else ""
    if not isinstance(category, str) or _SURROGATE.search(category):
        raise ValueError(f"{source.category} is no text")
    if not turns or [turn.role for turn in turns] != ["user", "assistant"] * (len(turns) // 2):
        raise ValueError("turns must alternate human and gpt and end with an answer")
    if not all(turn.text.strip() for turn in turns if turn.role == "assistant"):
        raise ValueError(EMPTY)
    origin = read_origin(entry, SampleOrigin)
    return Sample(
        id=origin.id if origin else _key(index, entry),
        image_id=origin.image_id if origin else image_id(image) if image else "",
        image_uri=storage.join_inside(source.images, image) if image else "",
        category=category,
        description=origin.description if origin else "",
        turns=turns,
    )
