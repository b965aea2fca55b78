"""A clean end on SIGTERM, which `ray job stop`, Kubernetes and Slurm send some seconds before they kill.

What is in flight is done again by the next run, so that nothing has to be finished: leases are given up, one line says
how to go on, and the process ends, and with it what Ray does for it. A thread does that: the main one may be waiting
for a cluster or hold a lock, and what a signal's handler raises while Ray waits is lost.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from stic_ray import logs

STATUS = 128 + signal.SIGTERM
LINE = "stopped: run the same command, or submit the same job, again to go on from here"


_duties: list[Callable[[], None]] = []


def before_end(duty: Callable[[], None]) -> None:
    """Have something done, once, when this process is ended from outside; it is quick, and raises nothing."""
    if duty not in _duties:
        _duties.append(duty)


class Stop:
    """Ends this process on SIGTERM while the block runs; a context manager of the main thread."""

    def __init__(self) -> None:
        self._begun = threading.Event()
        self._reading, self._writing = os.pipe()
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._process = os.getpid()

    def __enter__(self) -> "Stop":
        self._thread.start()
        self._before = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        self.hold()
        signal.signal(signal.SIGTERM, self._before)
        os.close(self._writing)
        self._thread.join()
        os.close(self._reading)

    def hold(self) -> None:
        """Wait for the end where it has begun: whatever fails from then on fails because of it."""
        if self._begun.is_set():
            threading.Event().wait()

    def now(self) -> NoReturn:
        """End as if SIGTERM had come."""
        self._begun.set()
        leave(STATUS, LINE)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked child has the handler, and not the thread
            os._exit(STATUS)
        self._begun.set()
        os.write(self._writing, b"\0")

    def _wait(self) -> None:
        if os.read(self._reading, 1):
            leave(STATUS, LINE)


def leave(status: int, line: str) -> NoReturn:
    """Do what is left to do, and end the process at once, with a line on stderr; Ray's processes end with it.

    Its own shutdown takes longer than some senders of SIGTERM wait, and breaks under threads that wait for trainings.
    """
    try:
        for duty in _duties:
            duty()
        if sys.stderr.isatty():
            sys.stderr.write("\r\033[K")
        logs.say(line)
        sys.stderr.flush()
    finally:  # also where nobody reads stderr any more: what goes on would go on without its leases
        os._exit(status)


@contextmanager
def answer_kept() -> Iterator[None]:
    """SIGTERM is answered afterwards as before, where this process has an answer: Ray puts its own in its place."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
