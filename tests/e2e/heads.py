"""Ray heads that tests start beside themselves: their environment, their jobs, the end of all that they started."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from e2e_project import ROOT

from servers import wait_until_it_answers

BIN = Path(sys.executable).parent
_END_TIMEOUT_S = 5.0
_WAIT_TIMEOUT_S = 300.0
_POLL_S = 0.1


@dataclass(frozen=True)
class Jobs:
    """A head's job server."""

    address: str
    environment: dict[str, str]

    def submit(self, *command: str, options: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
        """`ray job submit OPTIONS --working-dir CHECKOUT -- COMMAND`, waiting for its end."""
        return subprocess.run(
            [str(BIN / "ray"), "job", "submit", *options, "--working-dir", str(ROOT), "--", *command],
            env={**self.environment, "RAY_ADDRESS": self.address},
            capture_output=True,
            text=True,
            timeout=600,
        )

    def start(self, name: str, *command: str, options: tuple[str, ...] = ()) -> None:
        """The same without waiting, under a name of its own."""
        done = self.submit(*command, options=("--no-wait", "--submission-id", name, *options))
        assert done.returncode == 0, done.stdout + done.stderr

    def status(self, name: str) -> str:
        """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
        return str(self._ask(f"/api/jobs/{name}")["status"])

    def logs(self, name: str) -> str:
        """All that a job has said."""
        return str(self._ask(f"/api/jobs/{name}/logs")["logs"])

    def stop(self, name: str) -> None:
        """What `ray job stop` asks for, at once: the command itself takes seconds to start."""
        self._ask(f"/api/jobs/{name}/stop", method="POST")

    def request(self, path: str, method: str = "GET") -> urllib.request.Request:
        """A request to the server, with the head's token."""
        token = Path(self.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
        headers = {"Authorization": f"Bearer {token}"}
        return urllib.request.Request(f"{self.address}{path}", headers=headers, method=method)

    def _ask(self, path: str, method: str = "GET") -> Any:
        with urllib.request.urlopen(self.request(path, method), timeout=60) as answer:
            return json.load(answer)


def environment_of_head(folder: Path) -> dict[str, str]:
    """This process's, for a head whose `python` is this one and whose token is its own: Ray's default token is a file
    of the user's that only some heads ask for."""
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    dropped = ("RAY_ADDRESS", "RAY_AUTH_TOKEN")
    return {
        **{name: value for name, value in os.environ.items() if name not in dropped},
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
    }


def wait_for_jobs(jobs: Jobs, agent_port: int, head: "subprocess.Popen[bytes]", log: Path) -> None:
    """Until a head takes jobs, which its agent starts: it waits for that for ten seconds only."""
    wait_until_it_answers(jobs.request("/api/version"), head, log)

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((ray.util.get_node_ip_address(), agent_port)) == 0

    wait(listens, log.read_text, lambda: head.poll() is None)


def wait(condition: Callable[[], bool], story: Callable[[], str], going: Callable[[], bool] = lambda: True) -> None:
    """Fails with the story when the condition does not come true in time, or cannot since nothing is going on."""
    deadline = time.monotonic() + _WAIT_TIMEOUT_S
    while not condition():
        assert going() and time.monotonic() < deadline, story()
        time.sleep(_POLL_S)


def members(session: int) -> list[int]:
    """The processes of a session, which nodes and workers of a head that began one never leave."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(ValueError, ProcessLookupError):
            if os.getsid(int(entry.name)) == session:
                found.append(int(entry.name))
    return found


def end(head: "subprocess.Popen[bytes]") -> None:
    """End a head that began a session and everything that it started, by pid."""
    head.terminate()
    with suppress(subprocess.TimeoutExpired):
        head.wait(_END_TIMEOUT_S)
    while left := members(head.pid):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        head.poll()
        time.sleep(_POLL_S)
    head.wait()
