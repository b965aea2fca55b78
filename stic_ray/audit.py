"""Audit of a run: every input of every stage ended in exactly one of output or rejects, and nothing was damaged."""

import argparse
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from stic_ray import artifacts, storage, trials
from stic_ray.artifacts import BASE_PREFIX, REFERENCES, UNDERWAY, Artifact

# How a stage's inputs are found: the parent role that holds them, the parent's column that names an input, the
# column of the stage's own data that names the input a row came from, and how many rows an input gives (0: as many as
# the parent has for it; -1: as its negatives say).
_LINEAGE = {
    "images": ("listing", "id", "id", 1),
    "hashes": ("images", "id", "id", 1),
    "unique": ("images", "id", "id", 1),
    "embeddings": ("images", "id", "image_id", 1),
    "responses": ("images", "id", "item_id", -1),
    "annotated_responses": ("samples", "id", "item_id", -1),
    "pairs": ("responses", "item_id", "item_id", -1),
    "pair_scores": ("pairs", "id", "item_id", 2),
    "pair_tokens": ("pairs", "id", "item_id", 2),
    "pair_gains": ("scores", "item_id", "item_id", 0),
    "pair_selection": ("gains", "item_id", "item_id", 0),
    "sample_scores": ("samples", "id", "item_id", 1),
    "sample_gains": ("scores", "item_id", "item_id", 0),
    "sample_selection": ("gains", "item_id", "item_id", 0),
    "descriptions": ("samples", "id", "id", 1),
    "fitting": ("descriptions", "id", "id", 1),
    "predictions": ("questions", "id", "id", 1),
    "verdicts": ("asks", "id", "id", 1),
}


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What was looked at, and what is wrong with it, in words; `is_underway`: a later attempt has not ended."""

    faults: list[str]
    num_artifacts: int
    num_rows: int
    num_rejects: int
    is_underway: bool


def audit_run(run: str) -> Audit:
    """Look at every artifact of a run, of a sweep also at its trials', and at how each follows from its parents.

    Raises:
        ValueError: the directory holds no finished run.
    """
    is_underway = storage.exists(storage.join(run, UNDERWAY))
    references = _references(run)
    found: dict[str, Artifact] = {}
    faults = []
    for role, uri in references.items():
        try:
            artifact = artifacts.load(uri)
        except ValueError as error:
            faults.append(f"{role}: {error}")
            continue
        found[artifact.fingerprint] = artifact
        faults += [f"{role}: {fault}" for fault in _audit_files(artifact)]
    for artifact in found.values():
        faults += [f"{artifact.uri}: {fault}" for fault in _audit_lineage(artifact, found)]
    counts = [artifact.record["counts"] for artifact in found.values()]
    return Audit(
        faults=faults,
        num_artifacts=len(references),
        num_rows=sum(count["rows"] for count in counts),
        num_rejects=sum(count["rejects"] for count in counts),
        is_underway=is_underway,
    )


def _references(run: str) -> dict[str, str]:
    """The artifacts of a run by role, of a sweep's trials by theirs: each once, under the first role that has it."""
    found = list(artifacts.read_references(run).items())
    for trial in trials.read_all(run):
        home = trials.folder(run, trial.id)
        if storage.exists(storage.join(home, REFERENCES)):  # else it has not come to its first report
            found += [(f"trial {trial.id}: {role}", uri) for role, uri in artifacts.read_references(home).items()]
    first: dict[str, str] = {}
    for role, uri in found:
        first.setdefault(uri, role)
    return {role: uri for uri, role in first.items()}


def _audit_files(artifact: Artifact) -> list[str]:
    faults = []
    if "manifest" in artifact.record:
        return _audit_manifest(artifact)
    ids: Counter[str] = Counter()
    for file in artifacts.data_files(artifact.uri):
        try:
            ids.update(artifacts.read_file(file).column("id").to_pylist())  # all columns: damage may be in any
        except (artifacts.DamagedError, OSError) as error:
            faults.append(f"{file} cannot be read: {error}")
    try:
        num_rejects = len(artifacts.read_rejects(artifact.uri))
    except (artifacts.DamagedError, OSError) as error:
        return [*faults, f"rejects cannot be read: {error}"]
    double = [key for key, count in ids.items() if count > 1]
    if double:
        faults.append(f"{len(double)} ids stand twice, like {double[0]}")
    counts = artifact.record["counts"]
    if counts["rows"] != ids.total():
        faults.append(f"{ids.total()} rows, but the record says {counts['rows']}")
    if not artifact.record["parents"] and artifact.record["inputs"] != ids.total() + num_rejects:
        faults.append(f"{artifact.record['inputs']} inputs were read, but {ids.total() + num_rejects} came out")
    if counts["rejects"] != num_rejects:
        faults.append(f"{num_rejects} rejects, but the record says {counts['rejects']}")
    return faults


def _audit_manifest(artifact: Artifact) -> list[str]:
    faults = []
    written = artifact.record["manifest"]
    present = artifacts.manifest(artifact.uri, sorted({name.split("/")[0] for name in written}))
    for name, digest in written.items():
        if name not in present:
            faults.append(f"{name} is missing")
        elif present[name] != digest:
            faults.append(f"{name} is not what was written")
    return faults


def _audit_lineage(artifact: Artifact, found: Mapping[str, Artifact]) -> list[str]:
    record = artifact.record
    missing = [
        f"parent {role} {fp} is not in the run"
        for role, fp in record["parents"].items()
        if fp not in found and not fp.startswith(BASE_PREFIX)
    ]
    if missing or not record["parents"] or record["stage"] not in _LINEAGE:
        return missing
    role, parent_column, own_column, rows_per_input = _LINEAGE[record["stage"]]
    parent = found[record["parents"][role]]
    try:
        inputs = _values(parent, parent_column)
        outputs = _values(artifact, own_column)
        rejects = {reject.id for reject in artifacts.read_rejects(artifact.uri)}
        if record["stage"] == "pairs":
            rows_per_input = int(parent.record["identity"]["negatives"]["per_positive"])
            # A dispreferred answer beside better ones of its item is a reject by its own id.
            item_of = _items(parent)
            outputs.update(item_of[key] for key in rejects if key in item_of and item_of[key] in outputs)
            rejects -= item_of.keys()
        elif record["stage"] == "predictions":
            # An image that cannot be read is one reject, for all of its questions.
            rejects = {key for key, image in _images(parent).items() if {key, image} & rejects}
        elif "negatives" in record["identity"]:
            rows_per_input = 1 + int(record["identity"]["negatives"]["per_positive"])
    except (artifacts.DamagedError, OSError):
        return []  # said by _audit_files
    faults = []
    lost = inputs.keys() - outputs.keys() - rejects
    if lost:
        faults.append(f"{len(lost)} inputs are lost, like {min(lost)}")
    both = outputs.keys() & rejects
    if both:
        faults.append(f"{len(both)} inputs are both output and reject, like {min(both)}")
    strange = (outputs.keys() | rejects) - inputs.keys()
    if strange:
        faults.append(f"{len(strange)} rows come from no input, like {min(strange)}")
    partial = [key for key, count in outputs.items() if count != (rows_per_input or inputs[key])]
    if partial:
        faults.append(f"{len(partial)} inputs have another number of rows than they must, like {min(partial)}")
    return faults


def _items(responses: Artifact) -> dict[str, str]:
    """Which item each response is of."""
    items: dict[str, str] = {}
    for file in artifacts.data_files(responses.uri):
        table = artifacts.read_file(file, ["id", "item_id"])
        items.update(zip(table.column("id").to_pylist(), table.column("item_id").to_pylist(), strict=True))
    return items


def _images(questions: Artifact) -> dict[str, str]:
    """Which image each question is about."""
    images: dict[str, str] = {}
    for file in artifacts.data_files(questions.uri):
        table = artifacts.read_file(file, ["id", "image_id"])
        images.update(zip(table.column("id").to_pylist(), table.column("image_id").to_pylist(), strict=True))
    return images


def _values(artifact: Artifact, column: str) -> Counter[str]:
    values: Counter[str] = Counter()
    for file in artifacts.data_files(artifact.uri):
        values.update(artifacts.read_file(file, [column]).column(column).to_pylist())
    return values


def main(argv: list[str] | None = None) -> int:
    """Audit a run; exit status 1 when anything is lost, double or damaged, 2 for a wrong call."""
    parser = argparse.ArgumentParser(
        description="Prove that a run, or a sweep with its trials, lost and doubled nothing."
    )
    parser.add_argument("run", help="its directory, like runs/NAME (any fsspec URI)")
    arguments = parser.parse_args(argv)
    try:
        with storage.reaching(arguments.run):
            audit = audit_run(storage.absolute(arguments.run))
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    for fault in audit.faults:
        sys.stdout.write(f"{fault}\n")
    if audit.is_underway:
        sys.stdout.write("A later attempt at this run has not ended; this is the state of the one before.\n")
    of = f"{audit.num_artifacts} artifacts, {audit.num_rows} rows, {audit.num_rejects} rejects"
    verdict = f"{len(audit.faults)} faults" if audit.faults else "nothing lost"
    sys.stdout.write(f"{arguments.run}: {of}: {verdict}\n")
    return 1 if audit.faults else 0


if __name__ == "__main__":
    sys.exit(main())
