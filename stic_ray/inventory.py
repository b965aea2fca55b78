"""What stands in a store: listed with sizes, removed where no run needs it, cleared of one image's rows."""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from stic_ray import artifacts, leases, storage
from stic_ray.artifacts import RECORD, REFERENCES, UNDERWAY, Artifact
from stic_ray.leases import Lease
from stic_ray.sources import image_id
from stic_ray.trials import TRIALS

_ARTIFACT = re.compile(r"[a-z0-9_]+-[0-9a-f]{16}")
_NAMES_AN_INPUT = ("id", "image_id", "item_id")
_NAMES_A_FILE = ("uri", "image_uri")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One artifact directory of a store. `record` is None while it is unfinished; `runs` are those that refer to it."""

    name: str
    uri: str
    num_bytes: int
    record: dict[str, Any] | None
    runs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Traces:
    """What a store holds of one image.

    `ids` are its own and those of what was made of it, `uris` its files; rows are counted by the artifact's name,
    `models` were trained on some of them, and `below` are the artifacts made with those models, the last ones first.
    """

    ids: frozenset[str]
    uris: frozenset[str]
    num_rows: dict[str, int]
    models: tuple[str, ...]
    below: tuple[str, ...]


def entries(store: str, runs: str) -> list[Entry]:
    """Every artifact of a store, finished or not, by name.

    Raises:
        ValueError: there is no such store, or a run's references cannot be read, so that what it needs is unknown.
    """
    if not storage.is_directory(store):
        raise ValueError(f"store {store} does not exist: give the folder that holds the artifacts")
    users = _users(runs)
    found = []
    for uri in _directories(store):
        name = uri.rpartition("/")[2]
        record = dict(artifacts.load(uri).record) if storage.exists(storage.join(uri, RECORD)) else None
        used_by = tuple(sorted(users.get(name, ())))
        found.append(Entry(name=name, uri=uri, num_bytes=storage.size(uri), record=record, runs=used_by))
    return found


def _directories(store: str) -> list[str]:
    """The artifacts' directories; what else stands in a store is nobody's business here."""
    return [uri for uri in storage.list_directories(store) if _ARTIFACT.fullmatch(uri.rpartition("/")[2])]


def _users(runs: str) -> dict[str, set[str]]:
    """The names of the runs by the artifact that they refer to; a run refers to all that it was made of."""
    users: dict[str, set[str]] = {}
    homes = storage.list_directories(runs)
    homes += [trial for home in homes for trial in storage.list_directories(storage.join(home, TRIALS))]
    files = [storage.join(home, name) for home in homes for name in (REFERENCES, UNDERWAY)]
    for references in files:
        if not storage.exists(references):
            continue
        try:
            uris = list(json.loads(storage.read_text(references)).values())
        except (UnicodeDecodeError, json.JSONDecodeError, AttributeError):
            uris = [None]
        if not all(isinstance(uri, str) for uri in uris):
            raise ValueError(f"{references} is damaged: run that run's command again, it writes it anew")
        for uri in uris:
            users.setdefault(str(uri).rpartition("/")[2], set()).add(references.split("/")[-2])
    return users


def unneeded(found: Iterable[Entry], *, unfinished: bool) -> list[Entry]:
    """The artifacts that no run refers to; unfinished ones only if asked for, since a run would go on with them."""
    return [entry for entry in found if not entry.runs and (unfinished or entry.record is not None)]


def remove(store: str, chosen: Iterable[Entry]) -> None:
    """Remove artifacts, each one's record first, so that a removal that is cut off leaves nothing that looks whole.

    Raises:
        ValueError: a run works in this store, and may be reading what is to go.
    """
    refuse_while_in_use(store)
    for entry in chosen:
        _remove(entry.uri)


def _remove(uri: str) -> None:
    storage.remove(storage.join(uri, RECORD))
    storage.remove(uri)


def refuse_while_in_use(store: str) -> None:
    """Raises ValueError while a live run makes an artifact of this store."""
    for uri in _directories(store):
        holder = leases.holder(uri)
        if holder:
            raise ValueError(f"{uri} is being made by {holder}: wait for it, or end it")


def trace(store: str, image: str) -> Traces:
    """What a store holds of an image, by its id, unfinished artifacts included.

    Raises:
        ValueError: a run works in this store, or nothing in it is of this image.
    """
    if not storage.is_directory(store):
        raise ValueError(f"store {store} does not exist: give the folder that holds the artifacts")
    refuse_while_in_use(store)
    directories = _directories(store)
    ids, uris = {image}, set[str]()
    before = 0
    while len(ids) + len(uris) > before:
        before = len(ids) + len(uris)
        for uri in directories:
            for file in artifacts.data_files(uri):
                _spread(file, ids, uris)
    num_rows = {
        uri.rpartition("/")[2]: sum(m.true_count for m in _masks(uri, ids, uris).values()) for uri in directories
    }
    num_rows = {name: number for name, number in num_rows.items() if number}
    if not num_rows:
        raise ValueError(f"no artifact in {store} holds a row of image {image}")
    found = _committed(directories)
    models = [artifact for artifact in _below(found, num_rows) if artifact.record["kind"] == "model"]
    below = _below(found, [_name(model) for model in models])
    return Traces(
        ids=frozenset(ids),
        uris=frozenset(uris),
        num_rows=num_rows,
        models=tuple(map(_name, models)),
        below=tuple(_name(artifact) for artifact in reversed(below) if artifact not in models),
    )


def forget(store: str, traces: Traces, *, models: bool = False) -> None:
    """Remove an image's rows, and all that was made of them, from every artifact of a store.

    With `models`, the models that were trained on them go first, with all that was made with those. Counts in the
    records follow, so that an audit stays clean. Cut off, it is finished by tracing and forgetting again.

    Raises:
        ValueError: a run works in this store.
    """
    refuse_while_in_use(store)
    if models:  # children first, as below
        for name in (*traces.below, *reversed(traces.models)):
            _remove(storage.join(store, name))
    directories = _directories(store)
    found = _committed(directories)
    # Children first: what is left of a removal that is cut off must still be found from its parents.
    ordered = sorted(found, key=lambda artifact: _depth(artifact, found), reverse=True)
    whole = {artifact.uri: artifact for artifact in ordered}
    for uri in [*(uri for uri in directories if uri not in whole), *whole]:
        masks = _masks(uri, traces.ids, traces.uris)
        if not masks:
            continue
        with Lease(uri, "jobs/store.py"):
            if uri in whole:
                artifacts.drop_rows(whole[uri], masks)
            else:
                artifacts.drop_from_files(masks)


def _committed(directories: Iterable[str]) -> list[Artifact]:
    return [artifacts.load(uri) for uri in directories if storage.exists(storage.join(uri, RECORD))]


def _depth(artifact: Artifact, found: list[Artifact]) -> int:
    parents = artifact.record["parents"].values()
    return max((1 + _depth(parent, found) for parent in found if parent.fingerprint in parents), default=0)


def _spread(file: str, ids: set[str], uris: set[str]) -> None:
    """Add the ids of a file's rows that are of these inputs or files, and the files of those."""
    table = _names(file)
    for row in table.filter(_hits(table, ids, uris)).to_pylist():
        ids.add(row["id"])
        uris.update(row[name] for name in _NAMES_A_FILE if row.get(name))


def _names(file: str) -> pa.Table:
    columns = artifacts.read_schema(file).names
    return artifacts.read_file(file, [name for name in (*_NAMES_AN_INPUT, *_NAMES_A_FILE) if name in columns])


def _hits(table: pa.Table, ids: Set[str], uris: Set[str]) -> pa.Array:
    hit = np.zeros(table.num_rows, dtype=bool)
    for names, wanted in ((_NAMES_AN_INPUT, ids), (_NAMES_A_FILE, uris)):
        for name in names:
            if name in table.column_names:
                hit |= np.array([value in wanted for value in table.column(name).to_pylist()], dtype=bool)
    return pa.array(hit)


def _masks(uri: str, ids: Set[str], uris: Set[str]) -> dict[str, pa.Array]:
    """Which rows of an artifact's files are of these; only files that have some."""
    masks = {f: _hits(_names(f), ids, uris) for f in [*artifacts.data_files(uri), *artifacts.reject_files(uri)]}
    return {file: mask for file, mask in masks.items() if mask.true_count}


def _below(found: list[Artifact], names: Iterable[str]) -> list[Artifact]:
    """The artifacts below those of these names, parents first."""
    touched = {name.rpartition("-")[2] for name in names}
    below = []
    for artifact in sorted(found, key=lambda artifact: _depth(artifact, found)):
        if not touched.isdisjoint(artifact.record["parents"].values()):
            touched.add(artifact.fingerprint)
            below.append(artifact)
    return below


def _name(artifact: Artifact) -> str:
    return artifact.uri.rpartition("/")[2]


def main(argv: list[str] | None = None) -> int:
    """List a store, remove from it, or forget an image; exit status 2 for a mistake in the call."""
    arguments = _parse(argv)
    try:
        with storage.reaching(arguments.store):
            store, runs = storage.absolute(arguments.store), storage.absolute(arguments.runs)
            if arguments.action == "forget":
                _forget(store, arguments)
                return 0
            found = entries(store, runs)
            if arguments.action == "prune":
                if not storage.is_directory(runs):
                    raise ValueError(f"--runs {runs} does not exist: give the folder of the runs that use this store")
                if not any(entry.runs for entry in found):
                    raise ValueError(
                        f"no run in --runs {runs} refers to this store: give the folder of the runs that use it; "
                        "where there are none, remove the store itself"
                    )
                found = unneeded(found, unfinished=arguments.unfinished)
            sys.stdout.write("".join(f"{_line(entry)}\n" for entry in found))
            total = storage.readable(sum(entry.num_bytes for entry in found))
            if arguments.action == "list":
                sys.stdout.write(f"{len(found)} artifacts, {total}\n")
            elif arguments.yes:
                remove(store, found)
                sys.stdout.write(f"{len(found)} artifacts removed, {total}\n")
            else:
                sys.stdout.write(
                    f"{len(found)} artifacts that no run in {runs} refers to, {total}: --yes removes them\n"
                )
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="List, clean up and clear the store that runs share.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in (
        ("list", "every artifact with its size and the runs that refer to it"),
        ("prune", "the artifacts that no run refers to; removes them with --yes"),
        ("forget", "one image's rows, and what was made of them, everywhere; removes them with --yes"),
    ):
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument("store", nargs="?", default="./store", help="the store (default: %(default)s)")
        action.add_argument("--runs", default="./runs", help="where the runs stand (default: %(default)s)")
        if name != "list":
            action.add_argument("--yes", action="store_true", help="remove them")
        if name == "prune":
            action.add_argument("--unfinished", action="store_true", help="also what a run could go on with")
        if name == "forget":
            action.add_argument("--models", action="store_true", help="also the models trained with it, and their work")
            which = action.add_mutually_exclusive_group(required=True)
            which.add_argument("--id", help="the image's id")
            which.add_argument("--key", help="the image's path below its source")
    return parser.parse_args(argv)


def _forget(store: str, arguments: argparse.Namespace) -> None:
    try:
        traces = trace(store, arguments.id if arguments.key is None else image_id(arguments.key))
    except ValueError as error:
        of_key = f" (the id of key {arguments.key!r}: the path below unlabeled.uri)" if arguments.key else ""
        raise ValueError(f"{error}{of_key}") from None
    for uri in sorted(traces.uris):  # two sources may have an image of the same key, and so of the same id
        sys.stdout.write(f"image {uri}\n")
    for name, num_rows in traces.num_rows.items():
        sys.stdout.write(f"{name}: {num_rows} rows\n")
    for name in traces.models:
        sys.stdout.write(f"{name}: a model trained with it\n")
    if arguments.models:
        sys.stdout.write("".join(f"{name}: made with such a model\n" for name in reversed(traces.below)))
    elif traces.models:
        sys.stdout.write("--models removes the models too, and what was made with them: the next run trains again\n")
    if not arguments.yes:
        sys.stdout.write(f"--yes removes {'all this' if arguments.models else 'these rows'}\n")
        return
    forget(store, traces, models=arguments.models)
    sys.stdout.write(
        "Removed. Remove the image from its source too, and repeat the runs' commands: their reports may show it.\n"
    )


def _line(entry: Entry) -> str:
    state = "unfinished" if entry.record is None else str(entry.record["committed_at"])
    rows = "" if entry.record is None else artifacts.amount(entry.record)
    size, runs = storage.readable(entry.num_bytes), ", ".join(entry.runs) or "-"
    return f"{entry.name:<40} {size:>10} {rows:>12}  {state:<20}  {runs}"
