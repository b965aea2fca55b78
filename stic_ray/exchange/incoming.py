"""From records to the store's own: pairs and samples, each bad record a reject that names its file and line."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, replace

from stic_ray import members, sources, storage
from stic_ray.config import ImportedPairs, Instructions, LlavaJson, TrlMessages
from stic_ray.exchange import reading, trl
from stic_ray.exchange.conversations import read_text
from stic_ray.exchange.formats import FORMATS
from stic_ray.exchange.items import PairItem, Picture
from stic_ray.exchange.reading import Record
from stic_ray.origins import AGAIN, EMPTY, PairOrigin, SampleOrigin, is_unicode
from stic_ray.records import Pair, Reject, Sample, make_id

SAME = "both answers are the same"
_DATA = "a file of records (.jsonl, .json, .parquet), or the folder that save_to_disk wrote"


def check(uri: str, images: str, field: str) -> None:
    """Raises ValueError when there is nothing to read; `field` is what the configuration calls the source."""
    try:
        key, file = next(iter(reading.list_files(uri)))
    except FileNotFoundError:
        raise ValueError(f"{field}.uri {uri} does not exist: give {_DATA}") from None
    except ValueError as error:
        raise ValueError(f"{field}.uri {error}") from None
    if not storage.exists(file):
        raise ValueError(f"{field}.uri {uri} names a file that is missing: {key}")
    if not storage.read_beginning(file, 1)[0]:
        raise ValueError(f"{field}.uri {file} is empty: give {_DATA}")
    if images:
        sources.check_root(f"{field}.images", images)


def version(uri: str, images: str) -> str:
    """What changes when the files of a source do, or those below the folder of its images, where that is given."""
    data = storage.listing_version(uri) if storage.is_directory(uri) else storage.file_version(uri)
    return f"{data}+{storage.listing_version(images)}" if images else data


@dataclass(frozen=True, kw_only=True)
class _Root:
    """Where relative image paths start; without a folder that the user gave, whole paths are taken as they are."""

    folder: str
    is_given: bool

    @classmethod
    def of(cls, uri: str, images: str) -> "_Root":
        """That of a source: `images`, else the folder of its file."""
        if images:
            return cls(folder=images, is_given=True)
        return cls(folder=uri if storage.is_directory(uri) else uri.rpartition("/")[0], is_given=False)

    def place(self, image: Picture, record: Record) -> tuple[str, str]:
        """An image's id and where it is.

        Raises:
            ValueError: its path leaves the folder that it starts in, or is none.
        """
        path = image.path
        if image.location:
            return sources.image_id(record.key), image.location
        if self.is_given or (storage.is_relative(path) and not members.is_inside(path)):
            return sources.image_id(path), storage.join_inside(self.folder, path)
        if "\0" in path or not is_unicode(path):
            raise ValueError(f"{path!r} cannot be the name of a file")
        try:
            storage.split(members.file_of(path))  # else every later stage would stumble over it
        except OSError as error:  # a library or a server that its protocol needs is not there
            raise ValueError(f"cannot open {path}: {error}") from None
        return sources.image_id(path), path


# Pairs


def read_pairs(source: ImportedPairs) -> Iterator[Pair | Reject]:
    """The pairs of a source in its order, and its bad records.

    Raises:
        ValueError: a file is damaged so that the records behind cannot be found.
    """
    seen: set[str] = set()
    root = _Root.of(source.uri, source.images)
    for record in reading.read(source.uri):
        try:
            items = _items(source, record)
        except ValueError as error:
            yield _reject(record, 0, str(error))
            continue
        for number, item in enumerate(items):
            try:
                pair = _pair(root, record, number, item)
                if pair.id in seen:
                    raise ValueError(AGAIN)
                seen.add(pair.id)
            except ValueError as error:
                yield _reject(record, number, str(error))
            else:
                yield pair


def _items(source: ImportedPairs, record: Record) -> list[PairItem]:
    if record.error:
        raise ValueError(record.error)
    return FORMATS[source.format].read(record.tree)


def _reject(record: Record, number: int, reason: str) -> Reject:
    text = storage.as_utf8(f"{record.place}: {reason}")
    return Reject(id=make_id("rejected record", record.key, number), stage="imported_pairs", reason=text)


def _pair(root: _Root, record: Record, number: int, item: PairItem) -> Pair:
    if not (item.chosen.strip() and item.rejected.strip()):
        raise ValueError(EMPTY)
    if item.chosen.strip() == item.rejected.strip():
        raise ValueError(SAME)
    if not item.prompt.strip():
        raise ValueError("its prompt is empty")
    if item.image is None:
        raise ValueError("it has no image")
    image_id, image_uri = root.place(item.image, record)
    key = make_id("imported pair", record.key, number, item.prompt, item.chosen, item.rejected, image_id)
    origin = item.origin or PairOrigin(
        id=key,
        item_id=image_id,
        image_id=image_id,
        chosen_id=make_id("chosen", key),
        chosen_prompt=item.prompt,
        chosen_seed=0,
        chosen_seen_hash="",
        rejected_id=make_id("rejected", key),
        rejected_prompt=item.rejected_prompt or item.prompt,
        rejected_seed=0,
        rejected_seen_hash="",
        corruption="",
    )
    return Pair(
        **vars(origin),
        image_uri=image_uri,
        prompt=item.prompt,
        chosen=item.chosen,
        rejected=item.rejected,
        negative=item.negative,
    )


# Instruction data


def check_instructions(source: Instructions, field: str) -> None:
    """Raises ValueError when there is nothing to read; `field` is what the configuration calls the source."""
    if isinstance(source, LlavaJson):
        sources.check_instructions(source, field)
    else:
        check(source.uri, source.images, field)


def instructions_version(source: Instructions) -> str:
    """The version that the user gave, else what changes with the files of the samples and their images."""
    if isinstance(source, LlavaJson):
        return sources.instructions_version(source)
    return source.version or version(source.uri, source.images)


def read_instructions(source: Instructions, seed: int) -> tuple[list[Sample], list[Reject]]:
    """The samples of a source, sorted by image so that an image's samples stand together, and the bad ones.

    Raises:
        ValueError: the file cannot be read.
    """
    if isinstance(source, LlavaJson):
        return sources.read_instructions(source, seed)
    return _read_messages(source, seed)


def _read_messages(source: TrlMessages, seed: int) -> tuple[list[Sample], list[Reject]]:
    records, root = reading.read(source.uri), _Root.of(source.uri, source.images)
    if source.sample is not None:
        drawn = heapq.nsmallest(source.sample, records, key=lambda record: make_id("sample", seed, record.key))
        records = iter(drawn)
    samples: dict[str, Sample] = {}
    rejects = []
    for record in records:
        try:
            if record.error:
                raise ValueError(record.error)
            sample = _sample(source, root, record)
            if sample.id in samples:
                raise ValueError(AGAIN)
        except ValueError as error:
            reason = storage.as_utf8(f"{record.place}: {error}")
            rejects.append(Reject(id=make_id("rejected record", record.key), stage="samples", reason=reason))
        else:
            samples[sample.id] = sample
    return sorted(samples.values(), key=lambda sample: (sample.image_id, sample.id)), rejects


def _sample(source: TrlMessages, root: _Root, record: Record) -> Sample:
    item = trl.read_sample(record.tree)
    image_id, image_uri = "", ""
    if item.image is not None:
        image_id, image_uri = root.place(item.image, record)
    if not all(turn.text.strip() for turn in item.turns if turn.role == "assistant"):
        raise ValueError(EMPTY)
    origin = item.origin or SampleOrigin(id=make_id("sample", record.key), image_id=image_id, description="")
    first, *others = item.turns
    turns = [replace(first, text=first.text.strip()), *others]  # as of LLaVA JSON
    return Sample(**vars(origin), image_uri=image_uri, category=_category(source, record), turns=turns)


def _category(source: TrlMessages, record: Record) -> str:
    value = record.tree.get(source.category) if source.category else None
    return read_text(value or "", source.category)
