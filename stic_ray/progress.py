"""Progress of long work: a bar on a terminal, plain lines in a log every ten seconds."""

import logging
import sys
import time
from collections import Counter
from types import TracebackType

logger = logging.getLogger(__name__)
LINE_EVERY_S = 10.0
BAR_EVERY_S = 0.2
_WIDTH = 28


class Progress:
    """Counts units of a stage; a context manager that closes with one line."""

    def __init__(self, name: str, *, total: int, done: int = 0) -> None:
        self._name = name
        self._total = total
        self._done = done
        self._rejects: Counter[str] = Counter()
        self._start = time.monotonic()
        self._fresh = 0
        self._shown = 0.0
        self._terminal = sys.stderr.isatty()

    def __enter__(self) -> "Progress":
        logger.info("%s: %d units to do", self._name, self._total - self._done)
        return self

    def add(self, units: int, rejects: Counter[str]) -> None:
        """Note finished units, some of which may have been rejected."""
        self._done += units
        self._fresh += units
        self._rejects.update(rejects)
        now = time.monotonic()
        if now - self._shown >= (BAR_EVERY_S if self._terminal else LINE_EVERY_S):
            self._shown = now
            self._show()

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if self._terminal:
            sys.stderr.write("\r\033[K")
        if kind is None:
            logger.info("%s: %s", self._name, self._state())

    def _state(self) -> str:
        rate = self._fresh / max(time.monotonic() - self._start, 1e-9)
        rejected = f", {sum(self._rejects.values())} rejected" if self._rejects else ""
        return f"{self._done}/{self._total} ({rate:.1f}/s{rejected})"

    def _show(self) -> None:
        if not self._terminal:
            logger.info("%s: %s", self._name, self._state())
            return
        filled = round(_WIDTH * self._done / max(self._total, 1))
        bar = "#" * filled + "." * (_WIDTH - filled)
        sys.stderr.write(f"\r\033[K  {self._name} [{bar}] {self._state()}")
        sys.stderr.flush()
