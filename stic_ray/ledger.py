"""The ledger: an actor that knows which units are in which worker, so that one which kills workers is found out.

A worker writes its units down before it works on them and crosses them off afterwards. Whoever gets units that a dead
worker never crossed off has suspects: they run alone, and one that was alone in a dying worker twice is rejected. The
ledger also adds up what the workers report: for the log, the artifact's record and Ray's metrics. It lives as long as
its driver; a new driver starts with a clean one.
"""

import logging
import os
import re
import socket
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Generic, Protocol, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from stic_ray.masking import masked
from stic_ray.metrics import FIGURES, REJECTS, UNITS

logger = logging.getLogger(__name__)
MAX_DEATHS_ALONE = 2
POISON = f"its worker died {MAX_DEATHS_ALONE} times while it was the only one in it"
PREPARE = "prepare"  # the phases of a unit
WORK = "work"
_MAX_FAILURES = 5
_NUMBER = re.compile(r"\d+")


@dataclass
class _Phase:
    """Units by id: `busy` with their worker and whether they are alone in it.

    Between `began` and `ended` some worker had units, and all of them together worked on them for `busy_s` seconds.
    """

    busy: dict[str, tuple[str, bool]] = field(default_factory=dict)
    suspects: set[str] = field(default_factory=set)
    deaths_alone: Counter[str] = field(default_factory=Counter)
    num_done: int = 0
    num_retried: int = 0
    began: float = 0.0
    ended: float = 0.0
    busy_s: float = 0.0

    def cross_off(self, key: str) -> None:
        """A unit has ended; a condemned one stays known, since its block may be done again."""
        self.busy.pop(key, None)
        if self.deaths_alone[key] < MAX_DEATHS_ALONE:
            self.suspects.discard(key)
            del self.deaths_alone[key]


@dataclass(frozen=True, kw_only=True)
class State:
    """How a stage stands: units prepared and waiting, in the workers, under suspicion, done again; sums of figures.

    `times` are seconds: `span_s` from the first unit in a worker to the last out of one, and what all workers together
    spent on preparing units (`prepared_s`) and on working on them (`worked_s`).
    """

    num_waiting: int
    num_in_work: int
    num_suspects: int
    num_retried: int
    figures: Mapping[str, float]
    times: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Done:
    """Units that ended in a worker, why some of them failed, what they add to the figures, and how long they took."""

    ids: Sequence[str]
    reasons: Mapping[str, int] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0


class Ledger:
    """The actor's class; every method is short, so that one ledger serves a cluster.

    `artifact` is the name of the one that is made, `STAGE-FINGERPRINT`; metrics are by `run` and stage.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._phases: dict[tuple[str, str], _Phase] = defaultdict(_Phase)
        self._alone: dict[str, tuple[_Phase, str]] = {}  # by worker
        self._figures: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self._units, self._rejects, self._sums = UNITS.start(), REJECTS.start(), FIGURES.start()

    def open(self, artifact: str) -> None:
        """Forget what is known of an artifact: it begins, or begins again."""
        for phase in (PREPARE, WORK):
            self._phases.pop((artifact, phase), None)
        self._figures.pop(artifact, None)

    def begin(self, artifact: str, phase: str, worker: str, ids: Sequence[str]) -> dict[str, int]:
        """Write units down; the suspects among them are not, and come back with how often each died alone."""
        book = self._phases[artifact, phase]
        book.began = book.began or time.monotonic()
        self._end_alone(worker)
        suspects = {}
        retried = 0
        for key in ids:
            holder, alone = book.busy.get(key, (worker, False))
            if holder != worker:
                retried += 1
                book.deaths_alone[key] += alone
                book.suspects.add(key)
                del book.busy[key]
            if key in book.suspects:
                suspects[key] = book.deaths_alone[key]
            else:
                book.busy[key] = (worker, False)
        if retried:
            book.num_retried += retried
        return suspects

    def begin_alone(self, artifact: str, phase: str, worker: str, key: str) -> None:
        """Write a suspect down that is about to run with no other unit in its worker."""
        book = self._phases[artifact, phase]
        self._end_alone(worker)
        book.busy[key] = (worker, True)
        self._alone[worker] = (book, key)

    def _end_alone(self, worker: str) -> None:
        """Cross off what a worker had alone: it has survived it, whether or not its message about that came through."""
        book, key = self._alone.pop(worker, (None, ""))
        if book is not None and book.busy.get(key) == (worker, True):
            book.cross_off(key)

    def end(self, artifact: str, phase: str, done: "Done") -> None:
        """Cross units off."""
        book, ids, reasons, figures = self._phases[artifact, phase], done.ids, done.reasons, done.figures
        for key in ids:
            book.cross_off(key)
        book.num_done += len(ids)
        book.ended = time.monotonic()
        book.busy_s += done.seconds
        labels = {"run": self._run, "stage": artifact.rpartition("-")[0]}
        if phase == WORK:  # where what could not be prepared ends, too
            self._units.inc(len(ids), labels)
            for reason, count in reasons.items():
                self._rejects.inc(count, {**labels, "reason": _NUMBER.sub("N", reason)[:80]})
        for name, value in figures.items():
            self._figures[artifact][name] += value
            if value > 0:
                self._sums.inc(value, {**labels, "figure": name})

    def state(self, artifact: str) -> State:
        """How the stage that makes an artifact stands now."""
        phases = [self._phases[artifact, phase] for phase in (PREPARE, WORK)]
        prepared, work = phases
        return State(
            num_waiting=max(0, prepared.num_done - work.num_done - len(work.busy)),
            num_in_work=len(work.busy),
            num_suspects=sum(len(phase.suspects) for phase in phases),
            num_retried=sum(phase.num_retried for phase in phases),
            figures=dict(self._figures[artifact]),
            times={
                "span_s": round(max(0.0, work.ended - work.began), 3),
                "worked_s": round(work.busy_s, 3),
                "prepared_s": round(prepared.busy_s, 3),
            },
        )

    def isolating(self) -> list[str]:
        """The workers that have a suspect alone, each as PID@HOST-TOKEN."""
        return sorted({worker for book in self._phases.values() for worker, alone in book.busy.values() if alone})


@dataclass(frozen=True, kw_only=True)
class Book:
    """What the ledger knows of one artifact; it travels to the workers."""

    ledger: Any
    artifact: str

    def state(self) -> State:
        """How the stage stands now."""
        state: State = ray.get(self.ledger.state.remote(self.artifact))
        return state


def open_book(artifact: str, run: str) -> Book:
    """A clean book in this process's ledger of a run, which is started at the first call, beside it."""
    context = ray.get_runtime_context()
    ledger = _start(context.gcs_address, context.get_worker_id(), run)
    ray.get(ledger.open.remote(artifact))
    return Book(ledger=ledger, artifact=artifact)


@cache  # it lives while somebody holds it: between two stages nobody would
def _start(cluster: str, worker: str, run: str) -> Any:
    # Not soft: an actor without CPUs that may stand anywhere is put on any node, and is lost with it.
    beside = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return (
        ray.remote(Ledger)
        .options(
            name=f"stic_ray-ledger-{worker}-{run}",
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            scheduling_strategy=beside,
        )
        .remote(run)
    )


class Given(Protocol):
    """What a worker works on: anything that is about one unit."""

    @property
    def id(self) -> str:
        """The unit's id."""
        ...


class Made(Protocol):
    """What a worker makes of a unit, with the reason where it failed."""

    @property
    def id(self) -> str:
        """The unit's id."""
        ...

    @property
    def reason(self) -> str:
        """Why it failed, "" when fine."""
        ...


In = TypeVar("In", bound=Given)
Out = TypeVar("Out", bound=Made)

_WORKER = f"{os.getpid()}@{socket.gethostname()}-{uuid.uuid4().hex[:8]}"  # of this process


class Guard(Generic[In, Out]):
    """Does one phase of an artifact's units in one worker under the ledger, up to `slots` calls at once.

    `refuse` makes the reject of a unit that kills workers; `figures` gives the worker's sums since its start.
    """

    def __init__(
        self,
        book: Book,
        phase: str,
        refuse: Callable[[str, str], Out],
        *,
        figures: Callable[[], Mapping[str, float]] = dict,
        slots: int = 1,
    ) -> None:
        self._ledger = book.ledger
        self._where = (book.artifact, phase)
        self._refuse = refuse
        self._figures = figures
        self._told: Mapping[str, float] = {}
        self._telling = threading.Lock()
        self._slots = threading.Semaphore(slots)
        self._num_slots = slots
        self._num_failures = 0  # of single units, one after the other
        self._isolation = threading.Lock()

    def do(self, units: Sequence[In], work: Callable[[Sequence[In]], Sequence[Out]]) -> list[Out]:
        """What `work` makes of the units, suspects one by one."""
        with self._slots:  # before they are written down: who waits for a slot dies with a worker innocently
            suspects = _wait(self._ledger.begin.remote(*self._where, _WORKER, [unit.id for unit in units]))
            innocent = [unit for unit in units if unit.id not in suspects]
            made = self._timed(innocent, work) if innocent else []
        for unit in units:
            if unit.id not in suspects:
                continue
            if suspects[unit.id] >= MAX_DEATHS_ALONE:
                made += self._end([self._refuse(unit.id, POISON)], 0.0)
                continue
            with self._alone():
                _wait(self._ledger.begin_alone.remote(*self._where, _WORKER, unit.id))
                made += self._timed([unit], work)
        return made

    def _timed(self, units: Sequence[In], work: Callable[[Sequence[In]], Sequence[Out]]) -> list[Out]:
        begun = time.monotonic()
        made = self._try(units, work)
        return self._end(made, time.monotonic() - begun)

    def _try(self, units: Sequence[In], work: Callable[[Sequence[In]], Sequence[Out]]) -> list[Out]:
        """What `work` makes of the units. Where it raises, they go one by one, and those that raise are refused.

        Raises:
            ValueError, OSError: as they come: no fault of a unit.
            Exception: the error of one unit, when _MAX_FAILURES have failed one after the other: not theirs, either.
        """
        try:
            made = list(work(units))
        except (ValueError, OSError, AssertionError):
            raise
        except Exception as error:
            if len(units) > 1:
                return [outcome for unit in units for outcome in self._try([unit], work)]
            self._num_failures += 1
            if self._num_failures >= _MAX_FAILURES:
                raise
            reason = f"{type(error).__name__}: {' '.join(masked(str(error)).split())[:200]}"
            logger.warning("%s is refused: %s", units[0].id, reason)
            return [self._refuse(units[0].id, reason)]
        self._num_failures = 0
        return made

    def _end(self, made: Sequence[Out], seconds: float) -> list[Out]:
        reasons = Counter(masked(outcome.reason) for outcome in made if outcome.reason)
        with self._telling:
            now = self._figures()
            fresh = {name: value - self._told.get(name, 0.0) for name, value in now.items()}
            self._told = now
        ids = [outcome.id for outcome in made]
        self._ledger.end.remote(*self._where, Done(ids=ids, reasons=dict(reasons), figures=fresh, seconds=seconds))
        return list(made)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nothing else runs in this worker."""
        with self._isolation:
            for _ in range(self._num_slots):
                self._slots.acquire()
            try:
                yield
            finally:
                self._slots.release(self._num_slots)


def _wait(answer: Any) -> Any:
    """`ray.get` for a moment: it would give this worker's cores away, and Ray start another worker on them."""
    return answer.future().result()
