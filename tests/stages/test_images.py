"""Images: from every kind of source, each once, duplicates and the unreadable rejected with a reason."""

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stic_ray import artifacts, recipes, sources
from stic_ray.artifacts import Artifact
from stic_ray.config import Config, NearDuplicates, parse_config, read_yaml
from stic_ray.records import ImageRef
from stic_ray.sources import image_id
from stic_ray.stages import hashes, images, listing, unique


def _jpeg(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (40 * shade, 0, 0)).save(buffer, format="JPEG")
    return buffer.getvalue()


def _write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def _run(folder: Path, *overrides: str) -> tuple[Artifact, Config]:
    settings = [f"store={folder / 'store'}", f"unlabeled.uri={folder}", "unlabeled.sample=null", *overrides]
    config = parse_config(read_yaml(recipes.read("embedded"), "embedded"), settings)
    assert config.unlabeled is not None
    listed = listing.run(config, config.unlabeled, listing.plan(config, config.unlabeled))
    return images.run(config, listed, images.plan(listed.fingerprint)), config


@pytest.mark.usefixtures("ray_local")
def test_run_on_tars_keeps_every_image_once_and_says_what_is_wrong_with_the_others(tmp_path: Path) -> None:
    _write_tar(tmp_path / "a.tar", {f"{shade}.jpg": _jpeg(shade) for shade in (1, 2, 3)})
    _write_tar(tmp_path / "b.tar", {"same.jpg": _jpeg(2), "bad.jpg": b"no image", "4.jpg": _jpeg(4), "text.json": b"1"})
    _write_tar(tmp_path / "c.tar", {"5.jpg": _jpeg(5), "6.jpg": _jpeg(6)})
    whole = (tmp_path / "c.tar").read_bytes()
    (tmp_path / "c.tar").write_bytes(whole[: whole.index(b"6.jpg") + 512 + 10])
    read, config = _run(tmp_path, "unlabeled.type=WebDataset")
    made = unique.run(config, read, None, unique.plan(config, read.fingerprint, ""))
    kept = {ref.key: ref for ref in artifacts.read(made.uri, ImageRef)}
    rejected = {row.id: row.reason for part in (read, made) for row in artifacts.read_rejects(part.uri)}
    (stays,) = kept.keys() & {"a.tar/2.jpg", "b.tar/same.jpg"}
    (goes,) = {"a.tar/2.jpg", "b.tar/same.jpg"} - {stays}
    assert image_id(stays) < image_id(goes)
    assert kept.keys() == {"a.tar/1.jpg", "a.tar/3.jpg", "b.tar/4.jpg", "c.tar/5.jpg", stays}
    assert sources.read_image(kept["c.tar/5.jpg"].uri) == _jpeg(5)
    assert rejected.keys() == {image_id(key) for key in (goes, "b.tar/bad.jpg", "c.tar/6.jpg", "c.tar")}
    assert rejected[image_id(goes)] == "duplicate of another image's bytes"
    assert rejected[image_id("b.tar/bad.jpg")] == "not an image, or of a kind that is not read"
    assert rejected[image_id("c.tar/6.jpg")].startswith("cut off: ")
    assert rejected[image_id("c.tar")] == "damaged tar: unexpected end of data"


def test_plan_changes_with_what_is_taken_of_the_source(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(_jpeg(0))
    plans = []
    for overrides in ([], ["unlabeled.shard=0/2"], ["unlabeled.shard=1/2"], ["unlabeled.limit=1"], ["seed=1"]):
        settings = [f"store={tmp_path}", f"unlabeled.uri={tmp_path}", "unlabeled.sample=null", *overrides]
        config = parse_config(read_yaml(recipes.read("embedded"), "embedded"), settings)
        assert config.unlabeled is not None
        plans.append(listing.plan(config, config.unlabeled).fingerprint)
    assert len(set(plans)) == 4 and plans[0] == plans[-1]  # without a sample nothing is drawn


@pytest.mark.usefixtures("ray_local")
def test_near_duplicates_go_only_when_asked_for_and_the_smallest_id_stays(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scenes = [np.kron(rng.integers(0, 256, (6, 6, 3)), np.ones((16, 16, 1))).astype(np.uint8) for _ in range(3)]
    for number, scene in enumerate(scenes):
        for quality in (95, 60, 30):
            Image.fromarray(scene).save(tmp_path / f"{number}-{quality}.jpg", quality=quality)
    read, config = _run(tmp_path)
    exact = unique.run(config, read, None, unique.plan(config, read.fingerprint, ""))
    assert exact.num_rows == 9
    near_config = replace(config, duplicates=NearDuplicates(max_distance=10))
    looks = hashes.run(config, read, hashes.plan(read.fingerprint))
    plan = unique.plan(near_config, read.fingerprint, looks.fingerprint)
    made = unique.run(near_config, read, looks, plan)
    kept = {ref.key for ref in artifacts.read(made.uri, ImageRef)}
    smallest = {min((f"{n}-{quality}.jpg" for quality in (95, 60, 30)), key=image_id) for n in range(3)}
    assert kept == smallest
    assert {reject.reason for reject in artifacts.read_rejects(made.uri)} == {unique.NEAR}


@pytest.mark.parametrize("max_distance", [0, 3, 8])
def test_near_to_an_earlier_is_what_comparing_all_says(max_distance: int) -> None:
    rng = np.random.default_rng(max_distance)
    seeds = rng.integers(0, 2**63, 40, dtype=np.uint64)
    bits = []
    for seed in rng.choice(seeds, 300):
        flips = rng.choice(64, rng.integers(0, 7), replace=False)
        bits.append(int(seed) ^ sum(1 << int(flip) for flip in flips))
    kept: list[int] = []
    expected = []
    for value in bits:
        near = any((value ^ other).bit_count() <= max_distance for other in kept)
        expected.append(near)
        kept += [] if near else [value]
    assert unique.near_to_an_earlier(np.array(bits, dtype=np.uint64), max_distance).tolist() == expected
    assert 0 < sum(expected) < len(bits)
