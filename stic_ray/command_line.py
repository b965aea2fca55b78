"""What the command lines of all jobs share: their log, one line for what is wrong, Ctrl-C, numbers."""

import argparse
import os
import sys
from collections.abc import Callable

from stic_ray import logs


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
    """Do a job's work and print what it returns; the exit status, 2 for a mistake in the call or its inputs."""
    logs.start(log)
    try:
        sys.stdout.write(work())
    except ValueError as error:
        logs.say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        logs.say("interrupted: run the same command again to go on from here")
        sys.stderr.flush()
        os._exit(130)  # Ray's processes end with this one; its shutdown breaks under threads that wait for trainings
    return 0
