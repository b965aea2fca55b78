"""The report on visual information gain of a run: vig.html and vig.json from its gains, selections and models.

Gains are read file by file; what is held of them are sums, and the conversations that the page shows.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from stic_ray import artifacts, storage
from stic_ray.command_line import finish, positive
from stic_ray.records import Pair, Sample, Turn
from stic_ray.report.folder import RunFolder, open_run
from stic_ray.report.gain_blocks import gains_of, whole_block
from stic_ray.report.gains import Figures
from stic_ray.report.vig_page import HTML, JSON, VigPage, render_page

_TRAINED = ("stage1", "stage2")


def make_report(run: RunFolder, *, num_samples: int, models: Figures | None) -> tuple[str, Figures]:
    """The page, and its figures; `models` are `measure_models`' where they were asked for.

    Raises:
        ValueError: there are no gains, and no figures of models.
    """
    gains = gains_of(run)
    if not gains and models is None:
        raise ValueError(f"{run.uri} has no gains: set vig and a selection of stage1 or stage2, and run it again")
    blocks = [whole_block(run, role, artifact, num_samples) for role, artifact in gains.items()]
    name = run.config.name
    figures = {"run": name, "gains": {block.name: dict(block.figures) for block in blocks}, "models": models}
    return render_page(VigPage(run=name, blocks=blocks, models=models)), figures


def measure_models(run: RunFolder, num: int) -> Figures:
    """What training changed in how the run's models look, on so many of its samples and as many of its pairs.

    Only what is trained has a before and an after. torch is imported here: the page of gains alone needs none.
    """
    trained = [name for name in _TRAINED if name in run.artifacts]
    if not trained:
        return {"skipped": "the run trained no model"}
    from stic_ray.evaluate import looking
    from stic_ray.train.job import MERGED

    seed = run.config.seed
    short = looking.draw_short_samples(_samples(run), num, seed)
    probes = looking.Probes(
        samples=looking.draw_samples(_samples(run), num, seed),
        questions=looking.mislead(short, seed),
        pairs=looking.draw_pairs(_pairs(run), num, seed),
        seed=seed,
    )
    models = {name: storage.join(run.artifacts[name].uri, MERGED) for name in trained}
    figures = looking.measure({"base": run.config.model.path, **models}, run.config.model.dtype, probes)
    return {"probe": num, **figures}


def _samples(run: RunFolder) -> Iterator[Sample]:
    """The instruction samples, else the annotated ones, else the pairs' prompts with their chosen answers."""
    if "samples" in run.artifacts or "annotations" in run.artifacts:
        yield from _rows(run, ("samples", "annotations"), Sample)
        return
    for pair in _pairs(run):
        turns = [Turn(role="user", text=pair.prompt), Turn(role="assistant", text=pair.chosen)]
        yield Sample(
            id=pair.id,
            image_id=pair.image_id,
            image_uri=pair.image_uri,
            category=pair.negative,
            description="",
            turns=turns,
        )


def _pairs(run: RunFolder) -> Iterator[Pair]:
    return _rows(run, ("annotated_pairs", "pairs", "imported_pairs"), Pair)


def _rows(run: RunFolder, roles: Sequence[str], record: type) -> Iterator[Any]:
    """The rows of the first of these roles that the run has."""
    for role in [role for role in roles if role in run.artifacts][:1]:
        for rows in artifacts.iterate(run.artifacts[role].uri, record):
            yield from rows


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=f"Write {HTML} and {JSON}: where a run's answers need the image.")
    parser.add_argument("run", help="the run's directory, like runs/NAME (any fsspec URI)")
    parser.add_argument("--out", metavar="DIR", help="where the two files go (default: the run's directory)")
    parser.add_argument(
        "--samples", type=positive, default=20, metavar="N", help="conversations to show (default: %(default)s)"
    )
    parser.add_argument(
        "--models", action="store_true", help="also ask the base and the trained models, in this process"
    )
    parser.add_argument(
        "--probe", type=positive, default=64, metavar="N", help="samples and pairs to ask on (default: %(default)s)"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Write the report of a run; exit status 2 for a wrong call."""
    arguments = _parse(argv)
    return finish(lambda: _write(arguments))


def _write(arguments: argparse.Namespace) -> str:
    """Make the two files; what the job ends with."""
    with storage.reaching(arguments.run):
        run = open_run(storage.absolute(arguments.run))
        models = measure_models(run, arguments.probe) if arguments.models else None
        page, figures = make_report(run, num_samples=arguments.samples, models=models)
    out = storage.absolute(arguments.out or arguments.run)
    if storage.exists(out) and not storage.is_directory(out):
        raise ValueError(f"--out {out} is a file: give the folder that the two files go to")
    with storage.reaching(f"--out {out}"):
        storage.write_bytes(storage.join(out, HTML), page.encode())
        storage.write_bytes(storage.join(out, JSON), (json.dumps(figures, indent=1) + "\n").encode())
    skipped = f"--models was skipped: {models['skipped']}\n" if models is not None and "skipped" in models else ""
    return f"{skipped}{storage.join(out, HTML)}\n{storage.join(out, JSON)}\n"


if __name__ == "__main__":
    sys.exit(main())
