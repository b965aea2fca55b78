"""What is read: checkpoints, images, instruction samples, pairs of other tools, prompts."""

from dataclasses import dataclass
from typing import Literal

from stic_ray.config.checks import require


@dataclass(frozen=True, kw_only=True)
class Model:
    """A checkpoint: a local directory or any fsspec URI. `version` "" means: hash the listing of its files."""

    path: str
    dtype: Literal["float32", "bfloat16"]
    version: str = ""


@dataclass(frozen=True, kw_only=True)
class Images:
    """What every source of unlabeled images has.

    `shard` "i/n" takes the part i (from 0) of n, by id; `sample` draws that many of it, seeded, by id; `limit` ends
    the listing after so many, for a first try. `version` names the state of the source, "" lists it to see.
    """

    uri: str
    shard: str = ""
    sample: int | None = None
    limit: int | None = None
    version: str = ""

    def __post_init__(self) -> None:
        for name in ("sample", "limit"):
            value = getattr(self, name)
            require(value is None or value > 0, name, value, "a positive number, or null for all")
        require(self.sample is None or self.limit is None, "limit", self.limit, "null where sample is set")
        part, _, parts = self.shard.partition("/")
        fits = self.shard.isascii() and part.isdecimal() and parts.isdecimal() and int(part) < int(parts)
        require(not self.shard or fits, "shard", self.shard, 'a part of a number of parts, from "0/n" to "n-1/n"')


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Images):
    """Every image file below `uri`, however deep."""


@dataclass(frozen=True, kw_only=True)
class ParquetImages(Images):
    """Parquet files, one or all below `uri`; `column` holds image files as bytes or as a Hugging Face image struct."""

    column: str = "image"


@dataclass(frozen=True, kw_only=True)
class WebDataset(Images):
    """Uncompressed tars, one or all below `uri`: every member with an image's name."""


@dataclass(frozen=True, kw_only=True)
class SavedDataset(Images):
    """A Hugging Face data set as `save_to_disk` left it at `uri`; its `column` holds the images."""

    column: str = "image"


@dataclass(frozen=True, kw_only=True)
class LlavaImages(Images):
    """The images that the samples of the LLaVA JSON file at `uri` name, below `images`, each once."""

    images: str

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.images != "", "images", self.images, "the folder that the samples' image paths start in")


ImageSource = ImageFolder | ParquetImages | WebDataset | SavedDataset | LlavaImages


@dataclass(frozen=True, kw_only=True)
class ExactDuplicates:
    """Of unlabeled images with the very same bytes one stays."""


@dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """Also of those that look the same: their perceptual hashes (pHash, 64 bits) differ in at most so many bits."""

    max_distance: int

    def __post_init__(self) -> None:
        require(0 <= self.max_distance <= 10, "max_distance", self.max_distance, "between 0 and 10 bits")


Duplicates = ExactDuplicates | NearDuplicates


@dataclass(frozen=True, kw_only=True)
class LlavaJson:
    """Instruction samples in LLaVA's JSON with the root of their images; `sample` as in `ImageFolder`.

    `category` names the samples' field that says their kind or data set, "" where they have none.
    """

    uri: str
    images: str
    sample: int | None = None
    version: str = ""
    category: str = ""

    def __post_init__(self) -> None:
        require(self.images != "", "images", self.images, "the folder that the samples' image paths start in")
        require(self.sample is None or self.sample > 0, "sample", self.sample, "a positive number, or null for all")


@dataclass(frozen=True, kw_only=True)
class TrlMessages:
    """Instruction samples as TRL's `messages` and `images`: JSON lines, parquet, or what `save_to_disk` wrote.

    Image paths start in the folder `images`; where it is "", in the file's own, and whole paths and URIs are taken as
    they are. `sample`, `version` and `category` as in `LlavaJson`.
    """

    uri: str
    images: str = ""
    sample: int | None = None
    version: str = ""
    category: str = ""

    def __post_init__(self) -> None:
        require(self.sample is None or self.sample > 0, "sample", self.sample, "a positive number, or null for all")


Instructions = LlavaJson | TrlMessages


@dataclass(frozen=True, kw_only=True)
class ImportedPairs:
    """Preference pairs that are there already, in another tool's `format` (see stic_ray/exchange).

    `uri` is a file of JSON lines, a JSON list, a parquet file, a folder of them, or what `save_to_disk` wrote; `images`
    as in `TrlMessages`. `version` names the state of the source, "" lists it to see: an image that was replaced is seen
    below `images` only.
    """

    uri: str
    format: Literal["trl", "llama_factory", "ms_swift", "llava", "bpo", "stic"]
    images: str = ""
    version: str = ""


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Prompt pools, and templates with {holes}.

    `infused` puts a description before a question, "" does not. `rewrite_description` asks for a description with
    errors, `rewrite_answer` for a wrong answer to a question; only the negative `ErrorInjection` needs them.
    """

    detailed: tuple[str, ...]
    simple: tuple[str, ...]
    misleading: tuple[str, ...]
    infused: str
    rewrite_description: str = ""
    rewrite_answer: str = ""

    def __post_init__(self) -> None:
        for name in ("detailed", "simple", "misleading"):
            pool = getattr(self, name)
            require(bool(pool) and all(text.strip() for text in pool), name, pool, "at least one prompt, none empty")
        for name, holes in (
            ("infused", ("{description}", "{question}")),
            ("rewrite_description", ("{description}",)),
            ("rewrite_answer", ("{question}", "{answer}")),
        ):
            text = getattr(self, name)
            for hole in holes:
                require(not text or text.count(hole) == 1, name, text, f"a text that holds {hole} once")
