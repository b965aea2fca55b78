"""Sweeps as users start them: killed and resumed, read back from every tracker, and the best trial's own run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e_project import ROOT, audit
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from kill_rounds import descendants
from stic_ray.leases import LEASE

pytestmark = pytest.mark.slow

ALPHA, SHARE = "stage1.loss.alpha", "stage2.selection.keep_share"
CHAIR, ACCURACY = "describe_simple/chair_i", "questions/accuracy"
_TIMEOUT_S = 900.0
_TRIAL = "ray::ImplicitFunc"  # as Ray calls the process of one
# What depends on neither setting.
_SHARED = (
    *("listing", "images", "unique", "responses", "pairs", "pair_scores"),
    *("samples", "sample_scores", "sample_gains", "questions"),
)
_LIMIT = {"limit": 30}


@dataclass(frozen=True)
class Swept:
    """A folder with a sweep's configuration, its store and its runs."""

    home: Path

    @property
    def folder(self) -> Path:
        return self.home / "runs" / "swept"

    def start(self, job: str, *arguments: str) -> "subprocess.Popen[str]":
        environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_DIR": str(self.home), "WANDB_SILENT": "true"}
        command = [sys.executable, str(ROOT / "jobs" / job), *arguments]
        return subprocess.Popen(
            command, cwd=self.home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def finish(self, job: str, *arguments: str) -> str:
        process = self.start(job, *arguments)
        said, _ = process.communicate(timeout=_TIMEOUT_S)
        assert process.returncode == 0, said[-5000:]
        return said

    def trials(self, name: str = "swept") -> dict[str, dict[str, Any]]:
        files = (self.home / "runs" / name / "trials").glob("*/trial.json")
        return {file.parent.name: json.loads(file.read_text()) for file in files}

    def made(self) -> list[str]:
        return sorted(record.parent.name for record in (self.home / "store").glob("*/record.json"))


def _configuration(home: Path) -> dict[str, Any]:
    dev = {"describe_simple": _LIMIT, "questions": _LIMIT}
    return {
        "extends": "embedded-sweep",
        "name": "swept",
        "unlabeled": {"sample": 48},
        "instructions": {"sample": 64},
        "stage1": {"epochs": 1},
        "stage1_control": None,
        "stage2_control": None,
        "evaluation": {
            "resamples": 50,
            "dev": dev,
            "test": dict.fromkeys(("describe_simple", "describe_detailed", "pope", "questions", "reading"), _LIMIT),
        },
        "execution": {"trackers": [{"type": "Mlflow", "uri": str(home / "mlflow")}, {"type": "Wandb"}]},
        "sweep": {"trials": 4},
    }


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """A sweep of four trials, two at once, whose driver was killed when one had ended, and that was started again; then
    a trial's process was killed."""
    found = Swept(home=tmp_path_factory.mktemp("swept"))
    (found.home / "sweep.yaml").write_text(yaml.safe_dump(_configuration(found.home)))
    driver = found.start("sweep.py", "--config", "sweep.yaml")
    _wait_until_one_has_ended(found, driver)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    before = found.trials()
    ended = {name: trial["reports"] for name, trial in before.items() if trial["state"] != "running"}
    assert ended and len(ended) < 4
    marks = {
        file: file.stat().st_mtime_ns for name in ended for file in (found.folder / "trials" / name).glob("s*.json")
    }
    records = {file: file.stat().st_mtime_ns for file in (found.home / "store").glob("*/record.json")}
    driver = found.start("sweep.py", "--config", "sweep.yaml")
    _kill_a_trial(found, driver)
    said, _ = driver.communicate(timeout=_TIMEOUT_S)
    assert driver.returncode == 0, said[-5000:]
    after = found.trials()
    assert {name: after[name]["reports"] for name in ended} == ended
    assert {file: file.stat().st_mtime_ns for file in marks} == marks  # their summaries: nobody made them again
    assert {file: file.stat().st_mtime_ns for file in records} == records
    return found


def _kill_a_trial(found: Swept, driver: "subprocess.Popen[str]") -> None:
    """SIGKILL the process of a trial while it makes something, as when its node is lost."""
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        trials = [pid for pid in descendants(driver.pid) if _name(pid).startswith(_TRIAL)]
        if trials and any((found.home / "store").glob(f"*/{LEASE}")):
            os.kill(trials[0], signal.SIGKILL)
            return
        assert driver.poll() is None and time.monotonic() < deadline, (driver.stdout and driver.stdout.read()) or ""
        time.sleep(0.1)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def _wait_until_one_has_ended(found: Swept, driver: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        states = Counter(trial["state"] for trial in found.trials().values())
        works = any((found.home / "store").glob(f"*/{LEASE}"))
        if states["finished"] + states["stopped"] and states["running"] and works:
            return
        assert driver.poll() is None and time.monotonic() < deadline, (driver.stdout and driver.stdout.read()) or ""
        time.sleep(0.1)


def test_killed_sweep_goes_on_and_makes_what_trials_share_once(swept: Swept) -> None:
    trials = swept.trials()
    assert len(trials) == 4
    assert {trial["state"] for trial in trials.values()} <= {"finished", "stopped"}
    stages = Counter(name.rpartition("-")[0] for name in swept.made())
    assert {stage: stages[stage] for stage in _SHARED} == dict.fromkeys(_SHARED, 1)
    finished = [trial for trial in trials.values() if trial["state"] == "finished"]
    assert stages["stage1"] == 4 and stages["stage2"] == len(finished)
    assert {len(trial["reports"]) for trial in finished} == {2}
    for name in trials:
        done = audit(swept.folder / "trials" / name)
        assert done.returncode == 0, done.stdout


def test_sweep_ends_with_a_front_a_page_and_the_best_configuration_whose_run_gives_its_figures(swept: Swept) -> None:
    trials = swept.trials()
    finished = {name: trial for name, trial in trials.items() if trial["state"] == "finished"}
    best = min(finished, key=lambda name: _figures(finished[name])[CHAIR])
    page = (swept.folder / "report.html").read_text()
    assert 'aria-label="Pareto front"' in page and all(name in page for name in trials)
    config = yaml.safe_load((swept.folder / "best.yaml").read_text())
    values = finished[best]["schedule"][-1]
    assert config["stage1"]["loss"]["alpha"] == values[ALPHA]
    assert config["stage2"]["selection"]["keep_share"] == values[SHARE]
    before = set(swept.made())
    swept.finish("stic_pipeline.py", "--config", str(swept.folder / "best.yaml"), "execution.trackers=[]")
    added = Counter(name.rpartition("-")[0] for name in set(swept.made()) - before)
    assert added == {"questions": 1, "predictions": 3}  # with test's questions; nothing is trained again
    summary = json.loads((swept.home / "runs" / "swept-best" / "summary.json").read_text())
    of_run = summary["dev"]["stage2"]
    figures = {CHAIR: of_run["describe_simple"]["chair_i"], ACCURACY: of_run["questions"]["accuracy"]}
    assert figures == pytest.approx(_figures(finished[best]))


def _figures(trial: Mapping[str, Any]) -> dict[str, float]:
    return {name: figure["value"] for name, figure in trial["reports"][-1]["figures"].items()}


@pytest.fixture(scope="module")
def curves(swept: Swept) -> dict[str, list[float]]:
    """The loss of stage 1 by step, of every trial."""
    found = {}
    for name in swept.trials():
        rows = map(json.loads, (swept.folder / "trials" / name / "metrics.jsonl").read_text().splitlines())
        found[name] = [row["stage1/loss"] for row in rows if "stage1/loss" in row]
    assert all(map(len, found.values()))
    return found


def test_tensorboard_holds_every_trials_settings_objectives_and_curves(
    swept: Swept, curves: dict[str, list[float]]
) -> None:
    for name, trial in swept.trials().items():
        events = EventAccumulator(str(swept.folder / "tensorboard" / name))
        events.Reload()
        losses = [event.value for event in events.Scalars("stage1/loss")]
        assert losses == pytest.approx(curves[name], rel=1e-6)
        last = {figure: events.Scalars(f"dev/{figure}")[-1].value for figure in (CHAIR, ACCURACY)}
        assert last == pytest.approx(_figures(trial), rel=1e-6)
        content = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
        told = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
        settings = {key: value.number_value for key, value in told.items()}
        assert settings == pytest.approx(trial["schedule"][-1])


def test_mlflow_holds_every_trials_settings_objectives_and_curves(swept: Swept, curves: dict[str, list[float]]) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{swept.home / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("stic_ray")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    runs = {run.info.run_name: run for run in found}
    assert len(found) == len(runs) and set(runs) == {f"swept-{name}" for name in swept.trials()}
    for name, trial in swept.trials().items():
        run = runs[f"swept-{name}"]
        assert {key: float(value) for key, value in run.data.params.items()} == trial["schedule"][-1]
        assert run.data.tags["sweep"] == "swept"
        assert {key: run.data.metrics[f"dev/{key}"] for key in (CHAIR, ACCURACY)} == pytest.approx(_figures(trial))
        history = client.get_metric_history(run.info.run_id, "stage1/loss")
        losses = [metric.value for metric in sorted(history, key=lambda metric: metric.step)]
        assert losses == pytest.approx(curves[name])


def test_offline_wandb_holds_every_trials_settings_objectives_and_curves(
    swept: Swept, curves: dict[str, list[float]]
) -> None:
    found = dict(_wandb_runs(swept.home / "wandb"))
    assert set(found) == {f"swept-{name}" for name in swept.trials()}
    for name, trial in swept.trials().items():
        settings, history = found[f"swept-{name}"]
        assert {key: settings[key] for key in (ALPHA, SHARE)} == trial["schedule"][-1]
        losses = [row["stage1/loss"] for row in history if "stage1/loss" in row]
        assert losses == pytest.approx(curves[name])
        last = {key: [row[f"dev/{key}"] for row in history if f"dev/{key}" in row][-1] for key in (CHAIR, ACCURACY)}
        assert last == pytest.approx(_figures(trial))


def _wandb_runs(folder: Path) -> Iterator[tuple[str, tuple[dict[str, Any], list[dict[str, Any]]]]]:
    """The offline runs' names with their settings and their history, by W&B's own reader."""
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    for file in sorted(folder.glob("offline-run-*/*.wandb")):
        store = DataStore()
        store.open_for_scan(str(file))
        name, settings, history = "", {}, []
        while (data := store.scan_data()) is not None:
            record = wandb_internal_pb2.Record.FromString(data)
            if record.HasField("run"):
                name = record.run.display_name
                settings = {item.key: json.loads(item.value_json) for item in record.run.config.update}
            if record.HasField("history"):
                items = record.history.item
                history.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
        yield name, (settings, history)


def test_optuna_tries_what_others_reached_and_learns_from_finished_trials_alone(swept: Swept) -> None:
    """The settings are those of trials that have finished, so that nothing is trained."""
    values = [trial["schedule"][-1] for trial in swept.trials().values() if trial["state"] == "finished"]
    space = {ALPHA: {"type": "Choice", "values": [each[ALPHA] for each in values]}}
    settings = [
        *("name=optuna", "execution.trackers=[]", f"{SHARE}={values[0][SHARE]}", "sweep.search={type: OptunaSearch}"),
        *(f"sweep.space={json.dumps(space)}", "sweep.trials=3", "sweep.max_concurrent=1"),
    ]
    said = swept.finish("sweep.py", "--config", "sweep.yaml", *settings)
    trials = swept.trials("optuna")
    assert trials and {trial["state"] for trial in trials.values()} <= {"finished", "stopped"}, said


def test_population_ends_in_a_schedule_that_a_second_sweep_and_a_run_of_its_own_find_made(swept: Swept) -> None:
    space = {"stage1.lr": {"type": "LogUniform", "low": 1e-4, "high": 4e-3}}
    settings = [
        *("name=population", "execution.trackers=[]", f"sweep.space={json.dumps(space)}", "sweep.max_concurrent=null"),
        *("sweep.scheduler={type: Pbt, segments: 2, quantile: 0.34}", "sweep.trials=3", "stage1.steps=2"),
    ]
    swept.finish("sweep.py", "--config", "sweep.yaml", *settings)
    trials = swept.trials("population")
    assert {trial["state"] for trial in trials.values()} == {"finished"}
    schedules = [[each["stage1.lr"] for each in trial["schedule"]] for trial in trials.values()]
    assert len(schedules) == 3 and {len(each) for each in schedules} == {2}
    assert any(each[0] != each[1] for each in schedules)  # somebody took over another's model, and changed its rate
    made = swept.made()
    swept.finish("sweep.py", "--config", "sweep.yaml", *settings)
    assert swept.made() == made  # decided as before
    again = swept.trials("population")
    assert {name: (trial["schedule"], _figures(trial)) for name, trial in again.items()} == {
        name: (trial["schedule"], _figures(trial)) for name, trial in trials.items()
    }
    best = swept.home / "runs" / "population" / "best.yaml"
    config = yaml.safe_load(best.read_text())
    rates = [training["lr"] for training in (*config["stage1_before"], config["stage1"])]
    assert rates in schedules
    swept.finish("stic_pipeline.py", "--config", str(best), "stage2=null", "evaluation=null")
    assert swept.made() == made


def test_member_whose_model_names_nothing_fails_with_its_reason_and_the_population_goes_on(swept: Swept) -> None:
    space = {"stage1.lr": {"type": "Choice", "values": [1e-3, 1.0]}}
    settings = [
        *("name=wild", "execution.trackers=[]", f"sweep.space={json.dumps(space)}", "sweep.max_concurrent=null"),
        *("sweep.scheduler={type: Pbt, segments: 2, quantile: 0.5}", "sweep.trials=2", "stage1.steps=2"),
    ]
    said = swept.finish("sweep.py", "--config", "sweep.yaml", *settings)
    trials = swept.trials("wild")
    assert sorted(trial["state"] for trial in trials.values()) == ["failed", "finished"], said
    (error,) = (trial["error"] for trial in trials.values() if trial["state"] == "failed")
    assert "name nothing that is there" in error
    config = yaml.safe_load((swept.home / "runs" / "wild" / "best.yaml").read_text())
    assert config["stage1"]["lr"] == 1e-3
