"""Images inside tars and tables: every one is listed once, its bytes come back, and damage is told."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stic_ray import members, storage
from stic_ray.images import BadImageError

_FILES = {"a.jpg": b"first", "deep/b.PNG": b"", "c.json": b"{}", "../d.png": b"x" * 1000, "e.jpg": b"last"}


def _write_tar(path: Path, files: list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> None:
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def _located(found: Iterable[tuple[str, str, int]]) -> dict[str, str]:
    return {name: location for name, location, _ in found}


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("remote", [False, True])
def test_tar_members_are_the_images_with_their_bytes(tmp_path: Path, form: int, remote: bool) -> None:
    long = "l" * 200 + ".jpg"
    _write_tar(tmp_path / "s.tar", [*_FILES.items(), (long, b"long")], form)
    uri = str(tmp_path / "s.tar")
    if remote:
        uri = f"memory://tars/{form}.tar"
        storage.copy_file(str(tmp_path / "s.tar"), uri)
    found = _located(members.tar_members(uri, (".jpg", ".png")))
    assert set(found) == {"a.jpg", "deep/b.PNG", "../d.png", "e.jpg", long}
    assert {name: members.read(location) for name, location in found.items()} == {
        **{name: data for name, data in _FILES.items() if name != "c.json"},
        long: b"long",
    }
    assert {members.file_of(location) for location in found.values()} == {uri}


def test_tar_members_of_one_name_are_all_listed(tmp_path: Path) -> None:
    _write_tar(tmp_path / "s.tar", [("a.jpg", b"1"), ("a.jpg", b"2"), ("a.jpg", b"3")])
    found = _located(members.tar_members(str(tmp_path / "s.tar"), (".jpg",)))
    assert {name: members.read(location) for name, location in found.items()} == {
        "a.jpg": b"1",
        "a.jpg#2": b"2",
        "a.jpg#3": b"3",
    }


def test_tar_members_links_and_folders_are_no_images(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for name, kind in (("f.jpg", tarfile.DIRTYPE), ("l.jpg", tarfile.SYMTYPE), ("h.jpg", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    assert list(members.tar_members(str(tmp_path / "s.tar"), (".jpg",))) == []


def _until_damage(uri: str) -> tuple[list[str], str]:
    names = []
    try:
        for name, _, _ in members.tar_members(uri, (".jpg",)):
            names.append(name)
    except BadImageError as error:
        return names, str(error)
    return names, ""


def test_tar_members_before_damage_are_listed_and_the_damage_is_told(tmp_path: Path) -> None:
    whole = tmp_path / "s.tar"
    _write_tar(whole, [("a.jpg", b"a" * 2000), ("b.jpg", b"b" * 2000)])
    data = whole.read_bytes()
    second = 512 + 2048
    for name, damaged, expected in (
        ("cut in a member", data[: second + 600], ["a.jpg", "b.jpg"]),
        ("cut in a header", data[: second + 100], ["a.jpg"]),
        ("cut between members", data[:second], ["a.jpg"]),
        ("a bad header", data[:second] + b"\xff" * 512 + data[second + 512 :], ["a.jpg"]),
        ("no tar", b"\x1f\x8b" + b"z" * 2000, []),
        ("empty", b"", []),
    ):
        whole.write_bytes(damaged)
        names, why = _until_damage(str(whole))
        assert (names, why.startswith("damaged tar: ")) == (expected, True), name


def test_read_of_a_part_that_is_cut_off_says_so(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(b"x" * 100)
    with pytest.raises(BadImageError, match="cut off: 90 of 200 bytes"):
        members.read(f"bytes:10+200:{tmp_path / 's.tar'}")


def _tables(folder: Path) -> dict[str, str]:
    """Five images as bytes, image structs and lists of them, in parquet and an Arrow stream, several groups each."""
    data = [b"0", b"11", None, b"333", b"4444"]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    struct = [None if d is None else {"bytes": d, "path": f"{i}.jpg"} for i, d in enumerate(data)]
    tables = {
        "binary": pa.table({"n": range(5), "image": pa.array(data, pa.binary())}),
        "large": pa.table({"image": pa.array(data, pa.large_binary())}),
        "struct": pa.table({"image": pa.array(struct, kind)}),
        "list": pa.table({"image": pa.array([[cell] if cell else [] for cell in struct], pa.list_(kind))}),
        "bytes_list": pa.table({"image": pa.array([[d] if d else None for d in data], pa.list_(pa.binary()))}),
    }
    uris = {}
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=2)
        uris[f"{name}.parquet"] = str(folder / f"{name}.parquet")
        with pa.ipc.new_stream(folder / f"{name}.arrow", table.schema) as stream:
            stream.write_table(table, max_chunksize=2)
        uris[f"{name}.arrow"] = str(folder / f"{name}.arrow")
    return uris


@pytest.mark.parametrize("remote", [False, True])
def test_table_rows_are_all_rows_with_their_bytes(tmp_path: Path, remote: bool) -> None:
    for name, path in _tables(tmp_path).items():
        uri = path
        if remote:
            uri = f"memory://tables/{name}"
            storage.copy_file(path, uri)
        found = _located(members.table_rows(uri, "image"))
        assert list(found) == ["0", "1", "2", "3", "4"], name
        for row, data in (("4", b"4444"), ("0", b"0"), ("3", b"333"), ("1", b"11")):
            assert members.read(found[row]) == data, name
        with pytest.raises(BadImageError, match="the row holds no bytes"):
            members.read(found["2"])


def test_row_with_several_images_says_so(tmp_path: Path) -> None:
    pq.write_table(pa.table({"images": [[b"1", b"2"], [b"3"]]}), tmp_path / "t.parquet")
    (two, one) = _located(members.table_rows(str(tmp_path / "t.parquet"), "images")).values()
    assert members.read(one) == b"3"
    with pytest.raises(BadImageError, match="the row holds 2 images"):
        members.read(two)


@pytest.mark.parametrize("remote", [False, True])
def test_table_batches_are_all_rows_with_the_places_of_their_cells(tmp_path: Path, remote: bool) -> None:
    for name, path in _tables(tmp_path).items():
        uri = path
        if remote:
            uri = f"memory://batches/{name}"
            storage.copy_file(path, uri)
        for size in (1, 2, 64):
            found = []
            for group, start, batch in members.table_batches(uri, size):
                assert batch.num_rows <= size
                found += [members.cell(group, start + row, "image", uri) for row in range(batch.num_rows)]
            assert found == list(_located(members.table_rows(uri, "image")).values()), name


def test_table_rows_column_names_may_hold_anything(tmp_path: Path) -> None:
    column = "my:image/1 %"
    pq.write_table(pa.table({column: [b"x"]}), tmp_path / "t.parquet")
    ((_, location, _),) = members.table_rows(str(tmp_path / "t.parquet"), column)
    assert members.read(location) == b"x"


def test_table_rows_without_such_a_column_say_what_there_is(tmp_path: Path) -> None:
    uris = _tables(tmp_path)
    with pytest.raises(ValueError, match=r"binary\.parquet has no column picture: it has n, image"):
        list(members.table_rows(uris["binary.parquet"], "picture"))
    with pytest.raises(ValueError, match=r"column n of .*binary\.arrow is int64: it must hold the bytes"):
        list(members.table_rows(uris["binary.arrow"], "n"))


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
def test_table_rows_of_a_damaged_file_say_so(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no table at all, but long enough for a footer")
    with pytest.raises(BadImageError, match="damaged table: "):
        list(members.table_rows(str(tmp_path / name), "image"))


@pytest.mark.parametrize("name", ["binary.parquet", "binary.arrow"])
@pytest.mark.parametrize("remote", [False, True])
def test_table_that_was_damaged_or_shortened_says_so(tmp_path: Path, name: str, remote: bool) -> None:
    whole = Path(_tables(tmp_path)[name]).read_bytes()
    uri = f"memory://damaged-{name}" if remote else str(tmp_path / name)
    if remote:
        storage.write_bytes(uri, whole)
    located = _located(members.table_rows(uri, "image"))
    footer = whole[: len(whole) - 30] + b"\xff" * 22 + whole[-8:]
    for damaged in (whole[: len(whole) * 2 // 3], footer if name.endswith(".parquet") else whole[:-200]):
        storage.write_bytes(uri, damaged)
        members._read_cells.cache_clear()
        with pytest.raises(BadImageError, match=r"damaged table: |is gone"):
            members.read(located["4"])
        if name.endswith(".parquet"):
            with pytest.raises(BadImageError, match="damaged table: "):
                list(members.table_rows(uri, "image"))


def test_tar_member_whose_name_is_not_utf8_is_listed_under_one_that_is(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar", "w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as archive:
        member = tarfile.TarInfo("caf\u00e9.jpg")
        member.size = 1
        archive.addfile(member, io.BytesIO(b"x"))
    ((name, location, _),) = members.tar_members(str(tmp_path / "t.tar"), (".jpg",))
    assert name == "caf\\udce9.jpg" and members.read(location) == b"x"


def test_location_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="no location"):
        members.read("row:x:/photos/a.jpg")
    assert not members.is_inside("/photos/row:1.jpg") and members.file_of("/photos/a.jpg") == "/photos/a.jpg"
