"""What is exported and imported again is what it was, in every format, kind of file and way of its images."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from stic_ray import sources
from stic_ray.artifacts import Artifact
from stic_ray.config import ImportedPairs, LlavaJson, TrlMessages
from stic_ray.exchange import bpo, incoming, reading, stic
from stic_ray.exchange.export import main
from stic_ray.exchange.formats import FORMATS
from stic_ray.records import Pair, Reject, Sample
from stic_ray.stages import generate

Made = Callable[[list[Pair] | list[Sample]], Artifact]
Imported = Callable[..., tuple[list[Pair], list[Reject]]]

_FILES = ("x.jsonl", "x.json", "x.parquet", "x")
_WAYS = [(file, images) for file in _FILES for images in ("reference", "copy", "embedded")]
_WAYS = [way for way in _WAYS if way not in (("x.jsonl", "embedded"), ("x.json", "embedded"))]


def _without_place(rows: list[Pair]) -> list[Pair]:
    return sorted((replace(row, image_uri="") for row in rows), key=lambda row: row.id)


@pytest.mark.parametrize("format", list(FORMATS))
@pytest.mark.parametrize(("file", "images"), _WAYS)
def test_exported_pairs_are_imported_as_they_were(
    pairs: list[Pair], artifact_of: Made, imported: Imported, tmp_path: Path, format: str, file: str, images: str
) -> None:
    out = tmp_path / "out" / file
    made = artifact_of(pairs)
    assert main([made.uri, "--format", format, "--out", str(out), "--images", images]) == 0
    found, rejects = imported(out, format)
    assert rejects == []
    assert _without_place(found) == _without_place(pairs)
    places = {row.id: row.image_uri for row in pairs}
    for row in found:
        assert sources.read_image(row.image_uri) == sources.read_image(places[row.id])
        assert (row.image_uri == places[row.id]) is (images == "reference")


def _in_order(rows: list[Sample]) -> list[Sample]:
    return sorted((replace(row, image_uri="") for row in rows), key=lambda row: row.id)


@pytest.mark.parametrize(("file", "images"), _WAYS)
def test_exported_samples_are_read_as_trl_messages_as_they_were(
    samples: list[Sample], artifact_of: Made, tmp_path: Path, file: str, images: str
) -> None:
    out = tmp_path / "out" / file
    made = artifact_of(samples)
    call = [made.uri, "--format", "trl", "--out", str(out), "--what", "samples", "--images", images]
    assert main(call) == 0
    found, rejects = incoming.read_instructions(TrlMessages(uri=str(out), category="category"), seed=0)
    assert rejects == []
    assert _in_order(found) == _in_order(samples)
    places = {row.id: row.image_uri for row in samples}
    for row in found:
        assert bool(row.image_uri) is bool(places[row.id])
        if row.image_uri:
            assert sources.read_image(row.image_uri) == sources.read_image(places[row.id])


def test_llava_export_of_samples_reads_back_equal(samples: list[Sample], artifact_of: Made, tmp_path: Path) -> None:
    out = tmp_path / "out" / "x.json"
    made = artifact_of(samples)
    assert main([made.uri, "--format", "llava", "--out", str(out), "--what", "samples", "--images", "copy"]) == 0
    source = LlavaJson(uri=str(out), images=str(out.parent), category="category")
    sources.check_instructions(source, "instructions")
    found, rejects = incoming.read_instructions(source, seed=0)
    assert rejects == []
    assert _in_order(found) == _in_order(samples)
    assert [sources.read_image(row.image_uri) for row in found if row.image_uri]


@pytest.mark.parametrize("format", [name for name, format in FORMATS.items() if format.samples is not None])
@pytest.mark.parametrize("file", ["x.jsonl", "x.parquet"])
def test_exported_samples_of_every_format_hold_all_turns(
    samples: list[Sample], artifact_of: Made, tmp_path: Path, format: str, file: str
) -> None:
    out = tmp_path / file
    assert main([artifact_of(samples).uri, "--format", format, "--out", str(out), "--what", "samples"]) == 0
    holder = FORMATS[format].samples
    assert holder is not None
    items = [holder.read(record.tree) for record in reading.read(str(out))]
    found = {item.origin.id: item.turns for item in items if item.origin is not None}
    assert found == {row.id: row.turns for row in samples}


def test_formats_are_those_that_the_configuration_names_and_the_negatives_those_of_the_stage() -> None:
    assert set(get_args(get_type_hints(ImportedPairs)["format"])) == set(FORMATS)
    assert set(bpo._TYPES) == {generate.NOISED, generate.INJECTED}
    assert generate.MISLEADING == stic._MISLEADING
    assert stic._CORRUPTED_IMAGES == (generate.CORRUPTED, generate.NOISED)
