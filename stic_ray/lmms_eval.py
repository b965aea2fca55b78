"""Benchmarks that are not native on a run's models, by lmms-eval in an environment of its own."""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from stic_ray import storage
from stic_ray.artifacts import MODEL, Artifact
from stic_ray.command_line import finish, positive
from stic_ray.config import Config
from stic_ray.records import TaskFigure
from stic_ray.report import lmms
from stic_ray.report.command import write_page
from stic_ray.report.folder import open_run

_EPILOG = """\
lmms-eval's packages do not go with this project's: install it in an environment of its own, and give that one's Python.
  python3.11 -m venv lmms && lmms/bin/pip install 'lmms-eval>=0.7.3,<0.8'
  python jobs/lmms_eval.py runs/NAME --python lmms/bin/python --tasks mmstar,mme
It loads the run's merged checkpoints, and its tasks' data as it always does. What is there is not made again.
"""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is asked: the run, its configuration, the artifacts of trained models by name, None for the base."""

    run: str
    config: Config
    models: Mapping[str, Artifact | None]


def read_job(arguments: argparse.Namespace) -> Job:
    """What a command line means.

    Raises:
        ValueError: anything in it is wrong, or what it names is not there.
    """
    run = storage.absolute(arguments.run)
    with storage.reaching(run):
        folder = open_run(run)
    config = replace(folder.config, runs=run.rstrip("/").rpartition("/")[0])
    trained = {role: artifact for role, artifact in folder.artifacts.items() if artifact.record["kind"] == MODEL}
    models: dict[str, Artifact | None] = {"base": None, **trained}
    wanted = [name for name in models if not name.endswith("_control")]
    if arguments.models:
        wanted = [name.strip() for name in arguments.models.split(",") if name.strip()]
    for name in wanted:
        if name not in models:
            raise ValueError(f"--models {name}: the run has {', '.join(models)}")
    pool = replace(config.execution.pool, min_size=1, max_size=1, num_cpus=1.0, num_gpus=arguments.gpus)
    model = replace(config.model, path=storage.absolute(config.model.path))
    execution = replace(config.execution, pool=pool)
    config = replace(config, store=storage.absolute(config.store), model=model, execution=execution)
    return Job(run=run, config=config, models={name: models[name] for name in wanted})


def _class_of(model: str, given: str | None) -> str:
    """What lmms-eval calls the class of a checkpoint."""
    from stic_ray.stages.lmms import CLASSES

    family = json.loads(storage.read_text(storage.join(model, "config.json"))).get("model_type")
    if not given and family not in CLASSES:
        raise ValueError(f"--class: which of lmms-eval's classes is for {family}? It is known of {', '.join(CLASSES)}")
    return given or CLASSES[family]


def _arguments(given: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in given.split(",") if part]
    for name, equals, _ in pairs:
        if not (name and equals):
            raise ValueError(f"--args {name}: give NAME=VALUE,NAME=VALUE")
    return {name: value for name, _, value in pairs}


def evaluate(job: Job, arguments: argparse.Namespace) -> str:
    """Ask lmms-eval of every model, write the figures and the run's report; returns the closing table."""
    from stic_ray import artifacts, deliver  # with Ray, which takes seconds that a wrong call need not wait for
    from stic_ray.cluster import check_pool
    from stic_ray.run import Run
    from stic_ray.stages import lmms as stage
    from stic_ray.train.driver import model_of

    include = storage.absolute(arguments.include) if arguments.include else ""
    if include and not storage.list_files(include, ".yaml"):
        raise ValueError(f"--include {arguments.include} holds no task (*.yaml)")
    names = tuple(name.strip() for name in arguments.tasks.split(",") if name.strip())
    if not names:
        raise ValueError("--tasks is empty: name lmms-eval's tasks, like mmstar,mme")
    python = os.path.abspath(arguments.python) if os.sep in arguments.python else arguments.python
    version = stage.find_version(python)
    given = _arguments(arguments.args)
    found, of = {}, {}
    with Run(job.config, name=f"{job.config.name}-lmms", checks=(check_pool,)) as this:
        for name, artifact in job.models.items():
            model = job.config.model if artifact is None else this.made_model(model_of(artifact), artifact)
            of[name] = lmms.identity(job.config, artifact)
            tasks = stage.Tasks(
                python=python,
                names=names,
                include=include,
                limit=arguments.limit,
                model_class=_class_of(model.path, arguments.model_class),
                arguments=given,
                batch_size=arguments.batch_size,
            )
            plan = stage.plan(this.fingerprint_of(model), tasks, version, model.dtype)
            made = this.make(f"lmms_{name}", plan, partial(stage.run, job.config, model, tasks))
            found[name] = artifacts.read(made.uri, TaskFigure)
        deliver.write_stages(this, ["python", "jobs/lmms_eval.py", *sys.argv[1:]])
    tree = lmms.figures(found, of)
    storage.write_bytes(storage.join(job.run, lmms.JSON), json.dumps(tree, indent=1).encode())
    write_page(open_run(job.run))
    lines = lmms.table(tree)
    widths = [max(len(line[number]) for line in lines) for number in range(len(lines[0]))]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "".join(f"{line}\n" for line in [*rows, storage.join(job.run, lmms.JSON)])


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Ask lmms-eval of a run's models; the figures go into the run's report.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="a finished run's directory, like runs/NAME")
    parser.add_argument("--tasks", required=True, metavar="A,B", help="lmms-eval's tasks")
    parser.add_argument("--python", required=True, metavar="FILE", help="the Python of lmms-eval's environment")
    parser.add_argument(
        "--models",
        metavar="A,B",
        help="which of the run's: base, stage1, stage1_control, ... (default: all but controls)",
    )
    parser.add_argument("--include", metavar="DIR", help="a folder with tasks of your own, as lmms-eval has them")
    parser.add_argument("--limit", type=positive, metavar="N", help="the first N questions of each task")
    parser.add_argument("--class", dest="model_class", metavar="NAME", help="lmms-eval's class (default: by model)")
    parser.add_argument("--args", default="", metavar="K=V,K=V", help="further arguments of that class")
    parser.add_argument("--batch-size", type=positive, default=1, metavar="N")
    parser.add_argument("--gpus", type=float, default=0.0, metavar="N", help="for each model; 0 is a CPU (default)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Evaluate; exit status 2 for a wrong call."""
    arguments = _parse(argv)
    return finish(lambda: evaluate(read_job(arguments), arguments))


if __name__ == "__main__":
    sys.exit(main())
