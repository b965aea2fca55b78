"""Ray heads that tests start beside themselves: their environment, and the end of all that they started."""

import os
import secrets
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

BIN = Path(sys.executable).parent
_END_TIMEOUT_S = 5.0
_POLL_S = 0.1


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
