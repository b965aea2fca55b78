"""The image-distribution job: from a run's images and a folder to a page, and what it says to a wrong call."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from stic_ray import image_distribution, recipes
from stic_ray.audit import audit_run
from stic_ray.config import parse_config, read_yaml, to_tree
from stic_ray.report.collect import read_distribution
from stic_ray.report.folder import open_run
from stic_ray.stages import images, listing

HOSTILE = "<script>alert(1)</script> \"'&lt;"


def _write_images(folder: Path, num: int, *, dark: bool) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(num)
    for number in range(num):
        pixels = rng.integers(0, 60 if dark else 256, (28, 28, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    (folder / "bad.png").write_bytes(b"no image")


def _make_run(home: Path, model: Path) -> Path:
    """What a finished run leaves of its unlabeled images."""
    _write_images(home / "unlabeled", 30, dark=False)
    given = [f"store={home / 'store'}", f"unlabeled.uri={home / 'unlabeled'}", f"model.path={model}"]
    config = parse_config(read_yaml(recipes.read("embedded"), "embedded"), [*given, "unlabeled.sample=null"])
    assert config.unlabeled is not None
    listed = listing.run(config, config.unlabeled, listing.plan(config, config.unlabeled))
    readable = images.run(config, listed, images.plan(listed.fingerprint))
    run = home / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump(to_tree(config)))
    (run / "artifacts.json").write_text(json.dumps({"listing": listed.uri, "images": readable.uri}))
    return run


def _written(run: Path) -> tuple[str, dict[str, Any]]:
    tree: dict[str, Any] = json.loads((run / "distribution.json").read_text())
    return (run / "distribution.html").read_text(), tree


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_run_and_folder_give_a_page_that_is_the_same_again(
    tmp_path: Path, tiny_llava: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    run = _make_run(tmp_path, tiny_llava)
    _write_images(tmp_path / "dark", 40, dark=True)
    call = ["--run", str(run), "--set", f"{HOSTILE}={tmp_path / 'dark'}"]
    assert image_distribution.main([*call, "--sample", "35"]) == 0
    page, tree = _written(run)
    own, dark = tree["sets"]
    assert (own["name"], own["images"], own["rejects"], own["overlap"]) == ("self-training", 30, 0, None)
    assert (dark["name"], dark["images"] + dark["rejects"]) == (HOSTILE, 35)
    assert dark["overlap"]["value"] < 0.2 and dark["overlap"]["num_images"] == 30
    for each in tree["sets"]:
        assert len(each["places"]) == len(set(each["image_ids"])) == each["images"]
    assert "alert" in page and "<script" not in page
    told = capsys.readouterr().out
    assert str(run / "distribution.html") in told and str(run / "report.html") in told
    assert "Image distribution" in (run / "report.html").read_text()
    folder = open_run(str(run))
    others = replace(folder, artifacts={**folder.artifacts, "images": folder.artifacts["listing"]})
    model = replace(folder.config.model, path="embedded://models/base")
    assert read_distribution(folder) is not None and read_distribution(others) is None
    assert read_distribution(replace(folder, config=replace(folder.config, model=model))) is None
    assert audit_run(str(run.with_name("mine-distribution"))).faults == []
    assert not (run / "underway.json").exists() and len(json.loads((run / "artifacts.json").read_text())) == 2
    assert image_distribution.main([*call, "--sample", "35", "--out", str(tmp_path / "out")]) == 0
    assert _written(tmp_path / "out") == (page, tree)


def test_help_names_what_can_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        image_distribution.main(["--help"])
    assert {"--run", "--set", "--sample", "--out"} <= set(capsys.readouterr().out.replace("[", " ").split())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ([], "there is nothing to compare: give --run and --set NAME=FOLDER, or --set twice or more"),
        (["--set", "a=embedded://dev/images"], "there is nothing to compare"),
        (["--set", "embedded"], "--set embedded: give NAME=FOLDER"),
        (["--set", "a=embedded://dev/images", "--set", "a=embedded://test/images"], "there is a set a already"),
        (["--set", "a={here}/none"], "there is no such folder"),
        (["--set", "a={here}"], "the folder holds no image"),
        (["--run", "{here}"], "holds no artifacts.json: give the directory of a run"),
        (["--set", "a=embedded://dev/images", "storr=x"], "storr"),
    ],
)
def test_wrong_call_is_one_line(
    call: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert image_distribution.main([part.format(here=tmp_path) for part in call]) == 2
    told = capsys.readouterr().err
    assert message in told and told.startswith("error: ") and told.count("\n") == 1
