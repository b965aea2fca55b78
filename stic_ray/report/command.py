"""The command that writes a run's report.html again, or compares several runs in one page."""

import argparse
import logging
import sys

from stic_ray import storage
from stic_ray.report import compare, page, sweep_folder, sweep_page
from stic_ray.report.collect import collect
from stic_ray.report.folder import PAGE, RunFolder, open_run

COMPARED = "compare.html"


def write_page(folder: RunFolder, gpu_hour_price: float | None = None) -> str:
    """Write a run's report beside what else it left; returns where."""
    uri = storage.join(folder.uri, PAGE)
    storage.write_bytes(uri, page.render(collect(folder, gpu_hour_price)).encode())
    return uri


def _positive(text: str) -> float:
    price = float(text)
    if not 0 <= price < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: give a price, 0 or more")
    return price


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=f"Write a run's or a sweep's {PAGE} again, or for several runs one page that compares them."
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's directory, like runs/NAME (any fsspec URI)")
    parser.add_argument("--out", metavar="FILE", help=f"where the page goes (default: {PAGE} in the run, {COMPARED})")
    parser.add_argument(
        "--gpu-hour-price",
        type=_positive,
        metavar="PRICE",
        help="what a GPU costs an hour (default: execution.gpu_hour_price)",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Write the page and say where; exit status 2 for a wrong call."""
    arguments = _parse(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    try:
        name, text = _render(arguments)
        runs = [storage.absolute(run) for run in arguments.runs]
        out = storage.absolute(arguments.out) if arguments.out else storage.join(_beside(runs), name)
        with storage.reaching(f"--out {out}"):
            if storage.is_directory(out):
                raise ValueError(f"--out {out} is a folder: give the file that the page becomes")
            storage.write_bytes(out, text.encode())
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"{out}\n")
    return 0


def _render(arguments: argparse.Namespace) -> tuple[str, str]:
    """What the page is called where nobody says, and the page."""
    folders = []
    for run in map(storage.absolute, arguments.runs):
        with storage.reaching(run):
            if len(arguments.runs) == 1 and sweep_folder.is_sweep(run):
                return PAGE, sweep_page.render(sweep_folder.read(run))
            folders.append(open_run(run))
    if len(folders) == 1:
        return PAGE, page.render(collect(folders[0], arguments.gpu_hour_price))
    return COMPARED, compare.render(list(map(compare.read, folders)))


def _beside(runs: list[str]) -> str:
    """Where a page goes that nobody gave a place: in the run, or beside the first of several."""
    first = runs[0].rstrip("/")
    return first if len(runs) == 1 else first.rpartition("/")[0]
