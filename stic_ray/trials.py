"""Trials of a sweep as they stand in its folder: what each tried and reached, and which of them nobody beats."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from stic_ray import storage
from stic_ray.config import Config, Objective, parse_config, to_tree
from stic_ray.records import make_id

TRIALS = "trials"
_FILE = "trial.json"
State = Literal["running", "stopped", "finished", "failed"]
"""`stopped` by the scheduler before its last stage; `running` too where a killed sweep left it."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure with the ends of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a trial's newest model reached on dev: after which training, in how many seconds since the one before."""

    model: str
    figures: Mapping[str, Figure]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What one trial tries: `schedule` has settings by dotted path, one after another where stage 1 is trained in
    segments. The reports so far, and what made a failed one fail; `number` is its place in the order of their starts,
    `told` whether the trackers know how it ended."""

    id: str
    number: int
    schedule: tuple[Mapping[str, Any], ...]
    state: State = "running"
    reports: tuple[Report, ...] = ()
    error: str = ""
    told: bool = False

    @property
    def values(self) -> Mapping[str, Any]:
        """Its settings; the last ones of a schedule."""
        return self.schedule[-1] if self.schedule else {}

    @property
    def figures(self) -> Mapping[str, Figure]:
        """What its last report says; {} before the first."""
        return self.reports[-1].figures if self.reports else {}

    @property
    def seconds(self) -> float:
        """What it took, up to its last report."""
        return sum(report.seconds for report in self.reports)

    def reported(self, model: str, figures: Mapping[str, Figure], seconds: float) -> "Trial":
        """The same with one report more."""
        return replace(self, reports=(*self.reports, Report(model=model, figures=figures, seconds=seconds)))


def id_of(values: Mapping[str, Any]) -> str:
    """The id of the trial of these settings: a hash of them."""
    return make_id(*_overrides(values))[:8]


def _overrides(values: Mapping[str, Any]) -> list[str]:
    return [f"{path}={json.dumps(value)}" for path, value in sorted(values.items())]


def config_with(config: Config, schedule: Sequence[Mapping[str, Any]]) -> Config:
    """A configuration with the last of these settings laid over it; with the others, stage 1 trains before.

    Raises:
        ValueError: a setting does not exist or may not have that value.
    """
    tree = to_tree(config)
    *before, last = (parse_config(tree, _overrides(values)) for values in schedule)
    trainings = tuple(each.stage1 for each in before if each.stage1 is not None)
    return replace(last, stage1_before=trainings or config.stage1_before)


def config_of_best(config: Config, trial: Trial) -> Config:
    """A trial's configuration as that of a run of its own: with test benchmarks and controls.

    A control that has a setting in common with its stage keeps it in common.
    """
    schedule = [*trial.schedule[:-1], {**_of_controls(config, trial.schedule[-1]), **trial.schedule[-1]}]
    return replace(config_with(config, schedule), name=f"{config.name}-best", sweep=None)


def _of_controls(config: Config, values: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's settings as its control's, where both have the same value."""
    tree = to_tree(config)
    found = {}
    for path, value in values.items():
        stage, _, rest = path.partition(".")
        control = f"{stage}_control.{rest}"
        before = _found(tree, path)
        if before and before == _found(tree, control):
            found[control] = value
    return found


def _found(tree: Any, path: str) -> list[Any]:
    """A tree's value at a dotted path, which may be null; [] where the path leads nowhere."""
    for key in path.split("."):
        if not isinstance(tree, Mapping) or key not in tree:
            return []
        tree = tree[key]
    return [tree]


def folder(sweep: str, trial: str) -> str:
    """Where a trial's files are, by its id, in the sweep's folder."""
    return storage.join(sweep, TRIALS, trial)


def write(sweep: str, trial: Trial) -> None:
    """Put a trial's file in its place, over the one before."""
    uri = storage.join(folder(sweep, trial.id), _FILE)
    storage.write_bytes(uri, as_text(trial).encode())


def as_text(trial: Trial) -> str:
    """A trial as JSON; `parse` reads it."""
    return json.dumps(asdict(trial), indent=1)


def read(sweep: str, trial: str) -> Trial | None:
    """A trial by its id, None where it has not begun.

    Raises:
        ValueError: its file is damaged.
    """
    uri = storage.join(folder(sweep, trial), _FILE)
    try:
        return parse(storage.read_text(uri))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, LookupError, AttributeError):
        raise ValueError(f"{uri} is damaged: remove it, and the same command makes that trial again") from None


def read_all(sweep: str) -> list[Trial]:
    """All trials that have begun, in the order of their starts.

    Raises:
        ValueError: a trial's file is damaged.
    """
    names = [uri.rstrip("/").rpartition("/")[2] for uri in storage.list_directories(storage.join(sweep, TRIALS))]
    found = (read(sweep, name) for name in names)
    return sorted((trial for trial in found if trial is not None), key=lambda trial: (trial.number, trial.id))


def parse(text: str) -> Trial:
    """A trial from its JSON; any error of a text that is no trial's."""
    tree = json.loads(text)
    if tree["state"] not in get_args(State):
        raise ValueError("no state of a trial")
    reports = tuple(
        Report(
            model=str(report["model"]),
            figures={str(name): Figure(**figure) for name, figure in report["figures"].items()},
            seconds=float(report["seconds"]),
        )
        for report in tree["reports"]
    )
    trial = Trial(**{**tree, "reports": reports, "schedule": tuple(map(dict, tree["schedule"]))})
    numbers = [each.seconds for each in reports]
    numbers += [number for each in reports for figure in each.figures.values() for number in asdict(figure).values()]
    if type(trial.number) is not int or not all(map(math.isfinite, numbers)):
        raise ValueError("a number that is none")
    if trial.state == "finished" and not reports:
        raise ValueError("it has not been what it says")
    return trial


def front(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """The finished trials that no other finished one beats: as good in every objective and better in one. The best by
    the first objective first."""
    costs = {trial.id: _costs(trial, objectives) for trial in trials if trial.state == "finished"}
    best = [trial for trial in trials if trial.id in costs and not _is_beaten(costs[trial.id], costs.values())]
    return sorted(best, key=lambda trial: costs[trial.id])


def _costs(trial: Trial, objectives: Sequence[Objective]) -> tuple[float, ...]:
    """A trial's objectives so that less is better."""
    signs = {"min": 1.0, "max": -1.0}
    return tuple(signs[each.mode] * trial.figures[each.figure].value for each in objectives)


def _is_beaten(costs: Sequence[float], others: Iterable[Sequence[float]]) -> bool:
    pairs = [list(zip(other, costs, strict=True)) for other in others]
    return any(all(a <= b for a, b in each) and any(a < b for a, b in each) for each in pairs)
