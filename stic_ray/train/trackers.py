"""Where a training's metrics go beside its own file: TensorBoard always, Weights & Biases and MLflow if asked for."""

import hashlib
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from stic_ray import storage
from stic_ray.config import Mlflow, Tracker, Wandb, flatten, to_tree
from stic_ray.masking import masked
from stic_ray.standing import ProgressNote
from stic_ray.train.job import TENSORBOARD, Job

_PROGRESS_EVERY_S = 2.0  # where writing takes time


class _Sink(Protocol):
    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Trackers:
    """What is told of every step; a worker that is not heard tells nothing. A run that goes on, at `step`, writes a new
    event file, which begins there."""

    def __init__(self, job: Job, step: int, total: int, *, is_heard: bool) -> None:
        name = job.output.rstrip("/").rpartition("/")[2]
        self._sinks: list[_Sink] = []
        if is_heard:
            self._sinks += [_Progress(job, total), _TensorBoard(storage.join(job.output, TENSORBOARD), step)]
            self._sinks += [_start(tracker, name, to_tree(job.training), {}) for tracker in job.execution.trackers]

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """A step's metrics, as `train/NAME`."""
        told = {f"train/{key}": value for key, value in metrics.items() if key != "step"}
        for sink in self._sinks:
            sink.log(step, told)

    def close(self) -> None:
        """Write what is left."""
        for sink in self._sinks:
            sink.close()


class _Progress:
    """The file that the driver reads while it waits, and `jobs/status.py`."""

    def __init__(self, job: Job, total: int) -> None:
        self._note = ProgressNote(job.output, total=total)
        self._every_s = 0.0 if storage.is_local(job.output) else _PROGRESS_EVERY_S
        self._written_at = 0.0

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if time.monotonic() - self._written_at >= self._every_s:
            self._written_at = time.monotonic()
            told = {name: metrics[f"train/{name}"] for name in ("loss", "tokens_per_s")}
            self._note.write(step, figures=told)

    def close(self) -> None:
        pass


class _TensorBoard:
    """An event file, on a local disk where TensorBoard can follow it, else uploaded at the end."""

    def __init__(self, uri: str, step: int) -> None:
        self._uri = uri
        self._aside = None if storage.is_local(self._uri) else tempfile.TemporaryDirectory()
        self._folder = self._uri if self._aside is None else self._aside.name
        self._writer = SummaryWriter(self._folder, purge_step=step + 1)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def sum_up(self, settings: Mapping[str, Any], figures: Mapping[str, float]) -> None:
        """What TensorBoard's page of settings shows."""
        plain = {
            name: value if isinstance(value, int | float | str) else str(value) for name, value in settings.items()
        }
        for summary in hparams(plain, {f"dev/{name}": value for name, value in figures.items()}):
            self._writer.file_writer.add_summary(summary)  # a writer of its own might take this one's file

    def close(self) -> None:
        self._writer.close()
        if self._aside is not None:
            storage.upload_directory(self._folder, self._uri)
            self._aside.cleanup()


@dataclass(frozen=True, kw_only=True)
class Told:
    """What trackers are told of a trial of a sweep: its settings by dotted path, what it came to, and its metrics as
    they came, with the step of each."""

    name: str
    group: str
    settings: Mapping[str, Any]
    figures: Mapping[str, float]
    lines: Sequence[tuple[int, Mapping[str, float]]]

    def tags(self) -> dict[str, str]:
        """The sweep, and what is the same where the same is told again."""
        text = json.dumps(asdict(self), sort_keys=True)
        return {"sweep": self.group, "told": hashlib.sha256(text.encode()).hexdigest()}


def tell_trial(told: Told, tensorboard: str, trackers: Sequence[Tracker]) -> None:
    """Tell TensorBoard, whose event files go to the folder `tensorboard`, and the trackers of a trial that has ended.
    What is told again, as after a kill, takes the place of what was told before.

    Raises:
        ValueError: a tracker does not start, as without a login.
    """
    storage.remove(tensorboard)  # of a sweep that was killed here
    board = _TensorBoard(tensorboard, 0)
    board.sum_up(told.settings, told.figures)
    sinks = [board, *(_start(tracker, told.name, told.settings, told.tags()) for tracker in trackers)]
    for sink in sinks:
        for step, values in told.lines:
            sink.log(step, values)
        sink.close()


def _start(tracker: Tracker, name: str, settings: Any, tags: Mapping[str, str]) -> _Sink:
    """A run of its own for a trial, which has tags; a training's that goes on.

    Raises ValueError with what the tracker says where it does not start, as without a login.
    """
    try:
        return (
            _Wandb(tracker, name, settings, tags)
            if isinstance(tracker, Wandb)
            else _Mlflow(tracker, name, settings, tags)
        )
    except ImportError as error:  # a head has it, and this worker has not
        raise _refused(tracker, error) from error
    except _errors(tracker) as error:
        raise _refused(tracker, error) from error


def _errors(tracker: Tracker) -> tuple[type[Exception], ...]:
    """What a tracker's client raises where there is no login, no server, or no place to write to."""
    if isinstance(tracker, Wandb):
        import wandb

        return (wandb.Error,)
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, OSError


def _refused(tracker: Tracker, error: Exception) -> ValueError:
    told = " ".join(masked(str(error)).split())[:300]
    return ValueError(f"execution.trackers: {type(tracker).__name__} does not start: {told}")


class _Wandb:
    def __init__(self, tracker: Wandb, name: str, settings: Any, tags: Mapping[str, str]) -> None:
        import wandb

        self._run = wandb.init(
            project=tracker.project, name=name, id=name, group=tags.get("sweep"), resume="allow", config=settings
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    def __init__(self, tracker: Mlflow, name: str, settings: Any, tags: Mapping[str, str]) -> None:
        import mlflow

        self._mlflow = mlflow
        mlflow.set_tracking_uri(_database(tracker.uri) if tracker.is_folder else tracker.uri)
        mlflow.set_experiment(tracker.experiment)
        same = f"tags.told = '{tags['told']}'" if tags else f"run_name = '{name}'"
        found = mlflow.search_runs(filter_string=same, output_format="list")
        if tags:
            for run in found:  # whole, or in part where the sweep was killed
                mlflow.delete_run(run.info.run_id)
            found = []
        mlflow.start_run(run_id=found[0].info.run_id if found else None, run_name=name, tags=dict(tags))
        known = found[0].data.params if found else {}
        mlflow.log_params({key: value for key, value in flatten(settings).items() if key not in known})

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(metrics), step=step)

    def close(self) -> None:
        self._mlflow.end_run()


def _database(folder: str) -> str:
    """The address of a database in a folder, made if it is not there. MLflow's own form of a folder, a file a metric,
    cannot be read any more once a writer was killed in the middle of a file."""
    file = storage.join(folder, "mlflow.db")
    if not storage.exists(file):  # whole or not at all: what is half made is refused as of another version
        from mlflow import MlflowClient

        with tempfile.TemporaryDirectory() as aside:
            MlflowClient(f"sqlite:///{aside}/mlflow.db")
            storage.create_exclusively(file, Path(aside, "mlflow.db").read_bytes())
    return f"sqlite:///{file}"
