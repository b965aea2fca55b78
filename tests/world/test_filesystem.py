"""The world's files as the pipeline sees them."""

import subprocess
import sys

import fsspec
import pytest

from stic_ray import storage
from stic_ray.world import splits


def _filesystem() -> fsspec.AbstractFileSystem:
    return storage.split("embedded://unlabeled")[0]


def test_import_needs_no_torch() -> None:
    code = "import stic_ray.world.filesystem, sys; sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_listing_is_complete() -> None:
    filesystem = _filesystem()
    assert len(filesystem.ls("embedded://unlabeled", detail=False)) == 4000
    assert len(filesystem.ls("embedded://test/images", detail=False)) == 500
    assert [row["name"] for row in filesystem.ls("embedded://")] == [
        "dev",
        "models",
        "sft",
        "test",
        "unlabeled",
        "vocabulary.txt",
    ]
    jsonl = ["objects", "pope_adversarial", "pope_popular", "pope_random", "questions", "reading"]
    assert filesystem.glob("embedded://test/*.jsonl") == [f"test/{name}.jsonl" for name in jsonl]
    for name in ("base", "aligned"):
        assert filesystem.exists(f"embedded://models/{name}/model.safetensors")


def test_every_listed_file_can_be_read() -> None:
    filesystem = _filesystem()
    for path in [name for name in filesystem.find("") if not name.endswith(".png")]:
        assert len(filesystem.cat_file(path)) == filesystem.info(path)["size"]
    for folder, count in (("unlabeled", 4000), ("dev/images", 200), ("test/images", 500), ("sft/images", 1500)):
        for index in (0, count - 1):
            assert filesystem.cat_file(f"{folder}/{splits.image_name(index)}").startswith(b"\x89PNG")
        assert not filesystem.exists(f"{folder}/{splits.image_name(count)}")


def test_reading_is_deterministic_and_bytes_like() -> None:
    filesystem = _filesystem()
    with filesystem.open("embedded://unlabeled/00003.png", "rb") as file:
        head = file.read(4)
        file.seek(0)
        whole = file.read()
    assert whole[:4] == head == b"\x89PNG"
    assert whole == splits.image_png("unlabeled", 3)


def test_info_names_a_version() -> None:
    filesystem = _filesystem()
    info = filesystem.info("embedded://unlabeled/00000.png")
    assert info["type"] == "file"
    assert info["version"] == f"world-{splits.VERSION}"
    weights = [filesystem.info(f"embedded://models/{name}/model.safetensors") for name in ("base", "aligned")]
    assert weights[0]["version"] != weights[1]["version"]
    assert filesystem.info("embedded://dev")["type"] == "directory"


@pytest.mark.parametrize("path", ["../etc/passwd", "/etc/passwd", "models/base/../../filesystem.py", "nothing.png"])
def test_paths_outside_do_not_exist(path: str) -> None:
    filesystem = _filesystem()
    assert not filesystem.exists(f"embedded://{path}")
    with pytest.raises(FileNotFoundError):
        filesystem.cat_file(f"embedded://{path}")


def test_writing_is_refused() -> None:
    with pytest.raises(OSError, match="read-only"):
        _filesystem().open("embedded://unlabeled/new.png", "wb")
