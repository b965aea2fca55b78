"""Progress of long work: a bar on a terminal, plain lines in a log every ten seconds."""

import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextvars import copy_context
from types import TracebackType

from stic_ray import logs

logger = logging.getLogger(__name__)
LINE_EVERY_S = 10.0
BAR_EVERY_S = 0.2
_WIDTH = 28
_REASONS = 3  # the others are in the report


class Progress:
    """Counts units of a stage; a context manager that closes with one line.

    `total` None: nobody knows yet. `look` says what else there is to say; it is asked for each line of a log, so that
    one comes every ten seconds, whether or not something was finished.
    """

    def __init__(self, name: str, *, total: int | None, done: int = 0, look: Callable[[], str] | None = None) -> None:
        self._name = name
        self._total = total
        self._done = done
        self._look = look
        self._rejects: Counter[str] = Counter()
        self._start = time.monotonic()
        self._fresh = 0
        self._shown = 0.0
        self._terminal = sys.stderr.isatty() and not logs.is_json()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=copy_context().run, args=(self._tick,), daemon=True)

    @property
    def done(self) -> int:
        """Units that have ended, those of before included."""
        return self._done

    @property
    def rejects(self) -> Mapping[str, int]:
        """Rejects of this attempt, by reason."""
        return dict(self._rejects)

    def __enter__(self) -> "Progress":
        if self._total is not None:
            logger.info("%s: %d units to do", self._name, self._total - self._done)
        self._thread.start()
        return self

    def add(self, units: int, rejects: Counter[str]) -> None:
        """Note finished units, some of which may have been rejected."""
        self._done += units
        self._fresh += units
        self._rejects.update(rejects)
        if self._terminal and time.monotonic() - self._shown >= BAR_EVERY_S:
            self._shown = time.monotonic()
            self._draw()

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join(timeout=LINE_EVERY_S)  # it may be asking a cluster that has gone
        if self._terminal:
            sys.stderr.write("\r\033[K")
        if kind is None:
            logger.info("%s: %s%s", self._name, self._state(), self._reasons())

    def _tick(self) -> None:
        while not self._ended.wait(LINE_EVERY_S):
            if self._terminal:
                self._draw()
            else:
                more = f"; {self._look()}" if self._look is not None else ""
                logger.info("%s: %s%s%s", self._name, self._state(), self._reasons(), more)

    def _state(self) -> str:
        rate = f"{self._fresh / max(time.monotonic() - self._start, 1e-9):.1f}/s" if self._fresh else "none yet"
        rejected = f", {sum(self._rejects.values())} rejected" if self._rejects else ""
        total = "" if self._total is None else f"/{self._total}"
        return f"{self._done}{total} ({rate}{rejected})"

    def _reasons(self) -> str:
        """Why most of the rejects are ones."""
        most = self._rejects.most_common(_REASONS)
        others = sum(self._rejects.values()) - sum(count for _, count in most)
        told = "".join(f"; {count} of them: {reason[:80]}" for reason, count in most)
        return f"{told}; {others} for other reasons" if others else told

    def _draw(self) -> None:
        filled = round(_WIDTH * self._done / max(self._total or self._done, 1))
        bar = "#" * filled + "." * (_WIDTH - filled)
        sys.stderr.write(f"\r\033[K  {self._name} [{bar}] {self._state()}")
        sys.stderr.flush()
