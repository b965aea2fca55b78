"""One run: artifacts made once and reused, the Ray connection when something is to be made, what `runs/NAME/` holds."""

import errno
import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType

import ray.exceptions

from stic_ray import artifacts, storage
from stic_ray.artifacts import BASE_PREFIX, Artifact, Lease, Plan
from stic_ray.cluster import connected
from stic_ray.config import Config

logger = logging.getLogger(__name__)


class Run:
    """The state of a run while it works; a context manager that closes the connection to Ray."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.artifacts: dict[str, Artifact] = {}
        self.reused: set[str] = set()
        self.started = time.monotonic()
        self._stack = ExitStack()
        self._connected = False

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def base_model(self) -> str:
        """The base model's fingerprint: the version that the user gave, else a hash of its files' listing."""
        model = self.config.model
        return BASE_PREFIX + (model.version or storage.listing_version(model.path)[:16])

    def make(self, role: str, plan: Plan, work: Callable[[Plan], Artifact]) -> Artifact:
        """The plan's artifact: from the store where it is committed, else made now under its lease.

        Raises:
            ValueError: the inputs cannot be used, another live run makes the same artifact, or the store is full.
        """
        artifact = artifacts.find(self.config.store, plan)
        if artifact is None:
            self._connect()
            with Lease(storage.join(self.config.store, plan.name), self.config.name):
                artifact = artifacts.find(self.config.store, plan) or self._work(role, plan, work)
        else:
            self.reused.add(role)
            logger.info("%s: reused %s (%s)", role, plan.name, _size(artifact))
        self.artifacts[role] = artifact
        return artifact

    def _work(self, role: str, plan: Plan, work: Callable[[Plan], Artifact]) -> Artifact:
        start = time.monotonic()
        try:
            artifact = work(plan)
        except (OSError, ray.exceptions.RayError) as error:
            if not _is_full(error):
                raise
            raise ValueError(
                f"{role}: no space left where store ({self.config.store}) or temporary files are: free some, or set "
                "store= to another place; what is finished stands, and the same command goes on from there"
            ) from None
        logger.info("%s: made %s in %.1f s (%s)", role, plan.name, time.monotonic() - start, _size(artifact))
        return artifact

    def _connect(self) -> None:
        if not self._connected:
            logger.info("starting Ray")
            self._stack.enter_context(connected())
            self._connected = True


def _size(artifact: Artifact) -> str:
    if artifact.record["kind"] == "model":
        return f"{artifact.record['steps']} steps"
    counts = artifact.record["counts"]
    return f"{counts['rows']} rows, {counts['rejects']} rejects" if counts["rejects"] else f"{counts['rows']} rows"


def _is_full(error: BaseException | None) -> bool:
    """Whether an error, or what caused it on a worker, is that a disk is full."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(error):
            return True
        error = getattr(error, "cause", None) or error.__cause__
    return False
