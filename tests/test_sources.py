"""Readers of what a user has: images in every kind of source and LLaVA JSON, every bad entry named and none lost."""

import io
import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stic_ray import sources, storage
from stic_ray.config import (
    ImageFolder,
    ImageSource,
    LlavaImages,
    LlavaJson,
    ParquetImages,
    SavedDataset,
    WebDataset,
)
from stic_ray.images import BadImageError
from stic_ray.records import Found, make_id
from stic_ray.sources import image_id, read_instructions


def _listed(source: ImageSource, seed: int = 0) -> list[Found]:
    return list(sources.list_images(source, seed))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in ("b.png", "a.JPG", "deep/c.webp", "notes.txt", "deep/.hidden", "d.png.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def test_list_images_are_the_image_files(photos: Path) -> None:
    found = _listed(ImageFolder(uri=str(photos)), seed=0)
    assert sorted(image.key for image in found) == ["a.JPG", "b.png", "deep/c.webp"]
    assert [image.id for image in found] == [make_id("image", image.key) for image in found]
    assert all(storage.read_bytes(image.uri) == b"x" for image in found)


def test_image_id_is_of_the_key_alone_wherever_the_folder_lies(photos: Path) -> None:
    storage.upload_directory(str(photos), "memory://elsewhere/photos")
    remote = _listed(ImageFolder(uri="memory://elsewhere/photos"), seed=1)
    assert [image.id for image in remote] == [image.id for image in _listed(ImageFolder(uri=str(photos)), seed=0)]
    assert sources.image_id("b.png") in {image.id for image in remote}
    assert all(image.uri.startswith("memory://elsewhere/photos/") for image in remote)


def _sampled(folder: Path, number: int, seed: int) -> set[str]:
    found = _listed(ImageFolder(uri=str(folder), sample=number), seed)
    assert [image.id for image in found] == sorted(image.id for image in found)
    return {image.key for image in found}


def test_list_images_sample_is_seeded_and_stable_when_other_images_come(tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"{number}.png").touch()
    first = _sampled(tmp_path, 20, seed=0)
    assert len(first) == 20 and first == _sampled(tmp_path, 20, seed=0)
    assert first != _sampled(tmp_path, 20, seed=1)
    assert _sampled(tmp_path, 10, seed=0) < first
    assert _sampled(tmp_path, 100, seed=0) == {f"{number}.png" for number in range(60)}
    for number in range(60, 90):
        (tmp_path / f"{number}.png").touch()
    later = _sampled(tmp_path, 20, seed=0)
    assert {key for key in later if int(key.split(".")[0]) < 60} <= first  # a new image only ever pushes one out
    assert 0 < len(later & first) < 20


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", r"unlabeled\.uri .*none does not exist: give a folder"),
        ("photos/b.png", r"unlabeled\.uri .*b\.png is a file: give a folder"),
        ("empty", r"unlabeled\.uri .*empty holds no image: expected files ending in .*\.png"),
    ],
)
def test_check_images_says_what_is_wrong(photos: Path, name: str, message: str) -> None:
    (photos.parent / "empty" / "deep").mkdir(parents=True)
    (photos.parent / "empty" / "deep" / "notes.txt").touch()
    with pytest.raises(ValueError, match=message):
        sources.check_images(ImageFolder(uri=str(photos.parent / name)))


def test_check_images_accepts_a_folder_with_images_further_down(photos: Path) -> None:
    sources.check_images(ImageFolder(uri=str(photos.parent)))


def test_versions_are_the_users_or_change_with_the_files(photos: Path, tmp_path: Path) -> None:
    assert sources.images_version(ImageFolder(uri="/nowhere", version="v1")) == "v1"
    before = sources.images_version(ImageFolder(uri=str(photos)))
    (photos / "new.png").touch()
    assert sources.images_version(ImageFolder(uri=str(photos))) != before
    file, folder = tmp_path / "sft.json", tmp_path / "sft"
    file.write_text("[]")
    storage.write_bytes(str(folder / "a.png"), b"1")
    source = LlavaJson(uri=str(file), images=str(folder))
    versions = [sources.instructions_version(source)]
    assert sources.instructions_version(source) == versions[0]
    file.write_text("[ ]")
    versions.append(sources.instructions_version(source))
    storage.write_bytes(str(folder / "a.png"), b"2")  # under the same name
    versions.append(sources.instructions_version(source))
    assert len(set(versions)) == 3
    assert sources.instructions_version(LlavaJson(uri="/nowhere", images="/nowhere", version="v2")) == "v2"


def _png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 4), shade).save(buffer, format="PNG")
    return buffer.getvalue()


def _containers(folder: Path) -> dict[str, ImageSource]:
    """The same six images as each kind of source."""
    images = [_png(shade) for shade in range(6)]
    for kind in ("folder", "parquet", "tars", "saved"):
        (folder / kind).mkdir()
    for number, data in enumerate(images):
        (folder / "folder" / f"{number}.png").write_bytes(data)
    for part in (0, 1):
        mine = images[3 * part : 3 * part + 3]
        table = pa.table({"image": [{"bytes": data, "path": None} for data in mine]})
        pq.write_table(table, folder / "parquet" / f"{part}.parquet", row_group_size=2)
        with pa.ipc.new_stream(folder / "saved" / f"data-{part}.arrow", table.schema) as stream:
            stream.write_table(table)
        with tarfile.open(folder / "tars" / f"{part}.tar", "w") as archive:
            for number, data in enumerate(mine):
                info = tarfile.TarInfo(f"{number}.png")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    state = {"_data_files": [{"filename": "data-0.arrow"}, {"filename": "data-1.arrow"}], "_indices_files": None}
    (folder / "saved" / "state.json").write_text(json.dumps(state))
    entries = [{"image": f"{number}.png"} for number in (3, 0, 3, 1, 2, 4, 5)] + [{"id": "text"}, {"image": 7}]
    (folder / "llava.json").write_text(json.dumps(entries))
    return {
        "folder": ImageFolder(uri=str(folder / "folder")),
        "parquet": ParquetImages(uri=str(folder / "parquet")),
        "tars": WebDataset(uri=str(folder / "tars")),
        "saved": SavedDataset(uri=str(folder / "saved")),
        "llava": LlavaImages(uri=str(folder / "llava.json"), images=str(folder / "folder")),
    }


@pytest.mark.parametrize("kind", ["folder", "parquet", "tars", "saved", "llava"])
def test_list_images_of_every_kind_of_source_gives_every_image_once(tmp_path: Path, kind: str) -> None:
    source = _containers(tmp_path)[kind]
    sources.check_images(source)
    found = _listed(source, seed=0)
    assert sorted(sources.read_image(image.uri) for image in found) == sorted(_png(shade) for shade in range(6))
    assert len({image.id for image in found}) == 6
    assert [image.id for image in found] == [image_id(image.key) for image in found]
    assert sources.images_version(source) == sources.images_version(source)


@pytest.mark.parametrize("kind", ["folder", "parquet", "tars", "saved", "llava"])
def test_list_images_on_s3_are_those_of_the_local_source(tmp_path: Path, s3_bucket: str, kind: str) -> None:
    local = _containers(tmp_path)[kind]
    storage.upload_directory(str(tmp_path), s3_bucket)
    remote = replace(local, uri=local.uri.replace(str(tmp_path), s3_bucket))
    if isinstance(remote, LlavaImages):
        remote = replace(remote, images=f"{s3_bucket}/folder")
    sources.check_images(remote)
    expected, found = _listed(local, seed=0), _listed(remote, seed=0)
    assert [image.id for image in found] == [image.id for image in expected]
    assert [sources.read_image(image.uri) for image in found] == [sources.read_image(image.uri) for image in expected]
    assert all(s3_bucket in image.uri for image in found)


def test_saved_dataset_is_what_the_library_saves(tmp_path: Path) -> None:
    from datasets import Dataset, Features
    from datasets import Image as ImageFeature

    features = Features({"image": ImageFeature()})
    rows = {"image": [{"bytes": _png(shade), "path": f"{shade}.png"} for shade in range(5)]}
    data = Dataset.from_dict(rows, features=features)
    data.save_to_disk(str(tmp_path / "saved"), num_shards=2)
    data.select([3, 1]).save_to_disk(str(tmp_path / "chosen"))
    data.to_parquet(str(tmp_path / "data.parquet"))
    for source, shades in (
        (SavedDataset(uri=str(tmp_path / "saved")), {0, 1, 2, 3, 4}),
        (SavedDataset(uri=str(tmp_path / "chosen")), {1, 3}),
        (ParquetImages(uri=str(tmp_path / "data.parquet")), {0, 1, 2, 3, 4}),
    ):
        sources.check_images(source)
        found = {sources.read_image(image.uri) for image in _listed(source, seed=0)}
        assert found == {_png(shade) for shade in shades}


@pytest.mark.parametrize("kind", ["folder", "parquet", "tars", "saved", "llava"])
def test_shards_part_the_images_and_do_not_change_what_an_image_is(tmp_path: Path, kind: str) -> None:
    source = _containers(tmp_path)[kind]
    whole = {image.id: image for image in _listed(source, seed=0)}
    parts = [_listed(replace(source, shard=f"{part}/3"), seed=0) for part in range(3)]
    assert sorted(image.id for part in parts for image in part) == sorted(whole)
    assert all(image == whole[image.id] for part in parts for image in part)
    assert len(_listed(replace(source, limit=4), seed=0)) == 4
    sampled = {image.id for image in _listed(replace(source, sample=4), seed=0)}
    assert len(sampled) == 4 and sampled < set(whole)


def test_list_images_up_to_a_limit_are_the_same_ones_wherever_the_folder_lies(tmp_path: Path) -> None:
    for name in ("b/2.png", "a/1.png", "c.png", "a/0.png", "b/1.png", "z.png", "0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    uri = f"memory://{tmp_path.name}"
    storage.upload_directory(str(tmp_path), uri)
    for limit in range(1, 7):
        local, remote = (_listed(ImageFolder(uri=place, limit=limit), seed=0) for place in (str(tmp_path), uri))
        assert [image.id for image in local] == [image.id for image in remote] and len(local) == limit


@pytest.mark.parametrize("kind", ["parquet", "tars", "saved"])
def test_list_images_of_one_file_stand_together_and_in_its_order(tmp_path: Path, kind: str) -> None:
    keys = [image.key for image in _listed(_containers(tmp_path)[kind], seed=0)]
    for half in (keys[:3], keys[3:]):
        assert len({key.rpartition("/")[0] for key in half}) == 1 and half == sorted(half)


def test_list_images_of_a_damaged_tar_has_what_is_before_the_damage_and_the_tar_itself(tmp_path: Path) -> None:
    source = _containers(tmp_path)["tars"]
    tar = tmp_path / "tars" / "0.tar"
    tar.write_bytes(tar.read_bytes()[:2100])
    found = _listed(source, seed=0)
    assert [image.key for image in found if image.error] == ["0.tar"]
    assert sorted(image.key for image in found if not image.error) == [
        "0.tar/0.png",
        "0.tar/1.png",
        "1.tar/0.png",
        "1.tar/1.png",
        "1.tar/2.png",
    ]


def test_list_images_of_a_source_without_any_says_so(tmp_path: Path) -> None:
    source = _containers(tmp_path)["llava"]
    (tmp_path / "llava.json").write_text('[{"id": "text-only"}]')
    with pytest.raises(ValueError, match=r"llava\.json holds no image$"):
        _listed(source, seed=0)
    with pytest.raises(ValueError, match=r"holds no image in shard [0-9]+/64$"):
        for part in range(64):
            _listed(ImageFolder(uri=str(tmp_path / "folder"), shard=f"{part}/64"), seed=0)


def test_list_images_named_outside_their_root_are_not_read(tmp_path: Path) -> None:
    source = _containers(tmp_path)["llava"]
    (tmp_path / "llava.json").write_text(json.dumps([{"image": "../secret.png"}, {"image": "0.png"}]))
    outside, inside = sorted(_listed(source, seed=0), key=lambda image: image.key)
    assert outside.uri == "" and "leaves its root" in outside.error
    assert (inside.key, inside.error) == ("0.png", "")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (ParquetImages(uri="none"), r"none does not exist: give a parquet file, or a folder of them"),
        (ParquetImages(uri="tars"), r"tars holds no image: expected files ending in \.parquet"),
        (ParquetImages(uri="tars/0.tar"), r"0\.tar is a file: give a parquet file, or a folder of them"),
        (ParquetImages(uri="parquet", column="picture"), r"has no column picture: it has image"),
        (WebDataset(uri="none"), r"none does not exist: give a tar, or a folder of them"),
        (WebDataset(uri="parquet"), r"parquet holds no image: expected files ending in \.tar"),
        (SavedDataset(uri="none"), r"none does not exist: give the folder that save_to_disk wrote"),
        (SavedDataset(uri="tars/0.tar"), r"0\.tar is a file: give the folder that save_to_disk wrote"),
        (SavedDataset(uri="tars"), r"tars has no state\.json: give the folder that save_to_disk wrote"),
        (SavedDataset(uri="."), r"holds several splits \(.*saved.*\): give the folder of one"),
        (SavedDataset(uri="chosen"), r"chosen is a selection of rows: .*flatten_indices"),
        (SavedDataset(uri="nothing"), r"nothing holds no image$"),
        (LlavaImages(uri="none", images="folder"), r"none does not exist: give a LLaVA JSON file"),
        (
            LlavaImages(uri="llava.json", images="/nowhere"),
            r"unlabeled\.images /nowhere does not exist: give the folder",
        ),
        (LlavaImages(uri="tars/0.tar", images="/"), r"0\.tar is no (JSON|UTF-8)"),
    ],
    ids=lambda value: f"{type(value).__name__}-{value.uri}" if isinstance(value, ImageSource) else "",
)
def test_check_images_of_every_kind_says_what_is_wrong(tmp_path: Path, source: ImageSource, message: str) -> None:
    _containers(tmp_path)
    (tmp_path / "dataset_dict.json").write_text("{}")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "state.json").write_text('{"_data_files": [], "_indices_files": null}')
    (tmp_path / "chosen").mkdir()
    (tmp_path / "chosen" / "state.json").write_text('{"_data_files": [], "_indices_files": [{"filename": "i.arrow"}]}')
    with pytest.raises(ValueError, match=message):
        sources.check_images(replace(source, uri=str(tmp_path / source.uri)))


def _human(text: Any) -> dict[str, Any]:
    return {"from": "human", "value": text}


def _gpt(text: Any) -> dict[str, Any]:
    return {"from": "gpt", "value": text}


def _source(folder: Path, entries: Any, sample: int | None = None) -> LlavaJson:
    file = folder / "sft.json"
    file.write_text(json.dumps(entries))
    return LlavaJson(uri=str(file), images="/images", sample=sample)


def test_read_instructions_good_samples_in_full(tmp_path: Path) -> None:
    entries = [
        {
            "id": "7",
            "image": "z/1.jpg",
            "conversations": [_human("<image>\nwhat ?"), _gpt("a dog"), _human("and ?"), _gpt("no")],
        },
        {"id": 8, "image": "z/1.jpg", "conversations": [_human("where ?\n<image>"), _gpt("here")]},
        {"conversations": [_human("hello"), _gpt("hi")]},
    ]
    samples, rejects = read_instructions(_source(tmp_path, entries), seed=0)
    assert rejects == []
    assert [(s.image_id, s.id) for s in samples] == sorted((s.image_id, s.id) for s in samples)
    by_text = {sample.turns[0].text: sample for sample in samples}
    assert set(by_text) == {"what ?", "where ?", "hello"}
    first = by_text["what ?"]
    assert [(turn.role, turn.text) for turn in first.turns] == [
        ("user", "what ?"),
        ("assistant", "a dog"),
        ("user", "and ?"),
        ("assistant", "no"),
    ]
    assert (first.image_uri, first.image_id, first.description) == ("/images/z/1.jpg", sources.image_id("z/1.jpg"), "")
    assert by_text["where ?"].image_id == first.image_id and by_text["where ?"].id != first.id
    assert (by_text["hello"].image_id, by_text["hello"].image_uri) == ("", "")


_TALK = [_human("<image>\nq"), _gpt("a")]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("text", "no list of conversations"),
        ({"id": 1}, "no list of conversations"),
        ({"conversations": "q"}, "no list of conversations"),
        ({"conversations": []}, "turns must alternate"),
        ({"conversations": [_human("q")]}, "turns must alternate"),
        ({"conversations": [_gpt("a"), _human("q")]}, "turns must alternate"),
        ({"conversations": [_human("q"), _gpt("a"), _human("q")]}, "turns must alternate"),
        ({"conversations": [_human("q"), {"from": "system", "value": "a"}]}, "a turn needs `from`"),
        ({"conversations": [_human("q"), {"from": ["gpt"], "value": "a"}]}, "a turn needs `from`"),
        ({"conversations": [_human("q"), _gpt(3)]}, "a turn needs `from`"),
        ({"conversations": [_human("q"), "a"]}, "a turn needs `from`"),
        ({"conversations": _TALK}, "<image> must stand once"),
        ({"image": "a.png", "conversations": [_human("<image><image>q"), _gpt("a")]}, "<image> must stand once"),
        ({"image": "a.png", "conversations": [_human("q"), _gpt("<image>")]}, "<image> must stand once"),
        ({"image": ["a.png", "b.png"], "conversations": _TALK}, "image is not one path"),
        ({"image": "../secret.png", "conversations": _TALK}, "leaves its root /images"),
        ({"image": "/etc/passwd", "conversations": _TALK}, "leaves its root /images"),
        ({"image": "s3://b/x.png", "conversations": _TALK}, "leaves its root /images"),
        ({"image": "a\0.png", "conversations": _TALK}, "cannot be the name of a file"),
        ({"image": "a.png", "conversations": [_human("q"), _gpt("\ud83d")]}, "half of a character"),
        ({"id": "\ud83d", "conversations": [_human("q")]}, "turns must alternate"),
        ({"conversations": [_human("q"), _gpt(" ")]}, "an answer is empty"),
    ],
)
def test_read_instructions_bad_entry_is_a_reject_with_its_reason(tmp_path: Path, entry: Any, reason: str) -> None:
    good = {"image": "a.png", "conversations": _TALK}
    samples, rejects = read_instructions(_source(tmp_path, [good, entry, good]), seed=0)
    assert len(samples) == 2
    assert [reject.stage for reject in rejects] == ["samples"] and reason in rejects[0].reason
    assert len({row.id for row in samples} | {row.id for row in rejects}) == 3


def test_read_instructions_sample_is_seeded_and_counts_bad_ones(tmp_path: Path) -> None:
    entries: list[Any] = [{"id": n, "conversations": [_human(str(n)), _gpt("a")]} for n in range(40)]
    entries[::4] = [{"id": n} for n in range(0, 40, 4)]

    def drawn(sample: int, seed: int) -> set[str]:
        samples, rejects = read_instructions(_source(tmp_path, entries, sample), seed)
        return {row.id for row in samples} | {row.id for row in rejects}

    assert len(drawn(12, 0)) == 12
    assert drawn(12, 0) == drawn(12, 0) != drawn(12, 1)
    assert drawn(6, 0) < drawn(12, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[{]", "is no JSON: line 1: "),
        (b"", "is no JSON: line 1: "),
        (b"{}", "must be a JSON list of samples, and not empty"),
        (b"[]", "must be a JSON list of samples, and not empty"),
        (b"\xff\xfe", "is no UTF-8 text"),
    ],
)
def test_read_instructions_no_json_list_names_field_and_file(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"the instruction file .*x\.json {message}"):
        read_instructions(LlavaJson(uri=str(file), images=str(tmp_path)), seed=0)


def test_check_instructions_missing_file_or_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"instructions\.uri .*none\.json does not exist"):
        sources.check_instructions(LlavaJson(uri=str(tmp_path / "none.json"), images=str(tmp_path)), "instructions")
    with pytest.raises(ValueError, match=r"instructions\.uri .* is a folder"):
        sources.check_instructions(LlavaJson(uri=str(tmp_path), images=str(tmp_path)), "instructions")


@pytest.mark.parametrize("text", ["", "no json", '{"a": []}'])
def test_check_instructions_that_are_no_list_are_refused_before_anything_is_made(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"instructions\.uri .*x\.json does not begin with \["):
        sources.check_instructions(LlavaJson(uri=str(tmp_path / "x.json"), images=str(tmp_path)), "instructions")


def test_check_instructions_missing_images_or_file_in_their_place_is_named(tmp_path: Path) -> None:
    file = tmp_path / "sft.json"
    file.write_text("[]")
    sources.check_instructions(LlavaJson(uri=str(file), images=str(tmp_path)), "instructions")
    for images, what in ((tmp_path / "none", "does not exist"), (file, "is a file")):
        with pytest.raises(ValueError, match=rf"^instructions\.images {images} {what}: give the folder that [^\n]+$"):
            sources.check_instructions(LlavaJson(uri=str(file), images=str(images)), "instructions")


# Reading images


class _NetworkError(Exception):
    """As botocore's: no OSError."""


def test_read_image_asks_again_where_a_read_fails_and_gives_up_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    failures: list[Exception] = [TimeoutError("slow down"), _NetworkError("reset")]

    def flaky(uri: str) -> bytes:
        if failures:
            raise failures.pop()
        return b"pixels"

    monkeypatch.setattr("stic_ray.sources.time.sleep", pauses.append)
    monkeypatch.setattr(storage, "read_bytes", flaky)
    assert sources.read_image("memory://a.png") == b"pixels" and len(pauses) == 2
    failures += [TimeoutError("slow down")] * 10
    with pytest.raises(
        ValueError, match=r"^memory://a\.png cannot be reached: slow down; .* was tried 4 times"
    ) as raised:
        sources.read_image("memory://a.png")
    assert not isinstance(raised.value, BadImageError)  # an outage is no fault of the image
    assert pauses[2:] == [*pauses[:2], pauses[4], 0.0] and len(failures) == 6


def test_read_image_that_is_not_there_or_cannot_be_read_is_given_up_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stic_ray.sources.time.sleep", lambda _: pytest.fail("nothing to wait for"))
    for missing in (str(tmp_path / "none.png"), "memory://none.png"):
        with pytest.raises(BadImageError, match=r"^the image file is missing$"):
            sources.read_image(missing)
    for unreadable in (str(tmp_path), str(tmp_path / ("x" * 5000))):
        with pytest.raises(BadImageError, match=r"^(cannot be read: |it is no file, but a folder)"):
            sources.read_image(unreadable)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("pipe.png")
    for endless in (str(tmp_path / "pipe.png"), str(tmp_path / "link.png"), "/dev/zero"):
        with pytest.raises(BadImageError, match="it is no file"):
            sources.read_image(endless)


def test_read_instructions_takes_ids_that_an_export_told_once_each(tmp_path: Path) -> None:
    origin = {"id": make_id("mine"), "image_id": make_id("image", "elsewhere"), "description": "a car"}
    entry: dict[str, Any] = {
        "image": "a.png",
        "conversations": [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a car"}],
        "stic_ray": origin,
    }
    damaged = {**entry, "stic_ray": {**origin, "id": "../x"}}
    (sample,), rejects = read_instructions(_source(tmp_path, [entry, entry, damaged]), seed=0)
    assert (sample.id, sample.image_id, sample.description) == tuple(origin.values())
    assert sorted(reject.reason.partition(":")[0] for reject in rejects) == [
        "its id stands before in the file",
        "stic_ray.id is not what was written",
    ]
    assert len({sample.id, *(reject.id for reject in rejects)}) == 3
