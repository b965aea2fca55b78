"""Files by URI: whole or not there, nothing outside its root, the same on a local disk and on another filesystem."""

import os
import uuid
from pathlib import Path

import pytest

from stic_ray import storage


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "root") if request.param == "local" else f"memory://test-{uuid.uuid4().hex}"


def _files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_write_bytes_reads_back_and_replaces(root: str) -> None:
    uri = storage.join(root, "a", "b.bin")
    assert not storage.exists(uri)
    storage.write_bytes(uri, b"one")
    storage.write_bytes(uri, b"zwei \xff")
    assert storage.read_bytes(uri) == b"zwei \xff"
    assert storage.exists(uri) and storage.exists(storage.join(root, "a"))
    assert storage.list_files(storage.join(root, "a")) == [uri]


def test_read_missing_raises_file_not_found(root: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read_text(storage.join(root, "none"))


def test_write_bytes_shows_no_part_of_a_file_before_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[str], bytes]] = []
    target = tmp_path / "x.bin"
    target.write_bytes(b"old")
    replace = os.replace

    def look_then_replace(source: str, destination: str) -> None:
        seen.append((storage.list_files(str(tmp_path)), target.read_bytes()))
        assert os.path.getsize(source) == 100_000
        replace(source, destination)

    monkeypatch.setattr(os, "replace", look_then_replace)
    storage.write_bytes(str(target), b"n" * 100_000)
    assert seen == [([str(target)], b"old")]
    assert target.read_bytes() == b"n" * 100_000


def test_write_bytes_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    storage.write_bytes(str(tmp_path / "x"), b"old")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        storage.write_bytes(str(tmp_path / "x"), b"new")
    assert _files_below(tmp_path) == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


def test_write_bytes_below_a_file_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        storage.write_bytes(str(tmp_path / "file" / "x"), b"")


def test_create_exclusively_lets_only_the_first_in(root: str) -> None:
    uri = storage.join(root, "d", "lease")
    assert storage.create_exclusively(uri, b"first") is True
    assert storage.create_exclusively(uri, b"second") is False
    assert storage.read_bytes(uri) == b"first"
    assert storage.list_files(storage.join(root, "d")) == [uri]


def test_create_exclusively_leaves_nothing_beside_the_file(tmp_path: Path) -> None:
    storage.create_exclusively(str(tmp_path / "x"), b"1")
    storage.create_exclusively(str(tmp_path / "x"), b"2")
    assert _files_below(tmp_path) == ["x"]


def test_list_files_are_finished_files_of_the_directory_alone_in_name_order(root: str) -> None:
    for name in ("b.parquet", "a.parquet", "c.json", ".unfinished-1.parquet", "deep/d.parquet"):
        storage.write_bytes(storage.join(root, name), b"x")
    expected = [storage.join(root, "a.parquet"), storage.join(root, "b.parquet")]
    assert storage.list_files(root, ".parquet") == expected
    assert storage.list_files(root) == [*expected, storage.join(root, "c.json")]
    assert storage.list_directories(root) == [storage.join(root, "deep")]
    assert storage.list_files(storage.join(root, "none")) == storage.list_directories(storage.join(root, "none")) == []


def test_walk_gives_keys_below_the_root_and_uris_that_read(root: str) -> None:
    for name in ("x.txt", "deep/er/y.txt"):
        storage.write_bytes(storage.join(root, name), name.encode())
    listed = sorted(storage.walk(root + "/"), key=lambda entry: entry.key)
    assert [entry.key for entry in listed] == ["deep/er/y.txt", "x.txt"]
    assert [storage.read_text(entry.uri) for entry in listed] == ["deep/er/y.txt", "x.txt"]


def test_walk_of_a_missing_folder_or_a_file_raises(root: str) -> None:
    storage.write_bytes(storage.join(root, "file"), b"")
    with pytest.raises(FileNotFoundError):
        list(storage.walk(storage.join(root, "none")))
    with pytest.raises(NotADirectoryError):
        list(storage.walk(storage.join(root, "file")))


def test_walk_name_that_is_not_utf8_is_refused_by_name(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/caf\xe9.png", "wb"):
        pass
    with pytest.raises(ValueError, match=r"not UTF-8, 'caf\\udce9\.png': rename or remove it"):
        list(storage.walk(str(tmp_path)))


def test_listing_version_changes_with_added_replaced_moved_and_removed_files(root: str) -> None:
    uri = storage.join(root, "a")
    storage.write_bytes(uri, b"1")
    versions = [storage.listing_version(root)]
    assert storage.listing_version(root) == versions[0]
    storage.write_bytes(storage.join(root, "b"), b"1")
    versions.append(storage.listing_version(root))
    storage.write_bytes(uri, b"2")  # of the same size
    versions.append(storage.listing_version(root))
    storage.remove(storage.join(root, "b"))
    versions.append(storage.listing_version(root))
    storage.write_bytes(storage.join(root, "c"), storage.read_bytes(uri))
    storage.remove(uri)
    versions.append(storage.listing_version(root))
    assert len(set(versions)) == len(versions)


def test_listing_version_does_not_depend_on_where_the_folder_lies(tmp_path: Path) -> None:
    for name in ("one", "two"):
        storage.write_bytes(str(tmp_path / name / "x"), b"1")
        os.utime(tmp_path / name / "x", (5, 5))
    assert storage.listing_version(str(tmp_path / "one")) == storage.listing_version(str(tmp_path / "two"))


def test_file_version_changes_when_replaced_and_raises_where_there_is_none(root: str) -> None:
    uri = storage.join(root, "a")
    storage.write_bytes(uri, b"1")
    before = storage.file_version(uri)
    assert storage.file_version(uri) == before
    storage.write_bytes(uri, b"2")
    assert storage.file_version(uri) != before
    with pytest.raises(FileNotFoundError):
        storage.file_version(storage.join(root, "none"))


def test_remove_takes_files_and_folders_and_forgives_what_is_gone(root: str) -> None:
    for name in ("d/x", "d/e/y", "z"):
        storage.write_bytes(storage.join(root, name), b"")
    storage.remove(storage.join(root, "d"))
    storage.remove(storage.join(root, "d"))
    storage.remove(storage.join(root, "z"))
    assert list(storage.walk(root)) == [] if storage.exists(root) else True


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/passwd", "a/..", "..\\x", "\\x", "s3://b/x", "file:///x"])
def test_join_inside_refuses_what_leaves_its_root(key: str) -> None:
    with pytest.raises(ValueError, match="leaves its root /data"):
        storage.join_inside("/data", key)


@pytest.mark.parametrize("key", ["a\0b.png", "\udcff.png"])
def test_join_inside_refuses_what_no_file_can_be_called(key: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a file"):
        storage.join_inside("/data", key)


@pytest.mark.parametrize("key", ["x.png", "a/b c/ü.png", "..x", "a..b/c...", "~x"])
def test_join_inside_keeps_an_honest_key(key: str) -> None:
    assert storage.join_inside("/data/", key) == f"/data/{key}"


@pytest.mark.parametrize(
    ("uri", "relative"),
    [
        ("store", True),
        ("./store", True),
        ("../store", True),
        ("file://store", True),
        ("/store", False),
        ("~/store", False),
        ("file:///store", False),
        ("s3://bucket/store", False),
        ("memory://store", False),
    ],
)
def test_is_relative_is_whether_the_working_directory_matters(uri: str, relative: bool) -> None:
    assert storage.is_relative(uri) is relative


def test_absolute_makes_local_paths_absolute_and_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("store") == f"{tmp_path}/store"
    assert storage.absolute("file:///x/y") == "/x/y"
    assert storage.absolute("memory://x/y") == "memory://x/y"


def test_split_unknown_protocol_is_one_clear_error() -> None:
    with pytest.raises(ValueError, match="cannot open nosuch://x/y: "):
        storage.split("nosuch://x/y")


def test_local_copy_of_a_local_folder_is_itself(tmp_path: Path) -> None:
    assert storage.local_copy(str(tmp_path)) == str(tmp_path)


def test_local_copy_of_a_remote_folder_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    root = f"memory://model-{uuid.uuid4().hex}"
    storage.write_bytes(f"{root}/config.json", b"{}")
    storage.write_bytes(f"{root}/deep/w.bin", b"w")
    copy = storage.local_copy(root)
    assert _files_below(Path(copy)) == ["config.json", "deep/w.bin"]
    assert (Path(copy) / "deep" / "w.bin").read_bytes() == b"w"
    stamp = os.stat(copy).st_ino
    assert storage.local_copy(root) == copy and os.stat(copy).st_ino == stamp
    storage.write_bytes(f"{root}/deep/w.bin", b"ww")
    assert (Path(storage.local_copy(root)) / "deep" / "w.bin").read_bytes() == b"ww"


def test_local_copy_never_mixes_two_folders_whose_listings_look_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(storage, "_version_of", lambda info: str(info["size"]))  # a filesystem without times or etags
    roots = [f"memory://model-{uuid.uuid4().hex}" for _ in range(2)]
    for root, weights in zip(roots, (b"1111", b"2222"), strict=True):
        storage.write_bytes(f"{root}/w.bin", weights)
    copies = [Path(storage.local_copy(root)) / "w.bin" for root in roots]
    assert [copy.read_bytes() for copy in copies] == [b"1111", b"2222"]


def test_local_copy_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> bytes:
        raise OSError("gone")

    root = f"memory://model-{uuid.uuid4().hex}"
    storage.write_bytes(f"{root}/w.bin", b"1")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(storage, "read_bytes", fail)
    with pytest.raises(OSError, match="gone"):
        storage.local_copy(root)
    assert [path for folder in tmp_path.iterdir() for path in folder.iterdir()] == []


def test_upload_and_copy_directory_give_the_same_files(root: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("a.txt", "deep/b.txt"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    storage.upload_directory(str(source), storage.join(root, "up"))
    storage.copy_directory(storage.join(root, "up"), str(tmp_path / "down"))
    storage.copy_directory(storage.join(root, "up"), storage.join(root, "again"))
    assert _files_below(tmp_path / "down") == ["a.txt", "deep/b.txt"]
    assert storage.read_text(storage.join(root, "again", "deep/b.txt")) == "deep/b.txt"


def test_copy_directory_on_one_disk_links_and_a_new_write_leaves_the_source_alone(tmp_path: Path) -> None:
    storage.write_bytes(str(tmp_path / "a" / "x"), b"old")
    for _ in range(2):
        storage.copy_directory(str(tmp_path / "a"), str(tmp_path / "b"))
    assert os.stat(tmp_path / "a" / "x").st_ino == os.stat(tmp_path / "b" / "x").st_ino
    storage.write_bytes(str(tmp_path / "b" / "x"), b"new")
    assert (tmp_path / "a" / "x").read_bytes() == b"old"


def test_walk_and_sweep_leave_out_what_a_killed_writer_left(tmp_path: Path) -> None:
    storage.write_bytes(str(tmp_path / "whole"), b"1")
    (tmp_path / ".unfinished-abc").write_bytes(b"2")
    assert [listed.key for listed in storage.walk(str(tmp_path))] == ["whole"]
    storage.sweep(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole"]


def test_written_files_are_readable_by_others_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        storage.write_bytes(str(tmp_path / "a"), b"1")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_walk_key_that_repeats_the_roots_own_path_stays_whole(tmp_path: Path) -> None:
    inner = tmp_path / str(tmp_path).lstrip("/")
    for folder in (tmp_path, inner):
        storage.write_bytes(str(folder / "a.png"), b"1")
    assert sorted(listed.key for listed in storage.walk(str(tmp_path))) == sorted(
        ["a.png", f"{str(tmp_path).lstrip('/')}/a.png"]
    )
