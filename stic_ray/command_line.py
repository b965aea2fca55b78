"""What the command lines of all jobs share: their log, one line for what is wrong, Ctrl-C and SIGTERM, numbers."""

import argparse
import sys
import traceback
from collections.abc import Callable

from stic_ray import logs
from stic_ray.stopping import Stop, leave


def positive(text: str) -> int:
    """An argument that is a whole number above 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a positive number")
    return number


def add_log_format(parser: argparse.ArgumentParser) -> None:
    """The argument that says how a job logs."""
    parser.add_argument(
        "--log",
        choices=logs.FORMATS,
        default=logs.TEXT,
        help="how it logs to stderr: text to read (default), or json, a line of JSON each, for machines",
    )


def finish(work: Callable[[], str], log: str = logs.TEXT) -> int:
    """Do a job's work and print what it returns; the exit status, 2 for a mistake in the call or its inputs, 1
    for any other error, which is traced.

    Ctrl-C and SIGTERM end the process, with status 130 and 143.
    """
    logs.start(log)
    with Stop() as stop:
        try:
            sys.stdout.write(work())
        except ValueError as error:
            stop.hold()
            logs.say(f"error: {error}")
            return 2
        except KeyboardInterrupt:
            stop.hold()
            leave(130, "interrupted: run the same command again to go on from here")
        except Exception:  # noqa: BLE001 - said as Python would, but for secrets
            stop.hold()
            logs.say(traceback.format_exc().rstrip())
            return 1
        except SystemExit:  # how Ray answers SIGTERM while it starts
            stop.now()
    return 0
