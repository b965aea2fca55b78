"""Trackers after kills, by MLflow's own reader."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run

from stic_ray.config import Execution, FullFinetune, Mlflow, SftLoss, Training
from stic_ray.train.job import Job, PairData
from stic_ray.train.trackers import Told, Trackers, tell_trial

_TOLD = Told(
    name="swept-a",
    group="swept",
    settings={"stage1.loss.alpha": 0.5, "stage1.lr": 1e-3},
    figures={"chair_i": 20.0},
    lines=[(1, {"stage1/loss": 0.9}), (2, {"stage1/loss": 0.8}), (2, {"dev/chair_i": 20.0})],
)


def _tracker(home: Path) -> Mlflow:
    return Mlflow(uri=str(home / "mlflow"), experiment="tested")


def _tell_trial(home: Path, told: Told = _TOLD) -> None:
    tell_trial(told, str(home / "tensorboard"), [_tracker(home)])


def _tell_training(home: Path) -> None:
    job = Job(
        model_uri="",
        dtype="float32",
        training=Training(loss=SftLoss(), weights=FullFinetune(), epochs=1, global_batch=4, lr=1e-3),
        data=PairData(parts=()),
        seed=0,
        output=str(home / "stage1-made"),
        execution=Execution(trackers=(_tracker(home),)),
    )
    trackers = Trackers(job, 0, 2, is_heard=True)
    for step in (1, 2):
        trackers.log(step, {"loss": 1.0 / step, "tokens_per_s": 1.0})
    trackers.close()


def _tell_until(tell: Callable[[Path], None], home: Path, function: str, calls: int) -> None:
    """Tell in a process that is killed as it calls a function of MLflow's for the so-manyth time."""
    left = calls

    def count(*arguments: object, **named: object) -> object:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*arguments, **named)

    whole = getattr(mlflow, function)
    setattr(mlflow, function, count)
    tell(home)


def _kill(tell: Callable[[Path], None], home: Path, function: str, calls: int = 1) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_tell_until, args=(tell, home, function, calls))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def _runs(home: Path) -> list[Run]:
    client = mlflow.MlflowClient(f"sqlite:///{home / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tested")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def _history(home: Path, run: Run) -> list[tuple[int, float]]:
    client = mlflow.MlflowClient(f"sqlite:///{home / 'mlflow' / 'mlflow.db'}")
    return [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, "stage1/loss")]


@pytest.mark.parametrize(
    ("function", "calls"), [("set_experiment", 1), ("log_params", 1), ("log_metrics", 2), ("end_run", 1)]
)
def test_trial_whose_telling_was_killed_is_told_whole_and_once(tmp_path: Path, function: str, calls: int) -> None:
    _kill(_tell_trial, tmp_path, function, calls)
    for _ in range(2):  # the second as when the sweep was killed before it noted that all is told
        _tell_trial(tmp_path)
        (run,) = _runs(tmp_path)
        assert {key: float(value) for key, value in run.data.params.items()} == _TOLD.settings
        assert (run.info.status, run.data.metrics["dev/chair_i"], run.data.tags["sweep"]) == ("FINISHED", 20.0, "swept")
        assert _history(tmp_path, run) == [(1, 0.9), (2, 0.8)]


def test_runs_that_tell_something_else_stay(tmp_path: Path) -> None:
    others = [replace(_TOLD, group="another"), replace(_TOLD, figures={"chair_i": 19.0})]
    for told in (*others, _TOLD):
        _tell_trial(tmp_path, told)
    assert len(_runs(tmp_path)) == 3


def test_training_that_goes_on_has_the_settings_that_it_could_not_tell_before(tmp_path: Path) -> None:
    _kill(_tell_training, tmp_path, "log_params")
    (begun,) = _runs(tmp_path)
    assert not begun.data.params
    _tell_training(tmp_path)
    (run,) = _runs(tmp_path)
    assert (run.info.run_id, run.info.status) == (begun.info.run_id, "FINISHED")
    assert (run.data.params["lr"], run.data.params["loss.type"]) == ("0.001", "SftLoss")
    assert run.data.metrics["train/loss"] == 0.5
