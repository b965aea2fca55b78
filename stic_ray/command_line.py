"""What the command lines of all jobs share: their log, one line for what is wrong, Ctrl-C and SIGTERM, numbers."""

import argparse
import logging
import sys
import traceback
from collections.abc import Callable

from stic_ray.masking import mask_record, masked
from stic_ray.stopping import Stop, leave


def positive(text: str) -> int:
    """An argument that is a whole number above 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a positive number")
    return number


def finish(work: Callable[[], str]) -> int:
    """Do a job's work and print what it returns; the exit status, 2 for a mistake in the call or its inputs, 1
    for any other error, which is traced.

    Ctrl-C and SIGTERM end the process, with status 130 and 143.
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("stic_ray").setLevel(logging.INFO)
    for handler in logging.getLogger().handlers:
        handler.addFilter(mask_record)
    with Stop() as stop:
        try:
            sys.stdout.write(work())
        except ValueError as error:
            stop.hold()
            sys.stderr.write(masked(f"error: {error}\n"))
            return 2
        except KeyboardInterrupt:
            stop.hold()
            leave(130, "interrupted: run the same command again to go on from here\n")
        except Exception:  # noqa: BLE001 - said as Python would, but for secrets
            stop.hold()
            sys.stderr.write(masked(traceback.format_exc()))
            return 1
        except SystemExit:  # how Ray answers SIGTERM while it starts
            stop.now()
    return 0
