"""Trackers after a kill, by MLflow's own reader."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run

from stic_ray.config import Mlflow
from stic_ray.train.trackers import Told, tell_trial

_TOLD = Told(
    name="swept-a",
    group="swept",
    settings={"stage1.loss.alpha": 0.5, "stage1.lr": 1e-3},
    figures={"chair_i": 20.0},
    lines=[(1, {"stage1/loss": 0.9}), (2, {"stage1/loss": 0.8}), (2, {"dev/chair_i": 20.0})],
)


@pytest.fixture
def tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mlflow:
    """An MLflow store of this test's own."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return Mlflow(uri=str(tmp_path / "mlflow"), experiment="tested")


def _begin(tracker: Mlflow, tags: Mapping[str, str], *losses: float) -> str:
    """A run as a process that was killed while it told leaves it."""
    client = mlflow.MlflowClient(tracker.uri)
    experiment = client.get_experiment_by_name("tested")
    place = experiment.experiment_id if experiment is not None else client.create_experiment("tested")
    run = client.create_run(place, run_name=_TOLD.name, tags=dict(tags))
    for step, loss in enumerate(losses, 1):
        client.log_metric(run.info.run_id, "stage1/loss", loss, step=step)
    return str(run.info.run_id)


def _runs(tracker: Mlflow) -> list[Run]:
    client = mlflow.MlflowClient(tracker.uri)
    experiment = client.get_experiment_by_name("tested")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def test_trial_that_was_told_in_part_is_told_whole_and_once(tracker: Mlflow, tmp_path: Path) -> None:
    _begin(tracker, {"sweep": "swept"}, 0.9)
    tell_trial(_TOLD, str(tmp_path / "tensorboard"), [tracker])
    (run,) = _runs(tracker)
    assert {key: float(value) for key, value in run.data.params.items()} == _TOLD.settings
    assert (run.data.metrics["dev/chair_i"], run.data.tags["sweep"]) == (20.0, "swept")
    history = mlflow.MlflowClient(tracker.uri).get_metric_history(run.info.run_id, "stage1/loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.9), (2, 0.8)]


def test_runs_of_others_and_whole_ones_stay(tracker: Mlflow, tmp_path: Path) -> None:
    others = _begin(tracker, {"sweep": "another"}, 0.7)
    tell_trial(_TOLD, str(tmp_path / "tensorboard"), [tracker])
    tell_trial(replace(_TOLD, figures={"chair_i": 19.0}), str(tmp_path / "tensorboard"), [tracker])
    runs = _runs(tracker)
    assert len(runs) == 3 and others in {run.info.run_id for run in runs}


def test_training_that_goes_on_has_the_settings_that_it_could_not_tell_before(tracker: Mlflow, tmp_path: Path) -> None:
    run_id = _begin(tracker, {}, 0.9)
    tell_trial(replace(_TOLD, group=""), str(tmp_path / "tensorboard"), [tracker])
    (run,) = _runs(tracker)
    assert run.info.run_id == run_id and run.data.params.keys() == _TOLD.settings.keys()
