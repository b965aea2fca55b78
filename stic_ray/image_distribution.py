"""The image-distribution analysis of STIC: how like each benchmark's images are to those of the self-training.

Vectors are made on Ray by the model's own vision tower, as artifacts; distribution.html and distribution.json of them.
"""

import argparse
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from stic_ray import artifacts, distribution, recipes, sources, storage
from stic_ray.artifacts import Artifact
from stic_ray.checkpoint import check_checkpoint
from stic_ray.command_line import finish, positive
from stic_ray.config import Config, ImageFolder, parse_config, read_yaml
from stic_ray.records import Embedding
from stic_ray.report.command import write_page
from stic_ray.report.distribution_page import HTML, JSON, DistributionPage, MappedSet, figures, render_page
from stic_ray.report.folder import open_run

SELF_TRAINING = "self-training"
_UNLABELED = ("listing", "images")  # of a run: what its images are made of, and they
_EPILOG = """\
settings are dotted keys, those of the run unless given, without --run those of the recipe embedded:
  model.path=MODEL model.dtype=bfloat16   whose vision tower looks
  execution.pool.num_gpus=1               where
  store=s3://bucket/store                 where the vectors go
"""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be compared: the run's images, where there is a run, and folders by name. Files go to `out`."""

    config: Config
    run: str
    unlabeled: Mapping[str, Artifact]
    folders: Mapping[str, str]
    sample: int
    out: str


def read_job(arguments: argparse.Namespace) -> Job:
    """What a command line means.

    Raises:
        ValueError: anything in it is wrong, or what it names is not there.
    """
    run = storage.absolute(arguments.run) if arguments.run else ""
    unlabeled: dict[str, Artifact] = {}
    if run:
        with storage.reaching(f"--run {run}"):
            where, unlabeled = storage.join(run, "config.yaml"), _unlabeled(run)
            config = parse_config(read_yaml(storage.read_text(where), where), arguments.overrides)
        home, _, name = run.rstrip("/").rpartition("/")
        config = replace(config, runs=home, name=name)
    else:
        config = parse_config(read_yaml(recipes.read(recipes.EMBEDDED), "recipe"), arguments.overrides)
    model = replace(config.model, path=storage.absolute(config.model.path))
    config = replace(config, store=storage.absolute(config.store), runs=storage.absolute(config.runs), model=model)
    folders = _folders(arguments.set, taken={SELF_TRAINING} if run else set())
    if len(folders) + bool(run) < 2:
        raise ValueError("there is nothing to compare: give --run and --set NAME=FOLDER, or --set twice or more")
    with storage.reaching(f"model.path {model.path}"):
        check_checkpoint(model.path)
    if arguments.out and storage.exists(storage.absolute(arguments.out)) and not storage.is_directory(arguments.out):
        raise ValueError(f"--out {arguments.out} is a file: give a folder")
    if not importlib.util.find_spec("sklearn"):
        raise ValueError("the map needs scikit-learn: install the extra analysis")
    return Job(
        config=config,
        run=run,
        unlabeled=unlabeled,
        folders=folders,
        sample=arguments.sample,
        out=storage.absolute(arguments.out) if arguments.out else run,
    )


def _unlabeled(run: str) -> dict[str, Artifact]:
    """The artifacts of a run's unlabeled images by role."""
    references = artifacts.read_references(run)
    if not references.keys() >= set(_UNLABELED):
        raise ValueError(f"--run {run} has no unlabeled images: give the folder of its images by --set instead")
    return {role: artifacts.load(references[role]) for role in _UNLABELED}


def _folders(given: Sequence[str], taken: set[str]) -> dict[str, str]:
    """Folders by name, each of which holds an image."""
    folders: dict[str, str] = {}
    for text in given:
        name, equals, uri = text.partition("=")
        if not (name.strip() and equals and uri):
            raise ValueError(f"--set {text}: give NAME=FOLDER")
        if name in folders or name in taken:
            raise ValueError(f"--set {text}: there is a set {name} already: give it another name")
        folders[name] = storage.absolute(uri)
        source = ImageFolder(uri=folders[name])
        with storage.reaching(f"--set {text}"):
            try:
                first = next(sources.list_files(source), None)
            except (FileNotFoundError, NotADirectoryError):
                raise ValueError(f"--set {text}: there is no such folder") from None
        if first is None:
            raise ValueError(f"--set {text}: the folder holds no image")
    return folders


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A set with the vectors of its images, float32 [N, D]."""

    name: str
    uri: str
    image_ids: list[str]
    vectors_ND: npt.NDArray[np.float32]
    rejects_by_reason: Mapping[str, int]


def embed_sets(job: Job, command: list[str]) -> tuple[str, list[Embedded]]:
    """The folder that refers to the vectors' artifacts, and the sets, the run's images first.

    Raises:
        ValueError: inputs that cannot be used, with the set and the remedy.
    """
    from stic_ray import deliver  # with Ray, which takes seconds that a wrong call need not wait for
    from stic_ray.cluster import check_pool
    from stic_ray.run import Run
    from stic_ray.stages import draw, embed, listing

    config = job.config
    made: dict[str, tuple[str, Artifact]] = {}
    with Run(config, name=f"{config.name}-distribution", checks=(check_pool,)) as this:

        def make(name: str, uri: str, images: Artifact) -> None:
            plan = embed.plan(images, config.model, this.base_model())
            work = partial(embed.run, config, images, config.model)
            try:
                made[name] = (uri, this.make(f"embeddings_{name}", plan, work))
            except ValueError as error:
                raise ValueError(f"--set {name}: {error}") from None

        if job.unlabeled:
            this.artifacts |= job.unlabeled
            images = job.unlabeled["images"]
            plan = draw.plan(config, images, job.sample)
            make(SELF_TRAINING, job.run, this.make("drawn_images", plan, partial(draw.run, config, images)))
        for name, uri in job.folders.items():
            source = ImageFolder(uri=uri, sample=job.sample)
            plan = listing.plan(config, source)
            make(name, uri, this.make(f"listing_{name}", plan, partial(listing.run, config, source)))
        deliver.write_stages(this, command)
        return this.home, [_read(name, *where) for name, where in made.items()]


def _read(name: str, uri: str, embeddings: Artifact) -> Embedded:
    """A set's vectors, in the order of their images' ids."""
    found: dict[str, npt.NDArray[np.float32]] = {}
    for rows in artifacts.iterate(embeddings.uri, Embedding):
        found |= {row.image_id: np.array(row.vector, dtype=np.float32) for row in rows}
    ids = sorted(found)
    return Embedded(
        name=name,
        uri=uri,
        image_ids=ids,
        vectors_ND=np.stack([found[key] for key in ids]),
        rejects_by_reason=embeddings.record["counts"]["rejects_by_reason"],
    )


def compare(job: Job, sets: Sequence[Embedded]) -> DistributionPage:
    """The overlap of each set with the first, and the map of all."""
    vectors = [each.vectors_ND.astype(np.float64) for each in sets]
    places = distribution.draw_map(np.concatenate(vectors))
    cuts = np.cumsum([len(part) for part in vectors])
    mapped = []
    for number, (each, part) in enumerate(zip(sets, np.split(places, cuts[:-1]), strict=True)):
        enough = min(len(vectors[0]), len(part)) >= distribution.MIN_IMAGES
        seed = job.config.seed
        mapped.append(
            MappedSet(
                name=each.name,
                uri=each.uri,
                image_ids=each.image_ids,
                places=[(float(x), float(y)) for x, y in part],
                rejects_by_reason=each.rejects_by_reason,
                overlap=distribution.overlap(vectors[0], vectors[number], seed=seed) if number and enough else None,
            )
        )
    config = job.config
    return DistributionPage(
        run=config.name,
        model=config.model.path,
        images=job.unlabeled["images"].fingerprint if job.unlabeled else "",
        sample=job.sample,
        seed=config.seed,
        sets=mapped,
    )


def _lines(page: DistributionPage) -> str:
    """What the job ends with."""
    lines = [f"overlap with {page.sets[0].name} (1: not to be told apart, 0: apart)"]
    for each in page.sets[1:]:
        found = each.overlap
        value = f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})" if found else "too few images"
        lines.append(f"{each.name:<20} {value:<24} {len(each.places)} images, {each.num_rejects} rejects")
    return "\n".join([*lines, ""])


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=f"Write {HTML} and {JSON}: how like benchmarks' images are to those of the self-training.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", help="a run's directory, like runs/NAME: its unlabeled images are the first set")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="a folder of images (any fsspec URI); repeated. Without --run all others are compared with the first",
    )
    parser.add_argument(
        "--sample", type=positive, default=1000, metavar="N", help="images of a set, drawn (default: %(default)s)"
    )
    parser.add_argument("--out", metavar="DIR", help="where the two files go (default: the run's directory)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings")
    return parser.parse_intermixed_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Compare sets of images; exit status 2 for a wrong call."""
    arguments = _parse(argv)
    return finish(partial(_write, arguments, ["python", "jobs/image_distribution.py", *(argv or sys.argv[1:])]))


def _write(arguments: argparse.Namespace, command: list[str]) -> str:
    """Make the files; what the job ends with."""
    job = read_job(arguments)
    home, sets = embed_sets(job, command)
    page = compare(job, sets)
    out = job.out or home
    with storage.reaching(f"--out {out}"):
        storage.write_bytes(storage.join(out, HTML), render_page(page).encode())
        storage.write_bytes(storage.join(out, JSON), f"{json.dumps(figures(page))}\n".encode())
    reports = [write_page(open_run(job.run))] if job.run and out == job.run else []
    made = "".join(f"{uri}\n" for uri in (storage.join(out, HTML), storage.join(out, JSON), *reports))
    return f"{_lines(page)}vectors       {home}    (artifacts.json names them)\n{made}"


if __name__ == "__main__":
    sys.exit(main())
