"""The command that says where a run or a sweep stands."""

import argparse
import sys
import time

from stic_ray import status, storage, sweep_status
from stic_ray.report.sweep_folder import is_sweep
from stic_ray.standing import FINISHED, IN_WORK


def main(argv: list[str] | None = None) -> int:
    """Say where a run or a sweep stands; exit status 0 while it works or when it is finished, 1 where it ended in
    another way, 2 for a wrong call."""
    parser = argparse.ArgumentParser(description="Where a run or a sweep stands, how fast it goes, until when.")
    parser.add_argument("run", help="its directory, like runs/NAME (any fsspec URI)")
    parser.add_argument("--json", action="store_true", help="one line of JSON, for machines")
    parser.add_argument("--watch", type=float, metavar="SECONDS", help="again and again, until it ends")
    arguments = parser.parse_args(argv)
    try:
        return _follow(arguments)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130


def _follow(arguments: argparse.Namespace) -> int:
    if arguments.watch is not None and not 0 < arguments.watch < float("inf"):
        raise ValueError(f"--watch {arguments.watch:g}: give seconds, more than 0")
    while True:
        with storage.reaching(arguments.run):
            state, told = _look(storage.absolute(arguments.run), as_json=arguments.json)
        sys.stdout.write(told)
        sys.stdout.flush()
        if arguments.watch is None or state != IN_WORK:
            return 0 if state in (IN_WORK, FINISHED) else 1
        time.sleep(arguments.watch)
        sys.stdout.write("" if arguments.json else "\n")


def _look(run: str, *, as_json: bool) -> tuple[str, str]:
    """The state, and what is said of it."""
    if is_sweep(run):
        sweep = sweep_status.look_at(run)
        return sweep.run.state, sweep_status.to_json(sweep) if as_json else sweep_status.tell(sweep)
    found = status.look(run)
    return found.state, status.to_json(found) if as_json else status.tell(found)


if __name__ == "__main__":
    sys.exit(main())
