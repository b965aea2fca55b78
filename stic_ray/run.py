"""One run: artifacts made once and reused, the Ray connection when something is to be made, what `runs/NAME/` holds."""

import errno
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import ray.exceptions
from ray.train import TrainingFailedError

from stic_ray import artifacts, leases, logs, storage
from stic_ray.artifacts import BASE_PREFIX, REFERENCES, UNDERWAY, Artifact, Plan
from stic_ray.cluster import connected
from stic_ray.config import Config, Execution, Model, to_tree
from stic_ray.leases import BusyError, Lease
from stic_ray.metrics import RUN_IN_WORK
from stic_ray.standing import FAILED, FINISHED, IN_WORK, INTERRUPTED, MADE, REUSED, RunNote, Ticker

logger = logging.getLogger(__name__)
_LOOK_EVERY_S = 1.0  # whether an artifact is there that another run makes
_VALUE_ERROR = re.compile(  # in a trace: the innermost frame, its lines of code, the error
    r'File "(?P<file>[^"\n]+)", line [^\n]+\n(?:(?![ \t]+File )[ \t]+[^\n]*\n)*ValueError: (?P<message>[^\n]+)'
)
_OURS = re.compile(r"[/\\]stic_ray[/\\](?!.*site-packages)")


@dataclass(frozen=True, kw_only=True)
class Step:
    """An artifact to be made: its role in the run, its plan, and what makes it."""

    role: str
    plan: Plan
    work: Callable[[Plan], Artifact]


class Run:
    """The state of a run while it works; a context manager that closes the connection to Ray.

    `name` is its folder's in `runs`, the configuration's unless given. `checks` are asked, once Ray stands, whether
    what the run needs is there. One that `waits` for an artifact that another live run makes takes it then, instead
    of refusing.
    """

    def __init__(
        self,
        config: Config,
        *,
        name: str = "",
        checks: Sequence[Callable[[Execution], None]] = (),
        waits: bool = False,
    ) -> None:
        self.config = config
        self.home = storage.join(config.runs, name or config.name)
        self._checks = checks
        self._waits = waits
        self.artifacts: dict[str, Artifact] = {}
        self.reused: set[str] = set()
        self._models: dict[Model, str] = {}
        self.started = time.monotonic()
        self._stack = ExitStack()
        self._connected = False
        self._noting = threading.Lock()
        process = leases.this_process(config.name)
        self._standing = RunNote(self.home, holder=process, config=to_tree(config))
        self._ticker = Ticker(self._tell)
        self._in_work: Any = None  # Ray's gauge

    def __enter__(self) -> "Run":
        self._standing.begin()
        self._ticker.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ticker.__exit__(kind, error, trace)
        self._note_end(error)
        if kind is not KeyboardInterrupt:  # whoever interrupts ends the process, and Ray with it: see launch.py
            self._stack.close()

    def _tell(self) -> None:
        """That this run works, for whoever asks and, once Ray stands, Prometheus."""
        self._standing.beat()
        if self._connected:
            self._in_work = self._in_work or RUN_IN_WORK.start()
            self._in_work.set(1, {"run": self.config.name})

    def _note_end(self, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, GeneratorExit):  # as a trial is left that was stopped
            told = str(error).partition("\n")[0] or type(error).__name__
            self._standing.end(*((FAILED, told) if isinstance(error, Exception) else (INTERRUPTED,)))
            return
        self._standing.end(FINISHED)
        if self._in_work is not None:  # only of a good end: an alert is for whoever left without it
            self._in_work.set(0, {"run": self.config.name})

    def base_model(self) -> str:
        """The base model's fingerprint."""
        return self.fingerprint_of(self.config.model)

    def fingerprint_of(self, model: Model) -> str:
        """A checkpoint's fingerprint: the version that the user gave, else a hash of its files' listing.

        Where a listing gives sizes alone, of some of their bytes too.
        """
        if model not in self._models:
            self._models[model] = BASE_PREFIX + (model.version or storage.model_version(model.path)[:16])
        return self._models[model]

    def made_model(self, path: str, artifact: Artifact) -> Model:
        """The checkpoint at `path` that is part of an artifact, whose fingerprint it has."""
        model = Model(path=path, dtype=self.config.model.dtype)
        self._models[model] = artifact.fingerprint
        return model

    def make(self, role: str, plan: Plan, work: Callable[[Plan], Artifact]) -> Artifact:
        """The plan's artifact: from the store where it is committed, else made now under its lease.

        Raises:
            ValueError: the inputs cannot be used, another live run makes the same artifact, or the store is full.
        """
        known = self.artifacts.get(role)
        if known is not None and known.fingerprint == plan.fingerprint:
            return known
        with logs.about(self.config.name, role):
            return self._find_or_make(role, plan, work)

    def _find_or_make(self, role: str, plan: Plan, work: Callable[[Plan], Artifact]) -> Artifact:
        artifact = artifacts.find(self.config.store, plan)
        if artifact is None:
            self._connect()
            uri = storage.join(self.config.store, plan.name)
            with self._noted(role, uri), self.explained(role):
                artifact = self._make_under_lease(role, plan, work)
        else:
            self.reused.add(role)
            logger.info("%s: reused %s (%s)", role, plan.name, _size(artifact))
            self._standing.role(role, artifact.uri, REUSED)
        with self._noting:
            self.artifacts[role] = artifact
            self._note()
        return artifact

    def _make_under_lease(self, role: str, plan: Plan, work: Callable[[Plan], Artifact]) -> Artifact:
        store = self.config.store
        while True:
            try:
                with Lease(storage.join(store, plan.name), self.config.name):
                    return artifacts.find(store, plan) or _work(role, plan, work)
            except BusyError:
                if not self._waits:
                    raise
                logger.info("%s: waiting for %s, which another run makes", role, plan.name)
            while artifacts.find(store, plan) is None and leases.holder(storage.join(store, plan.name)):
                time.sleep(_LOOK_EVERY_S)

    @contextmanager
    def _noted(self, role: str, uri: str) -> Iterator[None]:
        """Notes how an artifact stands that is made in the block; one that a kill leaves in work stays so."""
        self._standing.role(role, uri, IN_WORK)
        try:
            yield
        except Exception as error:
            self._standing.role(role, uri, FAILED, str(error).partition("\n")[0])
            raise
        self._standing.role(role, uri, MADE)

    def deliver(self) -> None:
        """Write down what the run refers to, now that it is whole."""
        self._write(REFERENCES)
        storage.remove(storage.join(self.home, UNDERWAY))

    def _note(self) -> None:
        """Write down what is referred to so far: whoever cleans the store up must leave a broken run's artifacts."""
        self._write(UNDERWAY)

    def _write(self, name: str) -> None:
        lineage = {role: artifact.uri for role, artifact in self.artifacts.items()}
        storage.write_bytes(storage.join(self.home, name), json.dumps(lineage, indent=1).encode())

    def make_together(self, steps: Sequence[Step]) -> list[Artifact]:
        """Several artifacts that do not need each other, as `make` does one: at once where the cluster has room.

        Raises:
            ValueError: as `make`, for the first step that failed, when the others have ended.
        """
        if any(artifacts.find(self.config.store, step.plan) is None for step in steps):
            self._connect()
        errors: dict[str, Exception] = {}

        def make(step: Step) -> None:
            try:
                self.make(step.role, step.plan, step.work)
            except Exception as error:  # noqa: BLE001 - raised below, when the others have ended
                errors[step.role] = error
                if len(steps) > 1:  # said now, since the others may go on for hours
                    logger.error("%s failed: %s", step.role, str(error).partition("\n")[0])

        # None in this thread: there Ray Train would put its own answer to Ctrl-C in the place of ours, and leave it.
        threads = [threading.Thread(target=make, args=(step,), daemon=True) for step in steps]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for step in steps:
            if step.role in errors:
                raise errors[step.role]
        # In the order of the steps, whichever was first.
        self.artifacts |= {step.role: self.artifacts.pop(step.role) for step in steps}
        return [self.artifacts[step.role] for step in steps]

    @contextmanager
    def explained(self, what: str) -> Iterator[None]:
        """Turns what is no fault of the program, here or on a worker, into a ValueError of one line.

        Raises:
            ValueError: a full disk, or this package's own ValueError on a worker, out of its wrappings.
            RuntimeError: another ValueError on a worker, which is a fault: the trace stays.
        """
        try:
            yield
        except (OSError, ray.exceptions.RayError, TrainingFailedError) as error:
            if _is_full(error):
                raise ValueError(
                    f"{what}: no space left where store ({self.config.store}), runs ({self.config.runs}) or temporary "
                    "files are: free some, or set store= and runs= to another place; what is finished stands, and the "
                    "same command goes on from there"
                ) from None
            message = _users_mistake(error)
            if message:
                raise ValueError(f"{what}: {message}") from None
            if isinstance(error, ValueError):  # Ray gives its wrapping the class of what it wraps
                raise RuntimeError(f"{what}: a worker failed") from error
            raise

    def _connect(self) -> None:
        if not self._connected:
            logger.info("starting Ray")
            self._stack.enter_context(connected())
            for check in self._checks:
                check(self.config.execution)
            self._connected = True


def _size(artifact: Artifact) -> str:
    rejects = artifact.record["counts"]["rejects"]
    amount = artifacts.amount(artifact.record)
    return f"{amount}, {rejects} rejects" if rejects else amount


def _work(role: str, plan: Plan, work: Callable[[Plan], Artifact]) -> Artifact:
    start = time.monotonic()
    logger.info("%s: making %s", role, plan.name)
    artifact = work(plan)
    logger.info("%s: made %s in %.1f s (%s)", role, plan.name, time.monotonic() - start, _size(artifact))
    return artifact


def _is_full(error: BaseException) -> bool:
    """Whether an error, or what it says of a worker's, is that a disk is full."""
    if isinstance(error, ray.exceptions.OutOfDiskError):
        return True
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(words in str(error) for words in ("No space left on device", "Disk quota exceeded"))


def _users_mistake(error: BaseException) -> str:
    """The message of a ValueError that this package raised on a worker; "" where it was something else.

    Ray hands over a worker's trace as text, and not always the exception itself.
    """
    for raised in _VALUE_ERROR.finditer(str(error)):
        if _OURS.search(raised["file"]):
            return raised["message"].strip()
    return ""
