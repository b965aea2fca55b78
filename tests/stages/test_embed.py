"""Embeddings: a vector for every image that can be read, a reason for every other one, and nothing done twice."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stic_ray import artifacts, recipes, storage, vlm
from stic_ray.artifacts import Artifact
from stic_ray.config import Config, ImageFolder, parse_config, read_yaml
from stic_ray.flow import Task
from stic_ray.records import Embedding, ImageRef, make_id
from stic_ray.sources import image_id
from stic_ray.stages import draw, embed, images, listing


def _write_images(folder: Path, num: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(num):
        Image.fromarray(rng.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)).save(folder / f"{number:02d}.png")


def _config(folder: Path, model: Path, *settings: str) -> Config:
    given = [f"store={folder / 'store'}", f"model.path={model}", "execution.batch_size=4", *settings]
    return parse_config(read_yaml(recipes.read("embedded"), "embedded"), given)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_every_image_has_a_vector_or_a_reason_and_what_a_killed_run_left_is_not_done_again(
    tmp_path: Path, tiny_llava: Path
) -> None:
    folder = tmp_path / "images"
    _write_images(folder, 15)
    (folder / "bad.jpg").write_bytes(b"no image")
    whole = io.BytesIO()
    Image.open(folder / "00.png").save(whole, format="JPEG")
    (folder / "cut.jpg").write_bytes(whole.getvalue()[:200])
    names = [f"{number:02d}.png" for number in range(15)]
    config = _config(tmp_path, tiny_llava)
    source = ImageFolder(uri=str(folder))
    listed = listing.run(config, source, listing.plan(config, source))
    plan = embed.plan(listed, config.model, "base-tiny")
    left = [Embedding(id=make_id(name), image_id=image_id(name), source="", vector=[7.0]) for name in names[:5]]
    artifacts.write_rows(storage.join(config.store, plan.name), left, Embedding, [])

    made = embed.run(config, listed, config.model, plan)
    rows = {row.image_id: row for row in artifacts.read(made.uri, Embedding)}
    rejected = {row.id: row.reason for row in artifacts.read_rejects(made.uri)}
    assert rows.keys() == set(map(image_id, names)) and made.record["counts"]["rows"] == 15
    assert rejected.keys() == {image_id("bad.jpg"), image_id("cut.jpg")} and all(rejected.values())
    assert [rows[image_id(name)] for name in names[:5]] == left
    assert made.record["embedded_images"] == 10
    tower = vlm.load_tower(str(tiny_llava), "float32")
    for name in names[5:]:
        (expected,) = tower([Image.open(folder / name)]).tolist()
        assert rows[image_id(name)].vector == pytest.approx(expected, abs=1e-5)
        assert rows[image_id(name)].source == f"listing-{listed.fingerprint}"


def test_vector_that_is_not_finite_is_a_reject() -> None:
    class Broken:
        def figures(self) -> dict[str, float]:
            return {}

        def embed(self, images: Sequence[Image.Image]) -> list[list[float]]:
            return [[1.0, 2.0], [1.0, float("nan")]]

    worker = embed.ImageEmbedder(start=Broken, source="listing-0")
    tasks = [Task(id=name, images=[Image.new("RGB", (2, 2))], payload="") for name in "ab"]
    fine, broken = worker(tasks)
    assert fine.rows[0].vector == [1.0, 2.0] and fine.reason == ""
    assert broken.rows == [] and broken.reason == embed.NOT_FINITE


def test_plan_changes_with_images_model_and_dtype(tmp_path: Path, tiny_llava: Path) -> None:
    config = _config(tmp_path, tiny_llava)
    low = _config(tmp_path, tiny_llava, "model.dtype=bfloat16")
    one, two = (Artifact(uri="x", record={"fingerprint": name, "stage": "images"}) for name in "ab")
    plans = [
        embed.plan(one, config.model, "base-1"),
        embed.plan(two, config.model, "base-1"),
        embed.plan(one, config.model, "base-2"),
        embed.plan(one, low.model, "base-1"),
    ]
    assert len({plan.fingerprint for plan in plans}) == 4


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_drawn_images_are_the_same_in_any_order_and_grow_with_the_sample(tmp_path: Path, tiny_llava: Path) -> None:
    _write_images(tmp_path / "images", 12)
    drawn = {}
    for rows in (2, 100):
        config = _config(tmp_path, tiny_llava, f"store={tmp_path / f'store{rows}'}", f"execution.rows_per_file={rows}")
        source = ImageFolder(uri=str(tmp_path / "images"))
        listed = listing.run(config, source, listing.plan(config, source))
        readable = images.run(config, listed, images.plan(listed.fingerprint))
        for sample in (5, 8, 50):
            made = draw.run(config, readable, draw.plan(config, readable, sample))
            drawn[rows, sample] = [row.id for row in artifacts.read(made.uri, ImageRef)]
    for sample, num in ((5, 5), (8, 8), (50, 12)):
        assert drawn[2, sample] == drawn[100, sample] and len(drawn[2, sample]) == num
    assert set(drawn[2, 5]) < set(drawn[2, 8]) < set(drawn[2, 50])
