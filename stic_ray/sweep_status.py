"""Where a sweep stands, from its folder alone: its trials, and what those that are in work make now."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from stic_ray import trials
from stic_ray.report import sweep_folder
from stic_ray.report.sweep_page import SweepFacts
from stic_ray.standing import IN_WORK, RunStanding, read_standing
from stic_ray.status import RunStatus, look, since, tell_stage, until
from stic_ray.trials import Trial


@dataclass(frozen=True, kw_only=True)
class SweepStatus:
    """How a sweep stands: `run` says who works at it, and since when; `of_trials` what each running trial does, by its
    id. `seconds_left` is a guess from the trials that have ended, None before the first."""

    run: RunStatus
    found: SweepFacts
    of_trials: dict[str, RunStatus]
    seconds_left: float | None


def look_at(home: str) -> SweepStatus:
    """How the sweep in a folder stands now.

    Raises:
        ValueError: a file of it is damaged.
    """
    found, run = sweep_folder.read(home), look(home)
    noted = {trial.id: read_standing(trials.folder(home, trial.id)) for trial in found.trials}
    running = [trial.id for trial in found.trials if trial.state == "running" and noted[trial.id] is not None]
    of_trials = {trial: look(trials.folder(home, trial)) for trial in running}
    at_once = found.sweep.max_concurrent or max(len(running), _most_at_once(noted.values()))
    left = _left(found, of_trials, at_once) if run.state == IN_WORK else None
    return SweepStatus(run=run, found=found, of_trials=of_trials, seconds_left=left)


def _most_at_once(noted: Iterable[RunStanding | None]) -> int:
    """The most trials that have worked at the same time."""
    spans = [(each.started_at, each.at) for each in noted if each is not None]
    return max((sum(start <= moment <= end for start, end in spans) for moment, _ in spans), default=1)


def _left(found: SweepFacts, of_trials: Mapping[str, RunStatus], at_once: int) -> float | None:
    """What is to be done, at the median of the trials that ended, shared by as many as work at once. The first trial
    counts only while it is alone: it makes what all share."""
    ended = [trial for trial in found.trials if trial.state in ("finished", "stopped")]
    if not ended:
        return None
    each_s = median(trial.seconds for trial in [trial for trial in ended if trial.number] or ended)
    running = [trial for trial in found.trials if trial.state == "running"]
    left = [max(0.0, each_s - _worked_s(trial, of_trials.get(trial.id))) for trial in running]
    to_come = found.sweep.num_trials - len(found.trials)
    return max([(sum(left) + to_come * each_s) / at_once, *left])


def _worked_s(trial: Trial, run: RunStatus | None) -> float:
    """What a running trial has worked; one that is begun anew reuses what it had reported."""
    if run is None or run.started_at is None or run.state != IN_WORK:
        return trial.seconds
    return max(trial.seconds, time.time() - run.started_at)


def tell(status: SweepStatus) -> str:
    """A sweep's status as text."""
    found, run = status.found, status.run
    counts = {state: sum(trial.state == state for trial in found.trials) for state in _STATES}
    told = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
    lines = [
        f"sweep  {run.run}",
        f"state  {run.state}{since(run)}",
        f"trials {len(found.trials)} of {found.sweep.num_trials} begun{': ' if told else ''}{told}",
    ]
    if run.state == IN_WORK:
        lines.append(f"until  {'not known yet' if status.seconds_left is None else until(status.seconds_left)}")
    states = {trial.id: _doing(status, trial) for trial in found.trials}
    return "".join(f"{line}\n" for line in [*lines, "", *sweep_folder.table(found, states)])


_STATES = ("finished", "stopped", "failed", "running")


def _doing(status: SweepStatus, trial: Trial) -> str:
    """A trial's state: of a running one what it makes now, of a failed one why."""
    run = status.of_trials.get(trial.id)
    now = [f"{stage.role}: {tell_stage(stage)}" for stage in run.stages if stage.state == IN_WORK] if run else []
    return "; ".join(now) or trial.error.partition("\n")[0][:100] or trial.state


def to_json(status: SweepStatus) -> str:
    """A sweep's status as one line of JSON."""
    tree: dict[str, Any] = {
        "run": status.run.run,
        "state": status.run.state,
        "num_trials": status.found.sweep.num_trials,
        "seconds_left": status.seconds_left,
        "front": list(status.found.front),
        "trials": [json.loads(trials.as_text(trial)) for trial in status.found.trials],
        "in_work": {
            trial: [stage.role for stage in run.stages if stage.state == IN_WORK]
            for trial, run in status.of_trials.items()
        },
    }
    return json.dumps(tree, allow_nan=False) + "\n"
