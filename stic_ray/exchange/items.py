"""What every format is read into and written from: a pair or a sample with its image, and what it was here."""

from dataclasses import dataclass, fields

from stic_ray.origins import PairOrigin, SampleOrigin
from stic_ray.records import Pair, Sample, Turn

IMPORTED = "imported"  # the negative of a pair whose file does not say what made its rejected answer worse


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image as a record has it: by its name (`path`, a path or a URI), or itself.

    `data` is the file to be written into a record; `location` is where a table that was read holds it (members.py).
    """

    path: str
    data: bytes | None = None
    location: str = ""


@dataclass(frozen=True, kw_only=True)
class PairItem:
    """A pair in no format. `rejected_prompt` is what the rejected answer was asked for, "" for the prompt itself."""

    image: Picture | None
    prompt: str
    chosen: str
    rejected: str
    negative: str = IMPORTED
    rejected_prompt: str = ""
    origin: PairOrigin | None = None


@dataclass(frozen=True, kw_only=True)
class SampleItem:
    """A sample in no format."""

    image: Picture | None
    turns: list[Turn]
    category: str = ""
    origin: SampleOrigin | None = None


def item_of_pair(pair: Pair, image: Picture | None) -> PairItem:
    """A pair of the store with its image as it is to be written."""
    told = {f.name: getattr(pair, f.name) for f in fields(PairOrigin)}
    return PairItem(
        image=image,
        prompt=pair.prompt,
        chosen=pair.chosen,
        rejected=pair.rejected,
        negative=pair.negative,
        rejected_prompt=pair.rejected_prompt,
        origin=PairOrigin(**told),
    )


def item_of_sample(sample: Sample, image: Picture | None) -> SampleItem:
    """A sample of the store with its image as it is to be written."""
    told = {f.name: getattr(sample, f.name) for f in fields(SampleOrigin)}
    return SampleItem(image=image, turns=sample.turns, category=sample.category, origin=SampleOrigin(**told))
