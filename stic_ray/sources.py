"""Readers of what a user has: image folders and LLaVA JSON, on any filesystem."""

import heapq
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stic_ray import storage
from stic_ray.config import ImageFolder, LlavaJson
from stic_ray.images import SUFFIXES, BadImageError
from stic_ray.records import Reject, Sample, Turn, make_id

_ROLES = {"human": "user", "gpt": "assistant"}
_PAUSES_S = (0.5, 2.0, 8.0)  # between attempts to read an image
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can escape one alone, UTF-8 cannot hold it


@dataclass(frozen=True, kw_only=True)
class Found:
    """An image that a source lists; nothing of it has been read yet."""

    id: str
    key: str
    uri: str


def image_id(key: str) -> str:
    """An image's id: the hash of its source-relative key."""
    return make_id("image", key)


def check_folder(folder: ImageFolder) -> None:
    """Raises ValueError when the folder is missing, is a file, or holds no image by name."""
    try:
        first = next(_images_in(folder), None)
    except FileNotFoundError:
        raise ValueError(f"unlabeled.uri {folder.uri} does not exist: give a folder of images") from None
    except NotADirectoryError:
        raise ValueError(f"unlabeled.uri {folder.uri} is a file: give the folder that holds the images") from None
    if first is None:
        raise ValueError(f"unlabeled.uri {folder.uri} holds no image: expected files ending in {', '.join(SUFFIXES)}")


def folder_version(folder: ImageFolder) -> str:
    """The version that the user gave, else a hash of the listing."""
    return folder.version or storage.listing_version(folder.uri)


def list_images(folder: ImageFolder, seed: int) -> list[Found]:
    """The folder's images, sorted by id; with `sample`, the ones whose seeded hash of the id is smallest."""
    images = _images_in(folder)
    if folder.sample is not None:
        images = iter(heapq.nsmallest(folder.sample, images, key=lambda found: make_id("sample", seed, found.id)))
    return sorted(images, key=lambda found: found.id)


def _images_in(folder: ImageFolder) -> Iterator[Found]:
    for listed in storage.walk(folder.uri):
        if listed.key.lower().endswith(SUFFIXES):
            yield Found(id=image_id(listed.key), key=listed.key, uri=listed.uri)


def read_image(uri: str) -> bytes:
    """An image's encoded bytes; over a network, asked for again a few times.

    Raises:
        BadImageError: there is no such file, or it cannot be read; it says so of this image.
        ValueError: the network or the server failed, for longer than a moment: that is no fault of the image.
    """
    try:
        return storage.read_bytes(uri) if storage.is_local(uri) else _read_patiently(uri)
    except FileNotFoundError:
        raise BadImageError("the image file is missing") from None
    except OSError as error:
        raise BadImageError(f"cannot be read: {' '.join(str(error).split())[:120]}") from None


def _read_patiently(uri: str) -> bytes:
    for pause_s in (*_PAUSES_S, 0.0):
        try:
            with storage.reaching(uri):
                return storage.read_bytes(uri)
        except ValueError as error:
            failure, cause = error, error.__cause__
            if cause is None or isinstance(cause, _FINAL):
                raise (cause or error) from None
            time.sleep(pause_s)
    raise ValueError(
        f"{failure}. It was tried {len(_PAUSES_S) + 1} times; the same command goes on from what is done"
    ) from failure


def check_instructions(source: LlavaJson) -> None:
    """Raises ValueError when the JSON file or the folder of its images is missing or the one is the other."""
    if not storage.exists(source.uri):
        raise ValueError(f"instructions.uri {source.uri} does not exist: give a LLaVA JSON file")
    if storage.is_directory(source.uri):
        raise ValueError(f"instructions.uri {source.uri} is a folder: give the LLaVA JSON file in it")
    if not storage.read_beginning(source.uri, 4096)[0].removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        raise ValueError(f"instructions.uri {source.uri} does not begin with [: give a JSON list of LLaVA samples")
    remedy = "give the folder that the samples' image paths start in"
    if not storage.exists(source.images):
        raise ValueError(f"instructions.images {source.images} does not exist: {remedy}")
    if not storage.is_directory(source.images):
        raise ValueError(f"instructions.images {source.images} is a file: {remedy}")


def instructions_version(source: LlavaJson) -> str:
    """The version that the user gave, else the file's size and time or etag and a hash of its images' listing."""
    return source.version or f"{storage.file_version(source.uri)}+{storage.listing_version(source.images)}"


def read_instructions(source: LlavaJson, seed: int) -> tuple[list[Sample], list[Reject]]:
    """The samples of a LLaVA JSON file, sorted by image so that an image's samples stand together, and the bad ones.

    Raises:
        ValueError: the file is no JSON list.
    """
    try:
        entries = json.loads(storage.read_text(source.uri).removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        raise ValueError(f"instructions.uri {source.uri} is no JSON: line {error.lineno}: {error.msg}") from None
    except UnicodeDecodeError:
        raise ValueError(f"instructions.uri {source.uri} is no UTF-8 text: give a LLaVA JSON file") from None
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"instructions.uri {source.uri} must be a JSON list of samples, and not empty")
    numbered = list(enumerate(entries))
    if source.sample is not None:
        numbered = heapq.nsmallest(source.sample, numbered, key=lambda pair: make_id("sample", seed, _key(*pair)))
    samples: list[Sample] = []
    rejects: list[Reject] = []
    for index, entry in numbered:
        try:
            samples.append(_sample(source, index, entry))
        except ValueError as error:
            rejects.append(Reject(id=_key(index, entry), stage="samples", reason=str(error)))
    return sorted(samples, key=lambda sample: (sample.image_id, sample.id)), rejects


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
    if not turns or [turn.role for turn in turns] != ["user", "assistant"] * (len(turns) // 2):
        raise ValueError("turns must alternate human and gpt and end with an answer")
    return Sample(
        id=_key(index, entry),
        image_id=image_id(image) if image else "",
        image_uri=storage.join_inside(source.images, image) if image else "",
        description="",
        turns=turns,
    )
