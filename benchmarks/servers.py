"""Servers that tests and benchmarks start beside themselves: free ports, waiting until one answers, S3."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import fsspec

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


@contextmanager
def s3_server(log: Path) -> Iterator[str]:
    """The address of an S3 server over HTTP, which this process's environment names from then on."""
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output)
    os.environ |= {
        "AWS_ENDPOINT_URL_S3": address,
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        wait_until_it_answers(address, server, log)
        yield address
    finally:
        server.terminate()
        server.wait()


def make_bucket() -> str:
    """The URI of an empty bucket on the S3 server that the environment names."""
    name = f"bucket-{uuid.uuid4().hex}"
    fsspec.filesystem("s3").mkdir(name)
    return f"s3://{name}"
