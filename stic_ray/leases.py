"""The right to make an artifact: one process has it at a time, and whoever dies with it loses it.

A process is told by its host, number and start, so that a lease's holder is known to be dead where it can be seen.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any

from stic_ray import storage
from stic_ray.stopping import before_end

logger = logging.getLogger(__name__)
LEASE = "lease.json"
LEASE_S = 60.0
_WAIT = "wait for it, or end it and start again"
_LOOK_EVERY_S = 1.0  # whether a lease is renewed that another machine holds
_SETTLE_S = 2.0  # longer than another taker needs from reading a dead lease to replacing it


class BusyError(ValueError):
    """Another live run is making the same artifact."""


class Lease:
    """The right to write one artifact, renewed while held; a context manager.

    A lease whose holder is dead (its process on this host, or no renewal for LEASE_S seconds) is taken over; one of
    another machine is looked at until it is renewed, which a live holder does four times in LEASE_S. On local
    disks exactly one taker gets it. Elsewhere a taker waits _SETTLE_S and looks whether it still has it; one that
    is slower than that, and a process that stood still for LEASE_S, find out when they renew and when they commit:
    they have doubled work but, by the files' names and the readers' rule, no row. Looking and committing are two
    steps, so that two records of one artifact can still be written within a moment: they say the same of other files.
    """

    def __init__(self, uri: str, holder: str) -> None:
        self._artifact = uri
        self._uri = storage.join(uri, LEASE)
        self._token = uuid.uuid4().hex
        self.holder = holder
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Lease":
        before_end(_release_leases)
        while (other := self._take()) is not None:
            if not self._ends(other):
                raise BusyError(f"{self._artifact} is being made by {describe_process(other)}: {_WAIT}")
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()
        return self

    def _take(self) -> dict[str, Any] | None:
        """Take it where nobody alive has it; else that one's."""
        takes_over = False
        with _holding, storage.locked(f"{self._uri}.lock"):
            while not (storage.create_exclusively(self._uri, self._content()) and self._stays(takes_over)):
                other = self._read()
                if other is not None and _is_alive(other):
                    return other
                storage.remove(self._uri)
                takes_over = True
            _held[self._artifact] = self
        return None

    def _ends(self, other: Mapping[str, Any]) -> bool:
        """Whether a lease is given up or expires instead of being renewed, where its holder cannot be seen.

        A job that is tried again after its machine was lost comes sooner than that.
        """
        if _is_here(other):
            return False
        logger.info("%s: waiting whether %s still works", self._artifact, describe_process(other))
        while _is_alive(other):
            time.sleep(_LOOK_EVERY_S)
            now = self._read()
            if now is None or now["token"] != other["token"]:
                return True
            if now["renewed_at"] != other["renewed_at"]:
                return False
        return True

    def check(self) -> None:
        """Raises BusyError when this lease was taken over, because this process stood still for too long."""
        other = self._read()
        if other is None or other["token"] != self._token:
            taker = describe_process(other) if other else "another run, which has ended"
            raise BusyError(f"{self._artifact} was taken over by {taker}, and this run may not commit it: {_WAIT}")

    def _stays(self, takes_over: bool) -> bool:
        """Whether the lease is still ours when another one that saw the same dead lease has replaced it."""
        if not takes_over or storage.is_local(self._uri):
            return True
        time.sleep(_SETTLE_S)
        return self._is_mine()

    def __exit__(self, *_: object) -> None:
        with _holding:
            _held.pop(self._artifact, None)
        self.release()

    def release(self) -> None:
        """Let others have it. Only when it cannot be renewed any more: a late renewal would write it again."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._is_mine():
            storage.remove(self._uri)

    def _is_mine(self) -> bool:
        """False when the lease was taken over, because this process was stopped for too long."""
        entry = self._read()
        return entry is not None and entry["token"] == self._token

    def _content(self) -> bytes:
        return json.dumps({**this_process(self.holder), "token": self._token, "renewed_at": time.time()}).encode()

    def _read(self) -> dict[str, Any] | None:
        return _read_lease(self._uri)

    def _renew(self) -> None:
        while not self._stop.wait(LEASE_S / 4):
            try:
                with storage.reaching(self._uri):
                    if not self._is_mine():
                        logger.error("%s was taken over by another run: this one may not commit it", self._artifact)
                        return
                    storage.write_bytes(self._uri, self._content())
            except ValueError as error:  # a full disk, a broken connection: the stage meets it too, and says so
                logger.warning("a lease cannot be renewed for now: %s", error)


_LEASE_NAMES = {"holder", "token", "host", "boot", "pid_namespace", "pid", "started", "renewed_at"}


def _read_lease(uri: str) -> dict[str, Any] | None:
    try:
        entry: dict[str, Any] = json.loads(storage.read_text(uri))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError):  # its writer was killed while it wrote
        return None
    whole = isinstance(entry, dict) and entry.keys() >= _LEASE_NAMES
    return entry if whole else None


def holder(uri: str) -> str:
    """Who makes an artifact now, in words; "" where nobody does."""
    lease = _read_lease(storage.join(uri, LEASE))
    return describe_process(lease) if lease is not None and _is_alive(lease) else ""


def check(uri: str) -> None:
    """Raises BusyError where this process took the lease of the artifact at `uri`, and holds it no more."""
    with _holding:
        if uri in _held:
            _held[uri].check()


def run_of(uri: str) -> str:
    """The run that makes an artifact in this process; "" where nobody here holds its lease."""
    lease = _held.get(uri)
    return "" if lease is None else lease.holder


_held: dict[str, Lease] = {}  # by artifact's directory, of this process: what `commit` asks
_holding = threading.Lock()  # of what changes or asks that


def _release_leases() -> None:
    """Give up all leases of this process, which takes no other and is about to end: whoever comes next need not wait
    until they expire."""
    _holding.acquire()  # for good
    for uri, lease in _held.items():
        try:
            with storage.reaching(uri):
                lease.release()
        except ValueError as error:
            logger.warning("a lease is left to expire: %s", error)


def this_process(run: str) -> dict[str, Any]:
    """This process as it works for a run: what a lease says of its holder."""
    return {"holder": run, **_place(), "pid": os.getpid(), "started": _process_start(os.getpid())}


def describe_process(lease: Mapping[str, Any]) -> str:
    """What `this_process` gave, in words."""
    return f"run {lease['holder']!r} (process {lease['pid']} on {lease['host']})"


def _is_alive(lease: Mapping[str, Any]) -> bool:
    return is_alive(lease, float(lease["renewed_at"]))


def is_alive(process: Mapping[str, Any], seen_at: float) -> bool:
    """Whether what `this_process` gave somewhere still works: known on this host, elsewhere by when it was seen."""
    if _is_here(process):
        return _process_start(int(process["pid"])) == str(process["started"])
    return time.time() - seen_at < LEASE_S


def _is_here(process: Mapping[str, Any]) -> bool:
    """Whether what `this_process` gave is one that this process can see, if it lives."""
    return bool(process["started"]) and _place().items() <= process.items()


def _place() -> dict[str, str]:
    """Where a process's number means that process: containers share host names, and count their processes alone."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:  # a system without /proc: no process start is known there either
        boot = namespace = ""
    return {"host": socket.gethostname(), "boot": boot, "pid_namespace": namespace}


def _process_start(pid: int) -> str:
    """When a process of this host was started, in clock ticks since boot; "" when it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]
