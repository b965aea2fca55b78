"""What the command lines of all jobs share: their log, one line for what is wrong, Ctrl-C, numbers."""

import argparse
import logging
import os
import sys
from collections.abc import Callable


def positive(text: str) -> int:
    """An argument that is a whole number above 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a positive number")
    return number


def finish(work: Callable[[], str]) -> int:
    """Do a job's work and print what it returns; the exit status, 2 for a mistake in the call or its inputs."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("stic_ray").setLevel(logging.INFO)
    try:
        sys.stdout.write(work())
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: run the same command again to go on from here\n")
        sys.stderr.flush()
        os._exit(130)  # Ray's processes end with this one; its shutdown breaks under threads that wait for trainings
    return 0
