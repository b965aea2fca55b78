"""Where a run stands, how fast it goes and until when, from its folder and its store alone: no Ray is asked.

What a live run notes is at most some seconds old; of a killed one it is where it was then.
"""

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from stic_ray import artifacts, leases, outline, storage
from stic_ray.artifacts import MODEL, UNDERWAY
from stic_ray.config import Config, parse_config
from stic_ray.standing import (
    FAILED,
    FINISHED,
    IN_WORK,
    INTERRUPTED,
    MADE,
    REUSED,
    RoleStanding,
    RunStanding,
    read_progress,
    read_standing,
)
from stic_ray.train.job import newest_checkpoint

LEFT, TO_COME, GONE = "left", "to come", "gone"  # states beside those that a run notes
_SFT = "-sft"  # what `train_sft` adds to a run's name
_REASONS = 3
_LONG_AGO_S = 60.0  # a stage notes every few seconds; a training, every step


@dataclass(frozen=True, kw_only=True)
class StageStatus:
    """How an artifact of a run stands: `done` of `total` are rows of a committed one, units (of a training, steps) of
    one in work; None where nobody knows. Rejects are those of the attempt, by reason. `in_work_s` is since it began,
    `noted_s` since it last said how far it is."""

    role: str
    state: str
    uri: str = ""
    holder: str = ""
    done: int | None = None
    total: int | None = None
    per_s: float | None = None
    seconds_left: float | None = None
    in_work_s: float | None = None
    noted_s: float | None = None
    rejects: Mapping[str, int] = field(default_factory=dict)
    figures: Mapping[str, float | None] = field(default_factory=dict)
    checkpoint_step: int | None = None
    checkpoint_age_s: float | None = None
    is_training: bool = False
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """How a run stands: `state` is in work, finished, failed, interrupted, or left by a process that is gone.

    `knows_rest`: the stages to come are listed; those of a trial or of a part of the method are not, until they begin.
    """

    run: str
    state: str
    holder: str
    started_at: float | None
    ended_at: float | None
    reason: str
    stages: Sequence[StageStatus]
    knows_rest: bool

    @property
    def seconds_left(self) -> float | None:
        """Until the stages in work are done; None where one of them does not know."""
        left = [stage.seconds_left for stage in self.stages if stage.state == IN_WORK]
        known = [seconds for seconds in left if seconds is not None]
        return max(known) if known and len(known) == len(left) else None


def look(run: str) -> RunStatus:
    """How the run in a folder stands now.

    Raises:
        ValueError: the folder holds no run, or what it says is damaged.
    """
    standing = read_standing(run)
    if standing is None:
        return _without_note(run)
    is_alive = not standing.ended and leases.is_alive(standing.holder, standing.at)
    stages = [_stage(role, entry, standing, is_alive) for role, entry in standing.roles.items()]
    is_worked_at = is_alive or any(stage.state == IN_WORK for stage in stages)
    rest = _rest(run, standing)
    if standing.ended != FINISHED:
        stages += [StageStatus(role=role, state=TO_COME) for role in rest or () if role not in standing.roles]
    return RunStatus(
        run=run,
        state=standing.ended or (IN_WORK if is_worked_at else LEFT),
        holder=leases.describe_process(standing.holder),
        started_at=standing.started_at,
        ended_at=None if is_worked_at else standing.at,
        reason=standing.reason,
        stages=stages,
        knows_rest=rest is not None,
    )


def _without_note(run: str) -> RunStatus:
    """Of a run that an earlier version made, which noted what it refers to alone."""
    is_finished = not storage.exists(storage.join(run, UNDERWAY))
    if is_finished:
        references = artifacts.read_references(run)
    else:
        references = json.loads(storage.read_text(storage.join(run, UNDERWAY)))
    return RunStatus(
        run=run,
        state=FINISHED if is_finished else LEFT,
        holder="",
        started_at=None,
        ended_at=None,
        reason="" if is_finished else "an earlier version of stic_ray made it, which notes no more",
        stages=[_committed(role, uri, MADE) for role, uri in references.items()],
        knows_rest=is_finished,
    )


def _rest(run: str, standing: RunStanding) -> list[str] | None:
    """The roles that a whole run makes; None of a part of the method alone, or of settings of another version."""
    try:
        config = parse_config(standing.config, [])
    except ValueError:
        return None
    name = run.rstrip("/").rpartition("/")[2]
    if name == f"{config.name}{_SFT}":
        return outline.roles(_sft_alone(config))
    is_whole = name == config.name and (config.stage1 is not None or config.stage2 is not None)
    return outline.roles(config) if is_whole else None


def _sft_alone(config: Config) -> Config:
    return replace(config, rounds=1, stage1=None, stage1_control=None, prompts=replace(config.prompts, infused=""))


def _stage(role: str, entry: RoleStanding, standing: RunStanding, is_alive: bool) -> StageStatus:
    if entry.state in (MADE, REUSED):
        return _committed(role, entry.uri, entry.state)
    if storage.exists(storage.join(entry.uri, artifacts.RECORD)):  # of a run that was killed before it noted that
        return _committed(role, entry.uri, MADE)
    if entry.state == FAILED:
        return replace(_unfinished(role, entry), state=FAILED, reason=entry.reason)
    holder = leases.holder(entry.uri) or (leases.describe_process(standing.holder) if is_alive else "")
    found = _unfinished(role, entry)
    if not holder:
        return replace(found, state=LEFT, per_s=None, seconds_left=None)
    return replace(found, state=IN_WORK, holder=holder, in_work_s=time.time() - entry.at)


def _committed(role: str, uri: str, state: str) -> StageStatus:
    try:
        record = artifacts.load(uri).record
    except ValueError as error:
        return StageStatus(role=role, state=GONE, uri=uri, reason=str(error))
    is_training = record["kind"] == MODEL
    number = int(record["steps"] if is_training else record["counts"]["rows"])
    return StageStatus(
        role=role,
        state=state,
        uri=uri,
        done=number,
        total=number,
        per_s=record.get("inputs_per_s"),
        rejects=record["counts"].get("rejects_by_reason", {}),
        is_training=is_training,
    )


def _unfinished(role: str, entry: RoleStanding) -> StageStatus:
    found = StageStatus(role=role, state="", uri=entry.uri)
    checkpoint = newest_checkpoint(entry.uri)
    if checkpoint is not None:
        age_s = max(0.0, time.time() - checkpoint[1])
        found = replace(found, is_training=True, checkpoint_step=checkpoint[0], checkpoint_age_s=age_s)
    progress = read_progress(entry.uri)
    if progress is None:
        return found
    return replace(
        found,
        done=progress.done,
        total=progress.total,
        per_s=progress.per_s,
        seconds_left=progress.seconds_left,
        noted_s=max(0.0, time.time() - progress.at),
        rejects=progress.rejects,
        figures={name: value if math.isfinite(value) else None for name, value in progress.figures.items()},
        is_training="loss" in progress.figures,
    )


# In words


def tell(status: RunStatus) -> str:
    """A run's status as text."""
    width = max((len(stage.role) for stage in status.stages), default=0)
    rows = [f"{stage.role:<{width}}  {stage.state:<8}  {tell_stage(stage)}".rstrip() for stage in status.stages]
    return "".join(f"{line}\n" for line in [*_head(status), "", *rows])


def _head(status: RunStatus) -> Iterator[str]:
    yield f"run    {status.run}"
    yield f"state  {status.state}{since(status)}"
    if status.reason:
        yield f"why    {status.reason}"
    now = [stage for stage in status.stages if stage.state == IN_WORK]
    if status.state == IN_WORK:
        yield f"until  {_until(status, now)}"
    if status.state in (LEFT, FAILED, INTERRUPTED):
        yield "next   the same command goes on from what is committed"


def since(status: RunStatus) -> str:
    """For how long a run has worked, and by whom."""
    if status.started_at is None:
        return ""
    if status.state == IN_WORK:
        return f" for {in_span(time.time() - status.started_at)}: {status.holder}"
    assert status.ended_at is not None
    worked, ago = in_span(status.ended_at - status.started_at), in_span(time.time() - status.ended_at)
    by = f": {status.holder} is gone" if status.state == LEFT else ""
    return f" after {worked}, {ago} ago{by}"


def _until(status: RunStatus, now: Sequence[StageStatus]) -> str:
    to_come = [stage.role for stage in status.stages if stage.state == TO_COME]
    then = f"then {len(to_come)} to come, whose time nobody knows yet" if to_come else "then the report"
    if not status.knows_rest:
        then = "stages that follow are listed once they begin"
    if not now:
        return f"between two stages; {then}"
    names, left = " and ".join(stage.role for stage in now), status.seconds_left
    if left is None:
        return f"not known yet for {names}; {then}"
    return f"{until(left)}, for {names}; {then}"


def until(seconds_left: float) -> str:
    """When something ends, by the clock and from now."""
    clock = time.strftime("%H:%M:%S", time.localtime(time.time() + seconds_left))
    return f"about {clock}, in {in_span(seconds_left)}"


def tell_stage(stage: StageStatus) -> str:
    """How far a stage is, and how well it does."""
    if stage.state == TO_COME:
        return ""
    if stage.state == GONE:
        return stage.reason
    unit = "steps" if stage.is_training else "rows" if stage.state in (MADE, REUSED) else "units"
    parts = [*_how_far(stage, unit), *_how_good(stage)]
    if stage.state == FAILED:
        parts.append(stage.reason)
    return ", ".join(part for part in parts if part)


def _how_far(stage: StageStatus, unit: str) -> Iterator[str]:
    if stage.done is None or stage.total is None:
        if stage.state == IN_WORK and stage.in_work_s is not None:
            yield f"for {in_span(stage.in_work_s)}; it does not say how far it is, or has not begun"
    elif stage.state in (MADE, REUSED):
        yield f"{stage.done:,} {unit}"
    else:
        yield f"{stage.done:,} of {stage.total:,} {unit} ({stage.done / max(stage.total, 1):.0%})"
    if stage.state == IN_WORK and stage.per_s is not None:
        yield f"{stage.per_s:,.2f}/s"
    if stage.seconds_left is not None:
        yield f"{in_span(stage.seconds_left)} left"
    if stage.state == IN_WORK and stage.noted_s is not None and stage.noted_s > _LONG_AGO_S:
        yield f"as it was {in_span(stage.noted_s)} ago"


def _how_good(stage: StageStatus) -> Iterator[str]:
    for name, value in stage.figures.items():
        yield f"{name.replace('_per_s', '/s')} {'not finite' if value is None else f'{value:,.4g}'}"
    if stage.checkpoint_step is not None and stage.checkpoint_age_s is not None:
        yield f"checkpoint of step {stage.checkpoint_step:,}, {in_span(stage.checkpoint_age_s)} old"
    if stage.rejects:
        most = sorted(stage.rejects.items(), key=lambda entry: -entry[1])[:_REASONS]
        told = "; ".join(f"{count:,}: {reason[:60]}" for reason, count in most)
        yield f"{sum(stage.rejects.values()):,} rejects ({told})"


def in_span(seconds: float) -> str:
    """A time span in its two greatest units."""
    minutes, hours = divmod(round(seconds), 60)[0], round(seconds) // 3600
    if hours:
        return f"{hours} h {minutes - 60 * hours} min"
    return f"{minutes} min {round(seconds) - 60 * minutes} s" if minutes else f"{round(seconds)} s"


def to_json(status: RunStatus) -> str:
    """A run's status as one line of JSON."""
    tree: dict[str, Any] = {**asdict(status), "seconds_left": status.seconds_left, "at": time.time()}
    return json.dumps(tree, allow_nan=False) + "\n"
