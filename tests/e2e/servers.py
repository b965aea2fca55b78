"""Servers that tests start beside themselves: free ports, and waiting until one answers."""

import socket
import subprocess
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

_START_TIMEOUT_S = 90.0


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, outside those that Ray gives its workers (10002 to 19999)."""
    with ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            bound = stack.enter_context(socket.socket())
            bound.bind(("", 0))
            port = int(bound.getsockname()[1])
            if not 10002 <= port <= 19999:
                ports.append(port)
    return ports


def wait_until_it_answers(
    request: "urllib.request.Request | str", process: "subprocess.Popen[bytes]", log: Path
) -> None:
    """Fails with the end of the server's log when it ends or does not answer in time."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.1)
