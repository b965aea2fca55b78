"""What the tests of the formats share: images, pairs and samples of the store, and their export and import."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from stic_ray import artifacts, storage
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import ImportedPairs
from stic_ray.exchange import incoming
from stic_ray.records import Pair, Reject, Sample, Turn, make_id
from stic_ray.sources import image_id

# Texts that a careless writer or reader would change.
_TEXTS = ('A red "car".\nIt is parked.\r\n', "  spaces around  ", "Zoë's café \u2028 日本 \U0001f600", "{not: json}\\n")
_NEGATIVES = ("misleading_prompt", "corrupted_image", "noised_image", "error_injection", "other_image", "imported")


def png(shade: int) -> bytes:
    """The file of a small image."""
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24), (shade, 99, 255 - shade)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with three images, one of them further down and strangely named."""
    folder = tmp_path / "photos"
    (folder / "deep down").mkdir(parents=True)
    for shade, name in enumerate(("a.png", "b.png", "deep down/ü#%20.png")):
        (folder / name).write_bytes(png(shade))
    return folder


@pytest.fixture
def pairs(photos: Path) -> list[Pair]:
    """Pairs whose every field says something."""
    made = []
    for number, negative in enumerate(_NEGATIVES):
        name = ("a.png", "b.png", "deep down/ü#%20.png")[number % 3]
        text = _TEXTS[number % len(_TEXTS)]
        made.append(
            Pair(
                id=make_id("pair", number),
                item_id=make_id("item", number % 3),
                image_id=image_id(name),
                image_uri=str(photos / name),
                prompt=f"What is {number}? {text}",
                chosen=f"{text} chosen",
                rejected=f"{text} rejected",
                negative=negative,
                chosen_id=make_id("chosen", number),
                chosen_prompt="Describe it in detail.",
                chosen_seed=2**63 - 1 - number,
                chosen_seen_hash="1" * 32,
                rejected_id=make_id("rejected", number),
                rejected_prompt="Imagine things." if negative == "misleading_prompt" else f"What is {number}?",
                rejected_seed=number,
                rejected_seen_hash="2" * 32,
                corruption='{"type": "Downsize"}' if negative == "corrupted_image" else "",
            )
        )
    return made


@pytest.fixture
def samples(photos: Path) -> list[Sample]:
    """Samples of one and of two questions, one without an image."""
    made = []
    for number, name in enumerate(("a.png", "", "b.png", "a.png")):
        texts = [f"question {number}?", _TEXTS[number], "Really?", "Yes."][: 4 if number % 2 else 2]
        roles = ("user", "assistant") * 2
        made.append(
            Sample(
                id=make_id("sample", number),
                image_id=image_id(name) if name else "",
                image_uri=str(photos / name) if name else "",
                category="vqa" if number else "",
                description="a description" if number == 3 else "",
                turns=[Turn(role=role, text=text) for role, text in zip(roles, texts, strict=False)],
            )
        )
    return made


@pytest.fixture
def artifact_of(tmp_path: Path) -> Callable[[list[Pair] | list[Sample]], Artifact]:
    """Makes an artifact of rows in a store, several files of it."""

    def make(rows: list[Pair] | list[Sample]) -> Artifact:
        kind = type(rows[0])
        plan = Plan(stage=f"{kind.__name__.lower()}s", code_version=1, identity={}, kind=kind.__name__)
        store = str(tmp_path / "store")
        for start in range(0, len(rows), 4):
            artifacts.write_rows(storage.join(store, plan.name), list(rows[start : start + 4]), kind, [])
        return artifacts.commit(store, plan, {"inputs": len(rows)})

    return make


@pytest.fixture
def imported() -> Callable[..., tuple[list[Pair], list[Reject]]]:
    """Reads pairs and rejects of a file."""

    def read(uri: Path | str, format: str, images: Path | str = "") -> tuple[list[Pair], list[Reject]]:
        source = ImportedPairs(uri=str(uri), format=format, images=str(images))  # type: ignore[arg-type]
        found: Iterator[Pair | Reject] = incoming.read_pairs(source)
        rows = list(found)
        return [r for r in rows if isinstance(r, Pair)], [r for r in rows if isinstance(r, Reject)]

    return read
