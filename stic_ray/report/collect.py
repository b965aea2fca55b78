"""All that a run's report says, from its folder and its store: columns are read, and the rows that are shown.

What a run of a million pairs needs of memory and time is that of a few columns; what is drawn depends on the run's
seed.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stic_ray import artifacts, storage
from stic_ray.artifacts import Artifact
from stic_ray.records import Pair, Reject, from_table, reason_kinds
from stic_ray.report import distribution_page, lmms
from stic_ray.report.curves import Curve, read_curves
from stic_ray.report.distribution_page import DistributionPage
from stic_ray.report.draws import draw_by_group, find_values
from stic_ray.report.folder import RunFolder, read_part
from stic_ray.report.gain_blocks import brief_block, gains_of
from stic_ray.report.markdown import Comparison, StageLine, comparisons_of, main_figures
from stic_ray.report.thumbnails import Thumbnails
from stic_ray.report.vig_page import Block

METRICS = "metrics.jsonl"  # as train.job has it, which imports Ray
SUMMARY = "summary.json"
_MAX_PAIRS, _PAIRS_EACH = 16, 4  # of all groups, of one
_MAX_GROUPS = 12
_REJECTS_EACH, _MAX_REASONS, _MAX_REJECT_IMAGES = 4, 8, 48
_SHOWN_ANSWERS = 8
_PAIR_PX, _REJECT_PX = 240, 112
# The columns of a kind of data that an input may be called by, and the one that says where its image is.
_IMAGES = {
    "Found": (("id",), "uri"),
    "ImageRef": (("id",), "uri"),
    "Response": (("id", "item_id"), "image_uri"),
    "Pair": (("id",), "image_uri"),
    "Sample": (("id",), "image_uri"),
    "Score": (("item_id",), "image_uri"),
    "Gain": (("item_id",), "image_uri"),
    "Question": (("id", "image_id"), "image_uri"),
}


@dataclass(frozen=True, kw_only=True)
class RejectedInput:
    """An input that became a reject: its id, its whole reason, where its image is; the image as a data URI, "" where
    there is none to show."""

    id: str
    reason: str
    uri: str
    image: str


@dataclass(frozen=True, kw_only=True)
class RejectGroup:
    """The inputs that a stage refused for one reason, and some of them."""

    role: str
    reason: str
    num: int
    shown: Sequence[RejectedInput]


@dataclass(frozen=True, kw_only=True)
class ShownPair:
    """A pair with its image as a data URI, or why it is missing."""

    pair: Pair
    image: str
    missing: str


@dataclass(frozen=True, kw_only=True)
class PairGroup:
    """The pairs of an artifact that one negative made, and some of them."""

    role: str
    negative: str
    num: int
    shown: Sequence[ShownPair]


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """A run's report as plain data.

    `attempts` are those at each artifact, by role; `gpu_hour_price` is what an hour of a GPU costs, None where nobody
    said.
    """

    folder: RunFolder
    command: str
    summary: Mapping[str, Any]
    comparisons: Sequence[Comparison]
    stages: Sequence[StageLine]
    rejects: Sequence[RejectGroup] = ()
    pairs: Sequence[PairGroup] = ()
    gains: Sequence[Block] = ()
    curves: Mapping[str, Mapping[str, Curve]] = field(default_factory=dict)
    distribution: DistributionPage | None = None
    lmms: Mapping[str, Any] = field(default_factory=dict)
    attempts: Mapping[str, int] = field(default_factory=dict)
    gpu_hour_price: float | None = None


def collect(folder: RunFolder, gpu_hour_price: float | None = None) -> RunFacts:
    """Everything of a run; the price is its settings' where none is given."""
    if gpu_hour_price is None:
        gpu_hour_price = folder.config.execution.gpu_hour_price
    for artifact in folder.artifacts.values():
        _check_data(artifact)
    summary, images = read_summary(folder.uri), Thumbnails()
    return RunFacts(
        folder=folder,
        command=_command(folder),
        summary=summary,
        comparisons=comparisons_of(summary),
        stages=[stage_line(role, artifact) for role, artifact in folder.artifacts.items()],
        rejects=_rejects(folder, images),
        pairs=_pairs(folder, images),
        gains=[brief_block(folder, role, gains, _SHOWN_ANSWERS) for role, gains in gains_of(folder).items()],
        curves=read_run_curves(folder.uri),
        distribution=read_distribution(folder),
        lmms=lmms.read(folder),
        attempts={role: _count_attempts(artifact) for role, artifact in folder.artifacts.items()},
        gpu_hour_price=gpu_hour_price,
    )


def _check_data(artifact: Artifact) -> None:
    rows = artifact.record["counts"]["rows"] if "manifest" not in artifact.record else 0
    if rows and not artifacts.data_files(artifact.uri):
        raise ValueError(
            f"{artifact.uri} holds no data, and its record says {rows} rows: remove it, and the same command makes it "
            "again"
        )


def read_summary(run: str) -> dict[str, Any]:
    """What a run's models reached; {} where nothing was measured."""
    uri = storage.join(run, SUMMARY)
    return read_part(uri, _parse_summary) if storage.exists(uri) else {}


def _parse_summary(text: str) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads(text)
    comparisons_of(summary), main_figures(summary)
    if not all(isinstance(block, dict) for block in summary.values()):
        raise ValueError("no block of figures")
    return summary


def read_run_curves(run: str) -> dict[str, dict[str, Curve]]:
    """The metrics of all trainings of a run."""
    uri = storage.join(run, METRICS)
    return read_part(uri, lambda text: read_curves(text.splitlines())) if storage.exists(uri) else {}


def read_rows(uri: str) -> list[tuple[int, dict[str, float]]]:
    """The lines of a run's file of metrics: the step, and what is finite of it; [] where nothing was trained."""
    return read_part(uri, lambda text: list(map(_parse_row, text.splitlines()))) if storage.exists(uri) else []


def _parse_row(line: str) -> tuple[int, dict[str, float]]:
    row: dict[str, Any] = json.loads(line)
    return int(row.pop("step")), {name: float(value) for name, value in row.items() if value is not None}


def read_distribution(folder: RunFolder) -> DistributionPage | None:
    """How like other images are to a run's, where somebody asked; None too where it is of other images or another
    model than the run's."""
    uri = storage.join(folder.uri, distribution_page.JSON)
    if "images" not in folder.artifacts or not storage.exists(uri):
        return None
    found = read_part(uri, lambda text: distribution_page.read_figures(json.loads(text)))
    of = (folder.artifacts["images"].fingerprint, storage.absolute(folder.config.model.path))
    return found if (found.images, found.model) == of else None


def stage_line(role: str, artifact: Artifact, *, reused: bool = False) -> StageLine:
    """What an artifact's record says of its making; `reused`: in an earlier run."""
    record = artifact.record
    counts = record["counts"]
    return StageLine(
        name=role,
        fingerprint=artifact.fingerprint,
        made=artifacts.amount(record),
        num_rejects=counts["rejects"],
        rejects_by_reason=counts["rejects_by_reason"],
        seconds=record["seconds"],
        reused=reused,
    )


def _count_attempts(artifact: Artifact) -> int:
    """How often it was begun: a training's record says so, beside another one's data each attempt has its notes."""
    notes = storage.list_files(storage.join(artifact.uri, "attempts"), ".json")
    return max(1, len(artifact.record.get("attempts", [])), len(notes))


def _command(folder: RunFolder) -> str:
    """The command that config.yaml begins with."""
    lines = storage.read_text(storage.join(folder.uri, "config.yaml")).splitlines()
    head = lines[: next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))]
    return "\n".join(re.sub("^# ?", "", line) for line in head)


def _rejects(folder: RunFolder, images: Thumbnails) -> list[RejectGroup]:
    """Rejects of every stage by reason, the commonest reasons of each with a few inputs."""
    drawn = []
    for role, artifact in folder.artifacts.items():
        files = artifacts.reject_files(artifact.uri) if artifact.record["counts"]["rejects"] else []
        groups = draw_by_group(files, "reason", _REJECTS_EACH, seed=folder.config.seed, group_of=reason_kinds)
        for number, group in enumerate(groups):
            if number == _MAX_REASONS:
                break
            drawn.append((role, group.name, group.num, from_table(group.rows, Reject)))
    wanted: dict[str, list[str]] = {}
    for role, _, _, rejects in drawn:
        wanted.setdefault(role, []).extend(reject.id for reject in rejects)
    uris = {role: _image_uris(folder, folder.artifacts[role], ids) for role, ids in wanted.items()}
    left = _MAX_REJECT_IMAGES
    found = []
    for role, reason, num, rejects in drawn:
        shown = []
        for reject in rejects:
            uri = uris[role].get(reject.id, "")
            image = images.take(uri, _REJECT_PX)[0] if uri and left > 0 else ""
            left -= bool(image)
            shown.append(RejectedInput(id=reject.id, reason=reject.reason, uri=uri, image=image))
        found.append(RejectGroup(role=role, reason=reason, num=num, shown=shown))
    return found


def _image_uris(folder: RunFolder, artifact: Artifact, ids: Sequence[str]) -> dict[str, str]:
    """Where the images of an artifact's inputs are, by the inputs' ids: its parents know."""
    parents = set(artifact.record["parents"].values())
    found: dict[str, str] = {}
    for parent in folder.artifacts.values():
        if parent.fingerprint in parents and parent.record["kind"] in _IMAGES:
            keys, value = _IMAGES[parent.record["kind"]]
            left = [each for each in ids if each not in found]
            found |= find_values(artifacts.data_files(parent.uri), keys, value, left)
    return found


def _pairs(folder: RunFolder, images: Thumbnails) -> list[PairGroup]:
    """Pairs of every artifact of pairs, by what made the rejected answer."""
    drawn = [
        (role, group)
        for role, artifact in pair_artifacts(folder)
        for group in draw_by_group(artifacts.data_files(artifact.uri), "negative", _PAIRS_EACH, seed=folder.config.seed)
    ][:_MAX_GROUPS]
    each = max(1, min(_PAIRS_EACH, _MAX_PAIRS // max(len(drawn), 1)))
    found = []
    for role, group in drawn:
        shown = [_shown(pair, images) for pair in from_table(group.rows.slice(0, each), Pair)]
        found.append(PairGroup(role=role, negative=group.name, num=group.num, shown=shown))
    return found


def pair_artifacts(folder: RunFolder) -> Iterator[tuple[str, Artifact]]:
    """A run's artifacts of pairs, with their roles."""
    return ((role, each) for role, each in folder.artifacts.items() if each.record["kind"] == Pair.__name__)


def _shown(pair: Pair, images: Thumbnails) -> ShownPair:
    image, missing = images.take(pair.image_uri, _PAIR_PX)
    return ShownPair(pair=pair, image=image, missing=missing)
