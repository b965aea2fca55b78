"""The log of a job: lines to read, or JSON lines for machines, each with the run and the role that it is about."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

from stic_ray.masking import masked

TEXT, JSON = "text", "json"
FORMATS = (TEXT, JSON)
# Of the thread; one that is started for the same work gets a copy of the context that it is started in.
_about: ContextVar[tuple[str, str]] = ContextVar("about", default=("", ""))


class JsonFormatter(logging.Formatter):
    """A line a record: `time` (ISO 8601, UTC), `level`, `run`, `role` ("" outside of one), `logger`, `message`, and
    `trace` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        run, role = _about.get()
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        told = {
            "time": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "run": run,
            "role": role,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            told["trace"] = self.formatException(record.exc_info)
        return json.dumps({name: masked(value) for name, value in told.items()})


class TextFormatter(logging.Formatter):
    """A line to read."""

    def format(self, record: logging.LogRecord) -> str:
        """The time of day, and what is said."""
        return masked(super().format(record))


def start(log: str) -> None:
    """Log to stderr, in one of FORMATS: this package's progress, and of others what is wrong."""
    handler = logging.StreamHandler(sys.stderr)
    text = TextFormatter("%(asctime)s %(message)s", datefmt="%H:%M:%S")
    handler.setFormatter(JsonFormatter() if log == JSON else text)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("stic_ray").setLevel(logging.INFO)


def is_json() -> bool:
    """Whether this process logs JSON lines."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers)


def say(text: str) -> None:
    """A job's last word, of what went wrong: on stderr as it is, or as a line of JSON."""
    if is_json():
        logging.getLogger(__name__).error("%s", text)
    else:
        sys.stderr.write(masked(f"{text}\n"))


@contextmanager
def about(run: str, role: str) -> Iterator[None]:
    """What this thread logs in the block is about a role of a run."""
    token = _about.set((run, role))
    try:
        yield
    finally:
        _about.reset(token)
