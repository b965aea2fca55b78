"""Where a run and its stages stand, as they write it down themselves: what `jobs/status.py` reads, without Ray.

A run notes what it makes in `runs/NAME/standing.json`; a stage under work notes how far it is in `progress.json` beside
its data, every few seconds, with what it had done in the minutes before.
"""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import asdict, dataclass, field
from typing import Any

from stic_ray import storage
from stic_ray.masking import masked
from stic_ray.stopping import before_end

STANDING = "standing.json"
PROGRESS = "progress.json"
IN_WORK, MADE, REUSED, FAILED = "in work", "made", "reused", "failed"  # states of a role
FINISHED, INTERRUPTED = "finished", "interrupted"  # how a run ended, or FAILED
TELL_EVERY_S = 5.0
_RECENT_S = 300.0  # over which speeds are taken
_RECENT_EVERY_S = 5.0
_BEAT_EVERY_S = 15.0  # a few of them in what a process is given to be seen alive
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StageProgress:
    """How far a stage is: units (of a training, steps), when that was, and how many there were at earlier moments.

    `figures` are what else there is to say (loss, tokens per second); `rejects` those of this attempt, by reason.
    """

    done: int
    total: int
    at: float
    recent: Sequence[Sequence[float]] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    rejects: Mapping[str, int] = field(default_factory=dict)

    @property
    def per_s(self) -> float | None:
        """Units per second over the last minutes; None where nothing came out yet."""
        if not self.recent:
            return None
        start, before = self.recent[0]
        seconds = self.at - start
        return (self.done - before) / seconds if seconds > 0 and self.done > before else None

    @property
    def seconds_left(self) -> float | None:
        """How long the rest takes at that speed; None where there is none."""
        return None if self.per_s is None else (self.total - self.done) / self.per_s


class ProgressNote:
    """Writes the progress of a stage beside its data at `uri`."""

    def __init__(self, uri: str, *, total: int) -> None:
        self._uri = storage.join(uri, PROGRESS)
        self._total = total
        self._recent: deque[tuple[float, int]] = deque()

    def write(
        self, done: int, *, figures: Mapping[str, float] | None = None, rejects: Mapping[str, int] | None = None
    ) -> StageProgress:
        """Note how many units are done now; returns what was noted."""
        now = time.time()
        if not self._recent or now - self._recent[-1][0] >= _RECENT_EVERY_S:
            self._recent.append((now, done))
        while now - self._recent[0][0] > _RECENT_S:
            self._recent.popleft()
        found = StageProgress(
            done=done,
            total=self._total,
            at=now,
            recent=tuple(self._recent),
            figures=figures or {},
            rejects=dict(rejects or {}),
        )
        storage.write_bytes(self._uri, json.dumps(asdict(found)).encode())
        return found


def read_progress(uri: str) -> StageProgress | None:
    """How far the stage whose artifact is at `uri` is; None where it has noted nothing that can be read."""
    try:
        return StageProgress(**json.loads(storage.read_text(storage.join(uri, PROGRESS))))
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return None


@dataclass(frozen=True, kw_only=True)
class RoleStanding:
    """How an artifact of a run stands: where it is, its state, since when, and why it failed."""

    uri: str
    state: str
    at: float
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class RunStanding:
    """How a run stands: who does it (a process, as in a lease), its settings, its artifacts by role, how it ended.

    `ended` is "" while it works, and stays so where it is killed; `reason` is why it failed.
    """

    holder: Mapping[str, Any]
    config: Mapping[str, Any]
    started_at: float
    at: float
    roles: Mapping[str, RoleStanding]
    ended: str = ""
    reason: str = ""


class RunNote:
    """Keeps `standing.json` in a run's folder; several threads may note at once.

    A note that cannot be written is left out: the run writes to the same place, and says what is wrong with it.
    """

    def __init__(self, home: str, *, holder: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        self._uri = storage.join(home, STANDING)
        self._known: dict[str, Any] = {"holder": dict(holder), "config": config, "started_at": time.time()}
        self._roles: dict[str, RoleStanding] = {}
        self._ended, self._reason = "", ""
        self._written_at = 0.0
        self._lock = threading.Lock()

    def begin(self) -> None:
        """The run works from now on: where its process is ended from outside, that is noted."""
        before_end(_note_interruptions)
        _working.add(self)

    def role(self, role: str, uri: str, state: str, reason: str = "") -> None:
        """Note how an artifact stands now."""
        with self._lock:
            self._roles[role] = RoleStanding(uri=uri, state=state, at=time.time(), reason=masked(reason))
            self._write()

    def beat(self) -> None:
        """Note that the run still works, where nothing was noted lately: it may be asked of on another host."""
        with self._lock:
            if time.time() - self._written_at >= _BEAT_EVERY_S:
                self._write()

    def end(self, ended: str, reason: str = "") -> None:
        """Note how the run ended."""
        _working.discard(self)
        with self._lock:
            self._ended, self._reason = ended, masked(reason)
            self._write()

    def _write(self) -> None:
        found = RunStanding(**self._known, at=time.time(), roles=self._roles, ended=self._ended, reason=self._reason)
        with _left_out(self._uri):
            storage.write_bytes(self._uri, json.dumps(asdict(found)).encode())
            self._written_at = found.at


_working: set[RunNote] = set()


def _note_interruptions() -> None:
    for note in list(_working):
        note.end(INTERRUPTED)


@contextmanager
def _left_out(what: str) -> Iterator[None]:
    """A warning where what is told cannot be told now."""
    try:
        with storage.reaching(what):
            yield
    except ValueError as error:
        logger.warning("%s", error)


def read_standing(run: str) -> RunStanding | None:
    """How the run in a folder stands; None where it has noted nothing.

    Raises:
        ValueError: what it noted is damaged.
    """
    where = storage.join(run, STANDING)
    try:
        tree = json.loads(storage.read_text(where))
        roles = {role: RoleStanding(**entry) for role, entry in tree.pop("roles").items()}
        return RunStanding(**tree, roles=roles)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, AttributeError, KeyError):
        raise ValueError(f"{where} is damaged: remove it; the run's next attempt writes it anew") from None


class Ticker:
    """Calls `work` now, every few seconds in a thread of its own, and once more at a good end; a context manager.

    What it meets is a warning: it tells of work that meets the same, and says so.
    """

    def __init__(self, work: Callable[[], None], every_s: float = TELL_EVERY_S) -> None:
        self._work = work
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=copy_context().run, args=(self._tick,), daemon=True)

    def __enter__(self) -> "Ticker":
        self._call()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=self._every_s)  # it may be asking a cluster that has gone
        if kind is None:
            self._call()

    def _tick(self) -> None:
        while not self._stop.wait(self._every_s):
            self._call()

    def _call(self) -> None:
        with _left_out("what tells how far the work is"):
            self._work()
