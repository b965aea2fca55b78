"""Files by URI: any fsspec filesystem, local paths included, and the embedded world's.

Whole files appear at once: one PUT on an object store, written aside and renamed everywhere else.
"""

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
from fsspec.implementations.local import LocalFileSystem

fsspec.register_implementation("embedded", "stic_ray.world.filesystem.WorldFileSystem")

_PROTOCOL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_UNFINISHED = ".unfinished-"
_PIECE_BYTES = 16 << 20
_SAMPLE_BYTES = 64 << 10
_NO_STAMP = ":None"  # how the version of a file ends whose filesystem lists neither etag nor time
# Their files appear at close, and a rename would be a copy. Elsewhere files are renamed, in one step where the server
# has one.
_OBJECT_STORES = frozenset(
    {
        "s3",
        "s3a",
        "gs",
        "gcs",
        "abfs",
        "abfss",
        "az",
        "adl",
        "oci",
        "ocilake",
        "oss",
        "obs",
        "cos",
        "r2",
        "b2",
        "memory",
    }
)


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One file of a listing: `key` is its path below the listed root, `version` what changes when its bytes do.

    `num_bytes` is 0 where the listing does not say.
    """

    key: str
    uri: str
    version: str
    num_bytes: int


def split(uri: str) -> tuple[Any, str]:
    """The filesystem of a URI and the path on it; a path without a protocol is local, whatever stands in it.

    Raises:
        ValueError: the protocol is unknown or its package is not installed.
    """
    found = _PROTOCOL.match(uri)
    protocol = found[1] if found else "file"
    if not found and "://" in uri and not uri.startswith("/"):
        raise ValueError(f"cannot open {uri}: give one protocol, like s3://")
    try:
        kind = fsspec.get_filesystem_class(protocol)
        # Not fsspec.core.url_to_fs: to it `::` in a name chains filesystems.
        filesystem = fsspec.filesystem(protocol, **kind._get_kwargs_from_urls(uri))
        if protocol in ("http", "https"):
            urlsplit(uri)  # what is no address is found out here, and not where it is opened
    except Exception as error:  # noqa: BLE001 - packages raise whatever they like for what is missing in an address
        raise ValueError(f"cannot open {uri}: {error}") from None
    return filesystem, kind._strip_protocol(uri)


def is_addressable(uri: str) -> bool:
    """Whether a URI means the file of that name: to s3fs `?versionId=` in it names a version of another one."""
    return "?versionId=" not in uri or is_local(uri)


@contextmanager
def reaching(what: str) -> Iterator[None]:
    """Turns what a filesystem's package raises (no credentials, no network, no permission) into one line.

    Raises:
        ValueError: `what` cannot be reached.
    """
    try:
        yield
    except ValueError:
        raise
    except Exception as error:  # botocore.exceptions.NoCredentialsError, among others, is no OSError
        if not isinstance(error, OSError) and type(error).__module__ == "builtins":
            raise
        reason = " ".join((str(error) or type(error).__name__).split())
        raise ValueError(
            f"{what} cannot be reached: {reason}; check the address, its permissions and, for a bucket, the "
            "credentials of this machine"
        ) from error


def is_local(uri: str) -> bool:
    """Whether a location is on a disk of this machine, network disks included."""
    return isinstance(split(uri)[0], LocalFileSystem)


def absolute(uri: str) -> str:
    """A local path made absolute; a URI with a protocol as it is (file:// becomes a path)."""
    with reaching(uri):
        filesystem, path = split(uri)
    return path if isinstance(filesystem, LocalFileSystem) else uri


def is_relative(uri: str) -> bool:
    """Whether a location depends on the working directory."""
    path = re.sub(r"^(?:file|local)://", "", uri)
    return "://" not in path and not os.path.isabs(os.path.expanduser(path))


def join(uri: str, *parts: str) -> str:
    """A URI below another one."""
    return "/".join([uri[:-1] if uri.endswith("://") else uri.rstrip("/"), *parts])


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


def readable(num_bytes: float) -> str:
    """A number of bytes in the unit that it is read in."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def size(uri: str) -> int:
    """Bytes of a file, or of all files below a directory."""
    filesystem, path = split(uri)
    return int(filesystem.du(path))


def is_directory(uri: str) -> bool:
    """Whether a directory is there."""
    return _is_directory(*split(uri))


def is_plain_file(uri: str) -> bool:
    """Whether what is on a local disk there, or what a link there leads to, is a file with bytes of its own."""
    return os.path.isfile(split(uri)[1])


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file so that readers see all of it or nothing.

    Object stores: one PUT. Elsewhere: written aside, then renamed; where the server renames to a new name only (smb),
    a file that is replaced is gone for a moment.

    Raises:
        OSError: the place cannot be written (full, a file in a folder's place, no permission).
    """
    filesystem, path = split(uri)
    if _is_object_store(filesystem):
        filesystem.pipe_file(path, data)
        return
    with _appearing(filesystem, path) as file:
        file.write(data)


def create_exclusively(uri: str, data: bytes) -> bool:
    """Create a whole file only if it is not there; False when another was first. Atomic on local disks and on s3."""
    filesystem, path = split(uri)
    if not isinstance(filesystem, LocalFileSystem):
        if not _is_object_store(filesystem):
            filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
        try:
            with filesystem.open(path, "xb") as file:
                file.write(data)
        except FileExistsError:
            return False
        return True
    try:
        with _aside(filesystem, path) as aside:
            with open(aside, "xb") as file:
                file.write(data)
                _sync(file)
            os.link(aside, path)
    except FileExistsError:
        return False
    return True


def _is_object_store(filesystem: Any) -> bool:
    protocols = filesystem.protocol
    return not _OBJECT_STORES.isdisjoint([protocols] if isinstance(protocols, str) else protocols)


@contextmanager
def appearing(uri: str) -> Iterator[Any]:
    """A file open for writing whatever its size, that readers see whole at the end of the block or not at all."""
    filesystem, path = split(uri)
    if not _is_object_store(filesystem):
        with _appearing(filesystem, path) as file:
            yield file
        return
    with tempfile.NamedTemporaryFile() as between:  # what is open on an object store appears also where the block fails
        yield between
        between.flush()
        filesystem.put_file(between.name, path)


@contextmanager
def _appearing(filesystem: Any, path: str) -> Iterator[Any]:
    """A file open for writing that gets its name, whole, at the end of the block; nothing stays where that fails."""
    with _aside(filesystem, path) as aside:
        with filesystem.open(aside, "wb") as file:
            yield file
            if isinstance(filesystem, LocalFileSystem):
                _sync(file)
        _rename(filesystem, aside, path)


@contextmanager
def _aside(filesystem: Any, path: str) -> Iterator[str]:
    """A name beside `path` for what is unfinished; what stands under it is gone afterwards."""
    parent = path.rpartition("/")[0]
    if parent:
        filesystem.makedirs(parent, exist_ok=True)
    aside = f"{parent}/{_UNFINISHED}{uuid.uuid4().hex}"
    try:
        yield aside
    finally:
        if filesystem.exists(aside):
            filesystem.rm_file(aside)


def _sync(file: Any) -> None:
    """Bring a file's bytes to the disk: else a name may outlive a power cut, and its bytes not. 0.3 ms on an SSD."""
    file.flush()
    os.fsync(file.fileno())


def _rename(filesystem: Any, source: str, target: str) -> None:
    if isinstance(filesystem, LocalFileSystem):
        os.replace(source, target)
        return
    try:
        filesystem.mv(source, target)
    except OSError:
        if not filesystem.exists(target):
            raise
        filesystem.rm_file(target)  # smb renames to a new name only
        filesystem.mv(source, target)


def sweep(uri: str) -> None:
    """Remove what killed writers left unfinished directly in a directory."""
    filesystem, path = split(uri)
    if _is_object_store(filesystem) or not _is_directory(filesystem, path):
        return
    for name, info in _entries(filesystem, path):
        if name.startswith(_UNFINISHED):
            with suppress(FileNotFoundError):
                filesystem.rm_file(info["name"])


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
        with suppress(FileNotFoundError):  # another one was faster
            filesystem.rm(path, recursive=True)


def list_files(uri: str, suffix: str = "") -> list[str]:
    """The URIs of the finished files directly in a directory, links followed, by name; [] where there is none."""
    return [
        join(_root(uri), name)
        for name, kind in _names(uri)
        if kind == "file" and name.endswith(suffix) and not name.startswith(_UNFINISHED)
    ]


def list_directories(uri: str) -> list[str]:
    """The URIs of the directories directly in a directory, sorted by name; [] where there is none."""
    return [join(_root(uri), name) for name, kind in _names(uri) if kind == "directory"]


def _names(uri: str) -> list[tuple[str, str]]:
    filesystem, path = split(uri)
    try:
        return sorted((name, str(info["type"])) for name, info in _entries(filesystem, path))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _root(uri: str) -> str:
    """What the URIs of a listing begin with: as given, since not every filesystem's listing names its host."""
    filesystem, path = split(uri)
    return str(path) if isinstance(filesystem, LocalFileSystem) else uri


def _entries(filesystem: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """What stands directly in a directory: name and info, a link's info being its target's; files in name order.

    A folder may hold millions of files: on local disks only their names are held, of a bucket's listing a page.
    """
    for info in _infos(filesystem, path):
        full = str(info["name"]).rstrip("/")
        if full == path.rstrip("/"):  # an object store's marker of the directory, or `path` is a file
            continue
        if info["type"] not in ("file", "directory"):  # fsspec: "other" on a local disk, "link" by sftp
            with suppress(OSError):  # a link to nothing stays what it is
                info = filesystem.info(info["name"])
        yield full.rpartition("/")[2], info


def _infos(filesystem: Any, path: str) -> Iterator[dict[str, Any]]:
    if isinstance(filesystem, LocalFileSystem):
        return _local_infos(filesystem, path)
    if _is_s3(filesystem) and path:
        return _s3_infos(filesystem, path)
    filesystem.invalidate_cache(path)
    found = filesystem.ls(path, detail=True)
    filesystem.invalidate_cache(path)  # it would keep the names of millions of files
    return iter(sorted(found, key=lambda info: str(info["name"])))


def _local_infos(filesystem: LocalFileSystem, path: str) -> Iterator[dict[str, Any]]:
    with os.scandir(path) as found:
        names = sorted(entry.name for entry in found)
    for name in names:
        full = os.path.join(path, name)
        try:
            yield filesystem.info(full)
        except OSError:  # a link to nothing or in a circle, or gone since
            with suppress(FileNotFoundError):
                status = os.lstat(full)
                yield {"name": full, "type": "other", "size": 0, "islink": True, "mtime": status.st_mtime}


def _is_s3(filesystem: Any) -> bool:
    return "s3" in filesystem.protocol and hasattr(filesystem, "call_s3")


def _s3_pages(filesystem: Any, path: str) -> Iterator[dict[str, Any]]:
    """What S3 says of a directory, up to 1,000 names at a time; s3fs itself would gather and keep them all."""
    bucket, key, _ = filesystem.split_path(path)
    prefix = f"{key.strip('/')}/" if key else ""
    further: dict[str, str] = {}
    while True:
        page = filesystem.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, Delimiter="/", **further)
        yield page
        if not page.get("IsTruncated"):
            return
        further = {"ContinuationToken": page["NextContinuationToken"]}


def _s3_infos(filesystem: Any, path: str) -> Iterator[dict[str, Any]]:
    bucket = filesystem.split_path(path)[0]
    for page in _s3_pages(filesystem, path):
        for folder in page.get("CommonPrefixes", []):
            if folder["Prefix"] == "/" or folder["Prefix"].endswith("//"):
                raise ValueError(
                    f"s3://{bucket} holds keys with nothing between two slashes, below {folder['Prefix']!r}: "
                    "rename them"
                )
            yield {"name": f"{bucket}/{folder['Prefix'][:-1]}", "type": "directory"}
        for found in page.get("Contents", []):
            yield {**found, "name": f"{bucket}/{found['Key']}", "type": "file", "size": found["Size"]}


def _is_directory(filesystem: Any, path: str) -> bool:
    if not (_is_s3(filesystem) and path):
        return bool(filesystem.isdir(path))
    if "/" not in path.strip("/"):
        return bool(filesystem.exists(path))
    page = next(_s3_pages(filesystem, path))
    return bool(page.get("Contents") or page.get("CommonPrefixes"))


def walk(uri: str) -> Iterator[Listed]:
    """Every finished file below a directory, directory by directory, in the same order on every filesystem.

    Links to files are followed, on local disks links to directories too, each directory once, by whichever path comes
    first. A link to nothing is listed, so that whoever reads it says what it met.

    Raises:
        FileNotFoundError: there is no such directory.
        NotADirectoryError: it is a file.
        ValueError: a file's name is not UTF-8, so that no record could hold it.
    """
    filesystem, path = split(uri)
    if not filesystem.exists(path):
        raise FileNotFoundError(uri)
    if not _is_directory(filesystem, path):
        raise NotADirectoryError(uri)
    local = isinstance(filesystem, LocalFileSystem)
    root = _root(uri)
    pending = [(path, "")]
    seen: set[str] = set()
    while pending:
        directory, prefix = pending.pop()
        if local:
            real = os.path.realpath(directory)
            if real in seen:
                continue
            seen.add(real)
        below = []
        for name, info in _entries(filesystem, directory):
            key = prefix + name
            if info["type"] == "directory":
                below.append((str(info["name"]), f"{key}/"))
            elif _is_file(info) and not name.startswith(_UNFINISHED):
                if not _is_utf8(key):
                    raise ValueError(f"{uri} holds a file whose name is not UTF-8, {key!r}: rename or remove it")
                size = int(info.get("size") or 0)
                yield Listed(key=key, uri=join(root, key), version=_version_of(info), num_bytes=size)
        pending += sorted(below)


def _is_file(info: dict[str, Any]) -> bool:
    return info["type"] in ("file", "link") or bool(info.get("islink"))


def listing_version(uri: str) -> str:
    """A hash of a directory's listing (keys with sizes, etags or times): changes when a file is added or replaced."""
    digest = hashlib.sha256()
    for listed in walk(uri):
        digest.update(f"{listed.key}\0{listed.version}\n".encode())
    return digest.hexdigest()[:32]


def model_version(uri: str) -> str:
    """`listing_version`, and of files that are listed by size alone also some bytes: two models have the same sizes."""
    digest = hashlib.sha256()
    for listed in sorted(walk(uri), key=lambda listed: listed.key):
        sampled = f":{_hash_ends(listed.uri)}" if listed.version.endswith(_NO_STAMP) else ""
        digest.update(f"{listed.key}\0{listed.version}{sampled}\n".encode())
    return digest.hexdigest()[:32]


def _hash_ends(uri: str) -> str:
    """sha256 of a file's first and last bytes, or of all of a small one."""
    filesystem, path = split(uri)
    size = filesystem.size(path)
    with filesystem.open(path, "rb") as file:
        digest = hashlib.sha256(file.read(_SAMPLE_BYTES))
        if size is not None and size > _SAMPLE_BYTES:
            file.seek(max(_SAMPLE_BYTES, size - _SAMPLE_BYTES))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def read_beginning(uri: str, num_bytes: int) -> tuple[bytes, int]:
    """A file's first bytes, and how many it has in all. Raises FileNotFoundError where there is none."""
    filesystem, path = split(uri)
    with filesystem.open(path, "rb") as file:
        return file.read(num_bytes), int(filesystem.size(path))


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
    # The URI too: whoever reads a model's files may not see another one's, whatever the listings say.
    version = hashlib.sha256(f"{uri}\0{model_version(uri)}".encode()).hexdigest()[:32]
    target = Path(tempfile.gettempdir()) / f"stic_ray-{os.getuid()}" / version
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(f"{target}.lock"):
        if target.exists():
            return str(target)
        aside = Path(f"{target}.part")
        shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed: nobody else is here
        try:
            for listed in walk(uri):
                copy_file(listed.uri, str(aside / join_inside(".", listed.key)))
            aside.rename(target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return str(target)


def upload_directory(source: str, uri: str) -> None:
    """Copy a local directory's files below a URI."""
    for path in sorted(Path(source).rglob("*")):
        if path.is_file():
            copy_file(str(path), join(uri, path.relative_to(source).as_posix()))


def mirror_directory(source: str, target: str) -> None:
    """Make a directory hold a copy of another one's files and no other file.

    Between local disks a file of the same size and time stays, as with rsync: the copy takes over its source's time.
    """
    local = is_local(source) and is_local(target)
    files = list(walk(source))
    keys = {listed.key for listed in files}
    if exists(target) and any(listed.key not in keys for listed in walk(target)):
        remove(target)  # as a whole: what a link of the user's points to must stay
    for listed in files:
        destination = join(target, listed.key)
        if not local:
            copy_file(listed.uri, destination)
            continue
        before = os.stat(listed.uri)
        if not _is_copy(destination, before):
            copy_file(listed.uri, destination)
            os.utime(destination, ns=(before.st_atime_ns, before.st_mtime_ns))


def _is_copy(path: str, source: os.stat_result) -> bool:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    same = (found.st_size, found.st_mtime_ns) == (source.st_size, source.st_mtime_ns)
    return same and found.st_ino != source.st_ino  # a hard link: writing to it would change the source


def copy_file(source: str, target: str) -> None:
    """Copy a file in pieces, since weights are larger than memory; the target appears whole."""
    filesystem, path = split(target)
    origin, origin_path = split(source)
    if not _is_object_store(filesystem):
        with origin.open(origin_path, "rb") as reading, _appearing(filesystem, path) as writing:
            shutil.copyfileobj(reading, writing, _PIECE_BYTES)
    elif origin is filesystem:
        filesystem.cp_file(origin_path, path)
    elif isinstance(origin, LocalFileSystem):
        filesystem.put_file(origin_path, path)
    else:
        with tempfile.NamedTemporaryFile() as between:
            origin.get_file(origin_path, between.name)
            filesystem.put_file(between.name, path)


def _version_of(info: dict[str, Any]) -> str:
    names = ("version", "ETag", "etag", "mtime", "LastModified", "last_modified", "created")
    return f"{info.get('size')}:{next((info[name] for name in names if info.get(name)), None)}"


def as_utf8(name: str) -> str:
    """A name that UTF-8 can hold: other bytes of it (lone surrogates to Python) are written out as \\udcXX."""
    return name.encode(errors="backslashreplace").decode()


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # how Python holds the other bytes of a local name
        return False
    return True
