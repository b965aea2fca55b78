"""Files by URI: whole or not there, nothing outside its root, the same on a local disk and on another filesystem."""

import multiprocessing
import os
import stat
import tempfile
import time
import uuid
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import pytest
from fsspec import AbstractFileSystem

from stic_ray import storage


class _Disk(AbstractFileSystem):  # type: ignore[misc]
    """A server's disk: as by sftp, names hold no host, links are of a type of their own and a rename is one step."""

    protocol = "disk"
    root_marker = "/"
    stamped = True
    renames_over = True

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("disk://host").strip("/")

    def ls(self, path: str, detail: bool = True) -> list[Any]:
        names = [f"{path.rstrip('/')}/{name}" for name in os.listdir(path)]
        return [self._describe(name, os.lstat(name)) for name in names] if detail else names

    def info(self, path: str) -> dict[str, Any]:
        return self._describe(self._strip_protocol(path), os.stat(self._strip_protocol(path)))

    def _describe(self, name: str, found: os.stat_result) -> dict[str, Any]:
        kind = "link" if stat.S_ISLNK(found.st_mode) else "directory" if os.path.isdir(name) else "file"
        stamp = {"mtime": found.st_mtime_ns} if self.stamped else {}
        return {"name": name, "type": kind, "size": found.st_size, **stamp}

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        return open(path, mode)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        os.makedirs(path, exist_ok=exist_ok)

    def mv(self, path1: str, path2: str) -> None:
        if not self.renames_over and os.path.exists(path2):
            raise FileExistsError(path2)
        os.rename(path1, path2)

    def _rm(self, path: str) -> None:
        (os.rmdir if os.path.isdir(path) else os.remove)(path)


fsspec.register_implementation("disk", _Disk)


@pytest.fixture(params=["local", "memory", "disk", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return f"{request.getfixturevalue('s3_bucket')}/root"
    return {
        "local": str(tmp_path / "root"),
        "memory": f"memory://test-{uuid.uuid4().hex}",
        "disk": f"disk://host{tmp_path}/root",
    }[request.param]


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


def test_appearing_shows_the_whole_file_at_the_end_and_nothing_of_one_that_fails(root: str) -> None:
    uri = storage.join(root, "a", "b.bin")
    with storage.appearing(uri) as file:
        file.write(b"x" * 100_000)
        file.write(b"y")
        assert not storage.exists(uri)
    assert storage.read_bytes(uri) == b"x" * 100_000 + b"y"
    with pytest.raises(KeyError), storage.appearing(uri) as file:
        file.write(b"part")
        raise KeyError
    assert storage.read_bytes(uri) == b"x" * 100_000 + b"y"
    assert storage.list_files(storage.join(root, "a")) == [uri]


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


def test_write_bytes_to_a_server_shows_no_part_of_a_file_before_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("the connection broke")

    uri = f"disk://host{tmp_path}/deep/x"
    storage.write_bytes(uri, b"old")
    monkeypatch.setattr(_Disk, "mv", fail)
    with pytest.raises(OSError, match="broke"):
        monkeypatch.setattr(_Disk, "exists", lambda self, path: path.rpartition("/")[2].startswith("."))
        storage.write_bytes(uri, b"new")
    assert _files_below(tmp_path) == ["deep/x"] and storage.read_bytes(uri) == b"old"


def test_write_bytes_replaces_where_a_rename_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Disk, "renames_over", False)
    for data in (b"old", b"new"):
        storage.write_bytes(f"disk://host{tmp_path}/x", data)
    assert _files_below(tmp_path) == ["x"] and (tmp_path / "x").read_bytes() == b"new"


def test_write_bytes_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, replace = os.fsync, os.replace

    def note_sync(number: int) -> None:
        done.append("fsync")
        sync(number)

    def note_replace(source: str, target: str) -> None:
        done.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    storage.write_bytes(str(tmp_path / "x"), b"1")
    assert done == ["fsync", "replace"]


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


@pytest.mark.parametrize("root", ["local", "disk"], indirect=True)
def test_list_files_and_walk_follow_links_to_files_as_in_a_cache_of_hugging_face(root: str, tmp_path: Path) -> None:
    blob, snapshot = tmp_path / "root" / "blobs" / "0a", tmp_path / "root" / "snapshots" / "main"
    storage.write_bytes(str(blob), b"{}")
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").symlink_to("../../blobs/0a")
    (snapshot / "nothing.json").symlink_to("../../blobs/0b")
    uri = storage.join(root, "snapshots", "main")
    assert storage.list_files(uri, ".json") == [storage.join(uri, "config.json")]
    before = {listed.key: listed.version for listed in storage.walk(uri)}
    assert before["config.json"] == storage.file_version(storage.join(root, "blobs", "0a"))
    assert "nothing.json" in before
    os.utime(blob, (5, 5))
    after = {listed.key: listed.version for listed in storage.walk(uri)}
    assert after["config.json"] != before["config.json"]


def test_names_that_mean_something_to_fsspec_are_names(tmp_path: Path) -> None:
    for name in ("a::b.png", "::memory", "s3:", "file:x", "memory::y"):
        storage.write_bytes(f"{tmp_path}/{name}/{name}", name.encode())
    found = {listed.key: storage.read_text(listed.uri) for listed in storage.walk(str(tmp_path))}
    assert found == {f"{name}/{name}": name for name in ("a::b.png", "::memory", "s3:", "file:x", "memory::y")}
    with pytest.raises(ValueError, match="cannot open simplecache::s3://b"):
        storage.split("simplecache::s3://b")


def test_s3_names_of_every_kind_are_read_or_refused(s3_bucket: str) -> None:
    storage.write_bytes(f"{s3_bucket}/a::b.png", b"1")
    assert [storage.read_text(listed.uri) for listed in storage.walk(s3_bucket)] == ["1"]
    assert not storage.is_addressable(f"{s3_bucket}/q?versionId=a.png")
    assert storage.is_addressable("/photos/q?versionId=a.png")
    filesystem, bucket = storage.split(s3_bucket)
    filesystem.call_s3("put_object", Bucket=bucket, Key="a//b/1.png", Body=b"1")
    with pytest.raises(ValueError, match=r"nothing between two slashes, below 'a//': rename them"):
        list(storage.walk(s3_bucket))


def test_walk_of_folders_that_link_to_each_other_lists_each_once(tmp_path: Path) -> None:
    for name in "abcdefgh":
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.png").write_bytes(b"1")
        for other in "abcdefgh".replace(name, ""):
            (tmp_path / name / f"to-{other}").symlink_to(tmp_path / other)
    keys = [listed.key for listed in storage.walk(str(tmp_path))]
    assert sorted(key.rpartition("/")[2] for key in keys) == [f"{name}.png" for name in "abcdefgh"]
    assert keys == [listed.key for listed in storage.walk(str(tmp_path))]


def test_walk_follows_linked_directories_and_ends_in_a_circle(tmp_path: Path) -> None:
    photos, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    for folder in (photos / "deep", elsewhere):
        storage.write_bytes(str(folder / "a.png"), b"1")
    (photos / "linked").symlink_to(elsewhere)
    (photos / "deep" / "up").symlink_to(photos)
    (elsewhere / "back").symlink_to(photos)
    (photos / "self").symlink_to("self")
    os.mkfifo(photos / "pipe.png")
    found = {listed.key: storage.read_bytes(listed.uri) for listed in storage.walk(str(photos)) if listed.key != "self"}
    assert found == {"deep/a.png": b"1", "linked/a.png": b"1"}


def test_listings_keep_the_host_that_the_filesystem_leaves_out(tmp_path: Path) -> None:
    uri = f"disk://host{tmp_path}"
    storage.write_bytes(f"{uri}/deep/x", b"1")
    assert storage.list_directories(uri) == [f"{uri}/deep"]
    assert storage.list_files(f"{uri}/deep/") == [f"{uri}/deep/x"]
    assert [listed.uri for listed in storage.walk(uri)] == [f"{uri}/deep/x"]


def test_listing_of_a_whole_filesystem_gives_uris_that_read() -> None:
    first = min(storage.walk("embedded://"), key=lambda listed: listed.key)
    assert first.uri == f"embedded://{first.key}" and storage.read_bytes(first.uri)


def test_model_version_looks_into_files_that_are_listed_by_size_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Disk, "stamped", False)
    monkeypatch.setattr(storage, "_SAMPLE_BYTES", 4)
    uri = f"disk://host{tmp_path}"
    versions = set()
    for data in (b"12", b"13", b"1234___1234", b"1235___1234", b"1234___1235"):
        storage.write_bytes(f"{uri}/w", data)
        versions.add(storage.model_version(uri))
    assert len(versions) == 5


def test_model_version_costs_a_listing_where_that_tells_times(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_bytes(storage.join(root, "deep/w"), b"1")
    storage.write_bytes(storage.join(root, "deep.w"), b"1")
    monkeypatch.delattr(storage, "_hash_ends")
    assert storage.model_version(root) == storage.listing_version(root)


class _NoCredentialsError(Exception):
    """As botocore's, which is no OSError."""


@pytest.mark.parametrize("error", [_NoCredentialsError("Unable to locate\ncredentials"), PermissionError("Forbidden")])
def test_reaching_says_in_one_line_what_a_filesystem_could_not(error: Exception) -> None:
    expected = r"^store s3://b/x cannot be reached: (Unable to locate credentials|Forbidden); check .*credentials"
    with pytest.raises(ValueError, match=expected) as raised, storage.reaching("store s3://b/x"):
        raise error
    assert "\n" not in str(raised.value)


def test_reaching_leaves_faults_of_the_program_and_clear_lines_alone() -> None:
    for error in (KeyError("x"), TypeError("x"), ValueError("clear")):
        with pytest.raises(type(error)) as raised, storage.reaching("store"):
            raise error
        assert raised.value is error


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
    def fail(*_: str) -> None:
        raise OSError("gone")

    root = f"memory://model-{uuid.uuid4().hex}"
    storage.write_bytes(f"{root}/w.bin", b"1")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(storage, "copy_file", fail)
    with pytest.raises(OSError, match="gone"):
        storage.local_copy(root)
    assert [path.suffix for folder in tmp_path.iterdir() for path in folder.iterdir()] == [".lock"]


def _copy_once(root: str, folder: Path, start: Barrier, number: int) -> None:
    tempfile.tempdir = str(folder / "tmp")
    plain = storage.copy_file

    def count(source: str, target: str) -> None:
        time.sleep(0.1)  # long enough for the others to meet it
        (folder / f"copied-{number}").touch()
        plain(source, target)

    storage.copy_file = count
    start.wait()
    (folder / f"got-{number}").write_bytes((Path(storage.local_copy(root)) / "w.bin").read_bytes())


def test_local_copy_of_many_processes_at_once_is_made_by_one(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    root = f"memory://model-{uuid.uuid4().hex}"
    storage.write_bytes(f"{root}/w.bin", b"weights")
    context = multiprocessing.get_context("fork")
    start = context.Barrier(3)
    processes = [context.Process(target=_copy_once, args=(root, tmp_path, start, number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [file.read_bytes() for file in tmp_path.glob("got-*")] == [b"weights"] * 3
    assert len(list(tmp_path.glob("copied-*"))) == 1


def test_upload_and_mirror_directory_give_the_same_files(root: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("a.txt", "deep/b.txt"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    storage.upload_directory(str(source), storage.join(root, "up"))
    storage.mirror_directory(storage.join(root, "up"), str(tmp_path / "down"))
    storage.mirror_directory(storage.join(root, "up"), storage.join(root, "again"))
    assert _files_below(tmp_path / "down") == ["a.txt", "deep/b.txt"]
    assert storage.read_text(storage.join(root, "again", "deep/b.txt")) == "deep/b.txt"


def test_mirror_directory_shares_nothing_with_its_source_and_drops_what_that_lacks(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    for name in ("x", "deep/y"):
        storage.write_bytes(str(source / name), b"old")
    target.mkdir()
    os.link(source / "x", target / "x")  # as an earlier version left it
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (target / "link").symlink_to(tmp_path / "kept")
    storage.mirror_directory(str(source), str(target))
    assert _files_below(target) == ["deep/y", "x"] and _files_below(tmp_path / "kept") == ["file"]
    (target / "x").write_bytes(b"new")
    assert (source / "x").read_bytes() == b"old"
    os.unlink(source / "deep" / "y")
    storage.mirror_directory(str(source), str(target))
    assert _files_below(target) == ["x"] and (target / "x").read_bytes() == b"old"


def test_mirror_directory_again_copies_only_what_differs_in_size_or_time(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    for name in ("same", "changed"):
        storage.write_bytes(str(source / name), b"1")
    storage.mirror_directory(str(source), str(target))
    before = {name: (target / name).stat().st_ino for name in ("same", "changed")}
    storage.write_bytes(str(source / "changed"), b"2")
    os.utime(source / "changed", (5, 5))  # an older one, as where an earlier artifact is taken again
    storage.mirror_directory(str(source), str(target))
    assert (target / "changed").read_bytes() == b"2"
    assert (target / "same").stat().st_ino == before["same"]
    assert (target / "changed").stat().st_ino != before["changed"]


@pytest.mark.parametrize("ends", [("local", "local"), ("local", "memory"), ("memory", "local"), ("disk", "memory")])
def test_copy_file_never_holds_a_whole_file(
    ends: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the whole file was read")

    roots = {
        "local": str(tmp_path / "local"),
        "memory": f"memory://{uuid.uuid4().hex}",
        "disk": f"disk://host{tmp_path}/disk",
    }
    source, target = storage.join(roots[ends[0]], "a"), storage.join(roots[ends[1]], "deep", "b")
    storage.write_bytes(source, b"0123456789")
    with monkeypatch.context() as patch:
        patch.setattr(storage, "_PIECE_BYTES", 3)
        for whole in ("read_bytes", "write_bytes"):
            patch.setattr(storage, whole, refuse)
        storage.copy_file(source, target)
    assert storage.read_bytes(target) == b"0123456789"


def test_copy_file_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(_: object, writing: BinaryIO, __: int) -> None:
        writing.write(b"ne")
        raise OSError("gone")

    storage.write_bytes(str(tmp_path / "x"), b"old")
    storage.write_bytes(str(tmp_path / "from" / "y"), b"new")
    monkeypatch.setattr("shutil.copyfileobj", break_off)
    with pytest.raises(OSError, match="gone"):
        storage.copy_file(str(tmp_path / "from" / "y"), str(tmp_path / "x"))
    assert _files_below(tmp_path) == ["from/y", "x"]
    assert (tmp_path / "x").read_bytes() == b"old"


def test_walk_and_sweep_leave_out_what_a_killed_writer_left(tmp_path: Path) -> None:
    storage.write_bytes(str(tmp_path / "whole"), b"1")
    (tmp_path / ".unfinished-abc").write_bytes(b"2")
    assert [listed.key for listed in storage.walk(str(tmp_path))] == ["whole"]
    for uri in (str(tmp_path), f"disk://host{tmp_path}"):
        (tmp_path / ".unfinished-abc").touch()
        storage.sweep(uri)
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


@pytest.mark.slow
@pytest.mark.parametrize("root", ["local", "s3"], indirect=True)
def test_walk_of_a_folder_of_many_files_is_in_order_and_lists_on_only_when_asked(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{number:04}.png" for number in range(1005)]  # S3 gives 1,000 at a time
    for name in ("a-b/x.png", "a/x.png", *names):
        storage.write_bytes(storage.join(root, name), b"")
    filesystem, path = storage.split(root)
    asked = []
    costly = "call_s3" if hasattr(filesystem, "call_s3") else "info"
    ask = getattr(filesystem, costly)

    def counted(*given: Any, **named: Any) -> Any:
        asked.append(given)
        return ask(*given, **named)

    monkeypatch.setattr(filesystem, costly, counted)
    walked = storage.walk(root)
    assert next(walked).key == names[0]
    assert 1 <= len(asked) < 10
    assert [listed.key for listed in walked] == [*names[1:], "a-b/x.png", "a/x.png"]
    assert path not in filesystem.dircache  # the names of millions of files
