"""Where a sweep stands, from its folder alone: its trials, and what those that are in work make now."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stic_ray import trials
from stic_ray.report import sweep_folder
from stic_ray.report.markdown import align
from stic_ray.report.sweep_page import SweepFacts, say, short
from stic_ray.standing import IN_WORK, read_standing
from stic_ray.status import RunStatus, in_span, look, tell_stage


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
    found = sweep_folder.read(home)
    running = [trial.id for trial in found.trials if trial.state == "running"]
    places = {trial: trials.folder(home, trial) for trial in running}
    of_trials = {trial: look(place) for trial, place in places.items() if read_standing(place) is not None}
    return SweepStatus(run=look(home), found=found, of_trials=of_trials, seconds_left=_left(found, len(running)))


def _left(found: SweepFacts, num_running: int) -> float | None:
    ended = [trial.seconds for trial in found.trials if trial.state in ("finished", "stopped")]
    if not ended or not num_running:
        return None
    still = found.sweep.num_trials - len(found.trials) + num_running / 2  # those in work are half done, on average
    return max(0.0, still) * sum(ended) / len(ended) / num_running


def tell(status: SweepStatus) -> str:
    """A sweep's status as text."""
    found, run = status.found, status.run
    counts = {state: sum(trial.state == state for trial in found.trials) for state in _STATES}
    told = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
    lines = [
        f"sweep  {run.run}",
        f"state  {run.state}{f': {run.holder}' if run.state == IN_WORK else ''}",
        f"trials {len(found.trials)} of {found.sweep.num_trials} begun{': ' if told else ''}{told}",
    ]
    if run.state == IN_WORK:
        lines.append(
            f"until  {'not known yet' if status.seconds_left is None else f'in about {in_span(status.seconds_left)}'}"
        )
    return "".join(f"{line}\n" for line in [*lines, "", *_table(status)])


_STATES = ("finished", "stopped", "failed", "running")


def _table(status: SweepStatus) -> Sequence[str]:
    sweep = status.found.sweep
    rows = [["trial", *map(short, sweep.space), *(short(each.figure) for each in sweep.objectives), "state"]]
    for trial in status.found.trials:
        figures = (trial.figures.get(each.figure) for each in sweep.objectives)
        rows.append(
            [
                trial.id,
                *(say(trial.values.get(path)) for path in sweep.space),
                *(f"{figure.value:.1f}" if figure else "-" for figure in figures),
                _doing(status, trial.id) or trial.error.partition("\n")[0][:100] or trial.state,
            ]
        )
    return align(rows)


def _doing(status: SweepStatus, trial: str) -> str:
    """What a running trial makes now."""
    run = status.of_trials.get(trial)
    now = [f"{stage.role}: {tell_stage(stage)}" for stage in run.stages if stage.state == IN_WORK] if run else []
    return "; ".join(now)


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
