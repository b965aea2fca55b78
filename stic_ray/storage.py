"""Files by URI: any fsspec filesystem, local paths included, and the embedded world's.

Whole files appear at once: written aside and renamed on a local disk, one PUT on an object store.
"""

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

fsspec.register_implementation("embedded", "stic_ray.world.filesystem.WorldFileSystem")

_UNFINISHED = ".unfinished-"
_PIECE_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One file of a listing: `key` is its path below the listed root, `version` what changes when its bytes do."""

    key: str
    uri: str
    version: str


def split(uri: str) -> tuple[Any, str]:
    """The filesystem of a URI and the path on it.

    Raises:
        ValueError: the protocol is unknown or its package is not installed.
    """
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise ValueError(f"cannot open {uri}: {error}") from None
    return filesystem, path


def absolute(uri: str) -> str:
    """A local path made absolute; a URI with a protocol as it is (file:// becomes a path)."""
    filesystem, path = split(uri)
    return path if isinstance(filesystem, LocalFileSystem) else uri


def is_relative(uri: str) -> bool:
    """Whether a location depends on the working directory."""
    path = re.sub(r"^(?:file|local)://", "", uri)
    return "://" not in path and not os.path.isabs(os.path.expanduser(path))


def join(uri: str, *parts: str) -> str:
    """A URI below another one."""
    return "/".join([uri.rstrip("/"), *parts])


def join_inside(root: str, key: str) -> str:
    """The URI of a relative `key` below `root`.

    Raises:
        ValueError: the key is absolute, climbs out of the root or cannot be a file's name.
    """
    if "\0" in key or not _is_utf8(key):
        raise ValueError(f"{key!r} cannot be the name of a file")
    if key.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", key) or "://" in key:
        raise ValueError(f"{key!r} leaves its root {root}: use a path relative to it")
    return join(root, key)


def read_bytes(uri: str) -> bytes:
    """A file's bytes. Raises FileNotFoundError where there is none."""
    filesystem, path = split(uri)
    data: bytes = filesystem.cat_file(path)
    return data


def read_text(uri: str) -> str:
    """A file's UTF-8 text. Raises FileNotFoundError where there is none."""
    return read_bytes(uri).decode("utf-8")


def exists(uri: str) -> bool:
    """Whether a file or directory is there."""
    filesystem, path = split(uri)
    return bool(filesystem.exists(path))


def is_directory(uri: str) -> bool:
    """Whether a directory is there."""
    filesystem, path = split(uri)
    return bool(filesystem.isdir(path))


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file so that readers see all of it or nothing.

    Raises:
        OSError: the place cannot be written (full, a file in a folder's place, no permission).
    """
    filesystem, path = split(uri)
    if not isinstance(filesystem, LocalFileSystem):
        filesystem.pipe_file(path, data)
        return
    with _written_aside(path, data) as aside:
        os.replace(aside, path)


def create_exclusively(uri: str, data: bytes) -> bool:
    """Create a whole file only if it is not there; False when another was first. Atomic on local disks and on s3."""
    filesystem, path = split(uri)
    if not isinstance(filesystem, LocalFileSystem):
        try:
            with filesystem.open(path, "xb") as file:
                file.write(data)
        except FileExistsError:
            return False
        return True
    try:
        with _written_aside(path, data) as aside:
            os.link(aside, path)
    except FileExistsError:
        return False
    return True


@contextmanager
def _written_aside(path: str, data: bytes) -> Iterator[str]:
    """A file with the data beside `path`, to be renamed or linked to it; gone afterwards."""
    parent = os.path.dirname(path)
    os.makedirs(parent, exist_ok=True)
    aside = os.path.join(parent, f"{_UNFINISHED}{uuid.uuid4().hex}")
    try:
        with open(aside, "xb") as file:
            file.write(data)
        yield aside
    finally:
        Path(aside).unlink(missing_ok=True)


def sweep(uri: str) -> None:
    """Remove what killed writers left unfinished directly in a local directory."""
    filesystem, path = split(uri)
    if isinstance(filesystem, LocalFileSystem):
        for unfinished in Path(path).glob(f"{_UNFINISHED}*"):
            unfinished.unlink(missing_ok=True)


@contextmanager
def locked(uri: str) -> Iterator[None]:
    """Hold a lock file for a moment, on local disks; on other filesystems nothing is held."""
    filesystem, path = split(uri)
    if not isinstance(filesystem, LocalFileSystem):
        yield
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def remove(uri: str) -> None:
    """Remove a file or a whole directory; nothing happens where there is none."""
    filesystem, path = split(uri)
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)


def list_files(uri: str, suffix: str = "") -> list[str]:
    """The URIs of the finished files directly in a directory, sorted by name; [] where there is none."""
    filesystem, path = split(uri)
    try:
        entries = filesystem.ls(path, detail=True, refresh=True)
    except FileNotFoundError:
        return []
    names = [str(entry["name"]) for entry in entries if entry["type"] == "file"]
    finished = [n for n in names if n.endswith(suffix) and not os.path.basename(n).startswith(_UNFINISHED)]
    return sorted(_with_protocol(uri, name) for name in finished)


def list_directories(uri: str) -> list[str]:
    """The URIs of the directories directly in a directory, sorted by name; [] where there is none."""
    filesystem, path = split(uri)
    try:
        entries = filesystem.ls(path, detail=True, refresh=True)
    except FileNotFoundError:
        return []
    return sorted(_with_protocol(uri, str(entry["name"])) for entry in entries if entry["type"] == "directory")


def walk(uri: str) -> Iterator[Listed]:
    """Every finished file below a directory, directory by directory.

    Raises:
        FileNotFoundError: there is no such directory.
        NotADirectoryError: it is a file.
        ValueError: a file's name is not UTF-8, so that no record could hold it.
    """
    filesystem, path = split(uri)
    if not filesystem.exists(path):
        raise FileNotFoundError(uri)
    if not filesystem.isdir(path):
        raise NotADirectoryError(uri)
    root = path.rstrip("/") + "/"
    for _, _, files in filesystem.walk(path, detail=True):
        for info in files.values():
            name = str(info["name"])
            key = name.removeprefix(root if name.startswith(root) else root.lstrip("/"))
            if os.path.basename(key).startswith(_UNFINISHED):
                continue
            if not _is_utf8(key):
                raise ValueError(f"{uri} holds a file whose name is not UTF-8, {key!r}: rename or remove it")
            yield Listed(key=key, uri=_with_protocol(uri, name), version=_version_of(info))


def listing_version(uri: str) -> str:
    """A hash of a directory's listing (keys with sizes, etags or times): changes when a file is added or replaced."""
    digest = hashlib.sha256()
    for line in sorted(f"{listed.key}\0{listed.version}" for listed in walk(uri)):
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()[:32]


def hash_file(uri: str) -> str:
    """sha256 of a file, read piece by piece: weights are larger than memory."""
    filesystem, path = split(uri)
    digest = hashlib.sha256()
    with filesystem.open(path, "rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def file_version(uri: str) -> str:
    """What changes when one file's bytes do. Raises FileNotFoundError where there is none."""
    filesystem, path = split(uri)
    return _version_of(filesystem.info(path))


def local_copy(uri: str) -> str:
    """A local directory with a remote directory's files: itself when local, else a copy made once a node.

    Raises:
        FileNotFoundError: there is no such directory.
    """
    filesystem, path = split(uri)
    if isinstance(filesystem, LocalFileSystem):
        return path
    # The URI too: two models have files of the same names and sizes, and not every filesystem lists etags or times.
    version = hashlib.sha256(f"{uri}\0{listing_version(uri)}".encode()).hexdigest()[:32]
    target = Path(tempfile.gettempdir()) / f"stic_ray-{os.getuid()}" / version
    if target.exists():
        return str(target)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=target.parent))
    try:
        for listed in walk(uri):
            destination = aside / join_inside(".", listed.key)
            destination.parent.mkdir(parents=True, exist_ok=True)
            destination.write_bytes(read_bytes(listed.uri))
        aside.rename(target)
    except BaseException:
        shutil.rmtree(aside)
        if not target.exists():  # else another process of this node was first
            raise
    return str(target)


def upload_directory(source: str, uri: str) -> None:
    """Copy a local directory's files below a URI."""
    for path in sorted(Path(source).rglob("*")):
        if path.is_file():
            write_bytes(join(uri, path.relative_to(source).as_posix()), path.read_bytes())


def copy_directory(source: str, target: str) -> None:
    """Copy a directory's files; on one local disk they are hard links, which cost no space."""
    source_local = isinstance(split(source)[0], LocalFileSystem)
    target_local = isinstance(split(target)[0], LocalFileSystem)
    for listed in walk(source):
        destination = join(target, listed.key)
        if source_local and target_local and _link(split(listed.uri)[1], split(destination)[1]):
            continue
        write_bytes(destination, read_bytes(listed.uri))


def _link(source: str, target: str) -> bool:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk
        return False
    return True


def _version_of(info: dict[str, Any]) -> str:
    names = ("version", "ETag", "etag", "mtime", "LastModified", "last_modified", "created")
    return f"{info.get('size')}:{next((info[name] for name in names if info.get(name)), None)}"


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # how Python holds the other bytes of a local name
        return False
    return True


def _with_protocol(uri: str, name: str) -> str:
    protocol, separator, _ = uri.partition("://")
    if not separator or protocol == "file":
        return name
    return name if "://" in name else f"{protocol}://{name.lstrip('/')}"
