"""How fast each stage of a run is, from the records of runs that were made, or from figures that a user wrote down.

A stage takes `start_s` whatever it does (Ray Data, actors and their model, surveys, commit), and then `unit_s` of a
slot for each of its units. Records tell the two apart: they hold the seconds of the whole and those between the first
unit in a worker and the last out of one. The graph is the runs' own: which artifact was made of which.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, median
from typing import Any, Literal

import yaml

from stic_ray import artifacts, storage
from stic_ray.artifacts import MODEL, Artifact
from stic_ray.config import Config, parse_settings, read_yaml, to_tree
from stic_ray.config.checks import require
from stic_ray.planner.estimates import pooled_spread
from stic_ray.report.folder import RunFolder, open_run
from stic_ray.report.sweep_folder import is_sweep
from stic_ray.train.job import METRICS

Kind = Literal["driver", "tasks", "pool", "training"]
Source = Literal["images", "samples", "annotated", "questions", "once"]
_SOURCES: dict[str, Source] = {
    "listing": "images",
    "samples": "samples",
    "annotations": "annotated",
    "questions": "questions",
    "imported_pairs": "once",
}
_NO_DATA = ("model", "adapter")  # parents of an artifact that say nothing of how much there is
_IN = ("prompt_tokens", "judge_prompt_tokens", "scored_tokens")
_OUT = ("new_tokens", "judge_new_tokens")
_REQUESTS = ("requests", "judge_requests")
_AT_LEAST_0 = (
    *("units", "start_s", "unit_s", "prepare_s", "requests", "tokens_in", "tokens_out", "bytes", "fixed_bytes"),
    *("cost", "gpus", "items", "step_tokens"),
)
_ON_CPUS = ("pair_tokens", "sample_tokens", "fitting")
_AHEAD = 2  # steps that are read ahead
_FIGURES = 4  # significant ones of what is written down


@dataclass(frozen=True, kw_only=True)
class StageRate:
    """A stage of a run, by its role: of `units` units (of a training: steps) that grow with its `source`.

    `start_s` and `unit_s` are as in the module's text; `prepare_s` is a core's for a unit beside the slots. Requests,
    tokens and bytes are a unit's, `fixed_bytes` whatever the units. `gpus` are those of an actor where it was measured,
    null where nobody says. Of a training `items` are what it trained on,
    `workers` how many trained, and `step_tokens` those of a step. `together` names what is made at the same time.
    The rate is the mean of what was `measured` so many times.
    """

    role: str
    stage: str
    parents: tuple[str, ...]
    source: Source
    kind: Kind
    units: float
    start_s: float
    unit_s: float
    told_by: str
    prepare_s: float = 0.0
    requests: float = 0.0
    tokens_in: float = 0.0
    tokens_out: float = 0.0
    bytes: float = 0.0
    fixed_bytes: float = 0.0
    cost: float = 0.0
    on_gpu: bool = False
    gpus: float | None = None
    items: float = 0.0
    workers: int = 1
    step_tokens: float = 0.0
    global_batch: int = 1
    together: str = ""
    measured: int = 1

    def __post_init__(self) -> None:
        for name in _AT_LEAST_0:
            value = getattr(self, name)
            require(value is None or value >= 0, f"{self.role}: {name}", value, "0 or more")
        for name in ("workers", "global_batch", "measured"):
            require(getattr(self, name) >= 1, f"{self.role}: {name}", getattr(self, name), "1 or more")


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Of all stages in the order in which they are made; `inputs` are the numbers that they were measured with,
    `image_bytes` an image's mean size.

    `start_spread` and `unit_spread` are relative standard deviations, estimated with so many degrees of `freedom`; 0
    degrees stand for: nobody knows.
    """

    stages: tuple[StageRate, ...]
    inputs: Mapping[str, float]
    image_bytes: float = 0.0
    start_spread: float = 0.0
    unit_spread: float = 0.0
    freedom: int = 0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("image_bytes", "start_spread", "unit_spread", "freedom"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")


def read_rates(uri: str) -> Rates:
    """Rates from a YAML file, as `write_rates` gives it.

    Raises:
        ValueError: the file is not there, or a figure is wrong or missing.
    """
    try:
        text = storage.read_text(storage.absolute(uri))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise ValueError(f"--rates {uri} is no file: have one written by --calibrate N --write-rates {uri}") from None
    rates = parse_settings(Rates, read_yaml(text, uri), uri)
    if not rates.stages:
        raise ValueError(f"{uri}: stages is empty: give the rate of each stage")
    return rates


def write_rates(rates: Rates) -> str:
    """Rates as YAML, for a user to correct; every stage says who told it."""
    return yaml.safe_dump(_rounded(to_tree(rates)), sort_keys=False)


def _rounded(tree: Any) -> Any:
    if isinstance(tree, float):
        return float(f"{tree:.{_FIGURES}g}")
    if isinstance(tree, Mapping):
        return {name: _rounded(value) for name, value in tree.items()}
    return [_rounded(value) for value in tree] if isinstance(tree, list) else tree


def rates_of_runs(runs: Sequence[str]) -> Rates:
    """Rates from the folders of finished runs of one configuration, of whatever sizes; the last gives the graph.

    Raises:
        ValueError: a run is not finished, is a sweep, or was made before records told how long workers worked.
    """
    for run in runs:
        if is_sweep(storage.absolute(run)):
            raise ValueError(f"--from {run} is a sweep's folder: give a run made with its best.yaml, or --calibrate N")
    folders = [open_run(storage.absolute(run)) for run in runs]
    measured = [_measure(folder) for folder in folders]
    by_role = {rate.role: rate for rate in measured[-1]}
    for rates in measured:
        other = {rate.role for rate in rates} ^ by_role.keys()
        if other:
            raise ValueError(f"{', '.join(runs)} are not of one configuration: {', '.join(sorted(other))} differ")
    groups: dict[str, list[StageRate]] = {}
    for rate in (rate for rates in measured for rate in rates):
        groups.setdefault(_alike(rate), []).append(rate)
    start_spread, start_freedom = pooled_spread([rate.start_s for rate in each] for each in groups.values())
    unit_spread, unit_freedom = pooled_spread([rate.unit_s for rate in each] for each in groups.values())
    pooled = [_pooled(rate, groups[_alike(rate)]) for rate in measured[-1]]
    return Rates(
        stages=tuple(pooled),
        inputs=_inputs(folders[-1]),
        image_bytes=_image_bytes(folders[-1]),
        start_spread=start_spread,
        unit_spread=unit_spread,
        freedom=min(start_freedom, unit_freedom),
        notes=tuple(_notes(pooled, folders[-1].config)),
    )


def _alike(rate: StageRate) -> str:
    """What rates are measurements of the same thing: a stage by several models is one; two trainings are two."""
    return rate.role if rate.kind == "training" else rate.stage


def _pooled(rate: StageRate, alike: Sequence[StageRate]) -> StageRate:
    """A rate with the means of all measurements of it; a unit counts by how many units said it."""
    told = dict.fromkeys(each.told_by for each in alike)
    units = sum(each.units for each in alike)
    return replace(
        rate,
        start_s=mean(each.start_s for each in alike),
        unit_s=sum(each.unit_s * each.units for each in alike) / units if units else 0.0,
        prepare_s=sum(each.prepare_s * each.units for each in alike) / units if units else 0.0,
        measured=len(alike),
        told_by=", ".join(told),
    )


def _notes(rates: Iterable[StageRate], config: Config) -> Iterable[str]:
    """Where the measured runs were too small to tell."""
    few = [
        rate.role
        for rate in rates
        if rate.kind == "pool" and rate.units < config.execution.batch_size * config.execution.pool.max_size
    ]
    if few:
        yield f"fewer than a batch an actor was measured of {', '.join(few)}: a larger calibration tells more"


# A run's records


def _inputs(folder: RunFolder) -> dict[str, float]:
    """What a run had of each source."""
    found: dict[str, float] = {}
    for role, artifact in folder.artifacts.items():
        if role in _SOURCES:
            found[_SOURCES[role]] = float(_amount(artifact))
    return found


def _image_bytes(folder: RunFolder) -> float:
    """The mean size of an unlabeled image's file; 0 where there are none."""
    if "images" not in folder.artifacts:
        return 0.0
    files = artifacts.data_files(folder.artifacts["images"].uri)
    sizes = [size for file in files for size in artifacts.read_file(file, ["num_bytes"])["num_bytes"].to_pylist()]
    return mean(sizes) if sizes else 0.0


def _amount(artifact: Artifact) -> int:
    counts = artifact.record["counts"]
    return int(counts["rows"] + counts["rejects"])


def _measure(folder: RunFolder) -> list[StageRate]:
    by_fingerprint = {artifact.fingerprint: role for role, artifact in folder.artifacts.items()}
    rates: dict[str, StageRate] = {}
    for role, artifact in folder.artifacts.items():
        parents = {
            name: by_fingerprint[fingerprint]
            for name, fingerprint in artifact.record["parents"].items()
            if fingerprint in by_fingerprint
        }
        data = tuple(dict.fromkeys(parent for name, parent in parents.items() if name not in _NO_DATA))
        source = _SOURCES.get(role) or next((rates[parent].source for parent in data), "once")
        known = {"role": role, "stage": artifact.record["stage"], "parents": tuple(parents.values()), "source": source}
        if artifact.record["kind"] == MODEL:
            rates[role] = _training(known, artifact, folder, parents)
        else:
            rates[role] = _stage(known, artifact, folder)
    return list(rates.values())


def _stage(known: Mapping[str, Any], artifact: Artifact, folder: RunFolder) -> StageRate:
    record = artifact.record
    units = float(record.get("inputs") or _amount(artifact))
    size = float(sum(file.num_bytes for file in storage.walk(artifact.uri)))
    told = {**known, "units": units, "told_by": folder.uri, "bytes": size / max(units, 1.0)}
    if "inputs_per_s" not in record:
        return StageRate(**told, kind="driver", start_s=record["seconds"], unit_s=0.0)
    if "worked_s" not in record:
        raise ValueError(
            f"{artifact.uri} was made before records told how long workers worked: calibrate (--calibrate N), which "
            "makes a small run anew"
        )
    asks = any(name in record for name in (*_IN, *_OUT))
    on_gpu = asks and record["stage"] not in _ON_CPUS and "judge_requests" not in record
    return StageRate(
        **told,
        kind="pool" if asks or record["stage"] in _ON_CPUS else "tasks",
        start_s=max(0.0, record["seconds"] - record["span_s"]),
        unit_s=record["worked_s"] / max(units, 1.0),
        prepare_s=record["prepared_s"] / max(units, 1.0),
        requests=_first(record, _REQUESTS) / max(units, 1.0),
        tokens_in=_first(record, _IN) / max(units, 1.0),
        tokens_out=_first(record, _OUT) / max(units, 1.0),
        cost=record.get("judge_cost", 0.0) / max(units, 1.0),
        on_gpu=on_gpu,
        gpus=folder.config.execution.pool.num_gpus if on_gpu else 0.0,
    )


def _first(record: Mapping[str, Any], names: Sequence[str]) -> float:
    return float(next((record[name] for name in names if name in record), 0.0))


def _training(known: Mapping[str, Any], artifact: Artifact, folder: RunFolder, parents: Mapping[str, str]) -> StageRate:
    """Steps as they say of themselves; what they leave of the whole is the start."""
    record = artifact.record
    lines = [json.loads(line) for line in storage.read_text(storage.join(artifact.uri, METRICS)).splitlines()]
    batch = record["identity"]["training"]["global_batch"]
    seconds = [batch / line["samples_per_s"] for line in lines]
    step = _usual(seconds)
    return StageRate(
        **known,
        kind="training",
        units=float(len(lines)),
        start_s=max(0.0, record["seconds"] - step * len(lines)),
        unit_s=step,
        told_by=folder.uri,
        fixed_bytes=float(sum(file.num_bytes for file in storage.walk(artifact.uri))),
        on_gpu=folder.config.execution.train_gpus > 0,
        items=_items(folder, parents),
        workers=record["attempts"][-1]["workers"],
        step_tokens=median(line["row_tokens"] for line in lines),
        global_batch=batch,
        together=str(known["role"]).replace("_control", ""),
    )


def _usual(seconds: Sequence[float]) -> float:
    """The median of a training's steps, but for the first, which warms up, and the last, beside which nothing is read
    for those that follow (train/feed.py); of all where too few are left."""
    return median(seconds[1:-_AHEAD] or seconds)


def _items(folder: RunFolder, parents: Mapping[str, str]) -> float:
    """What a training trained on: what is selected of each of its parts, or all that is scored or fits."""
    items = 0.0
    for name, role in parents.items():
        kind, _, number = name.partition("_")
        if kind in ("scores", "samples"):
            selection = parents.get(f"selection_{number}" if number else "selection")
            rows = folder.artifacts[selection or role].num_rows
            items += rows / (2 if folder.artifacts[role].record["stage"].startswith("pair") else 1)
    return items
