"""The same run as a submitted job, on a Ray head that is started beside it."""

import json
import re
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
from e2e_project import Project
from heads import BIN, Jobs, end, environment_of_head, members, wait, wait_for_jobs
from planted import SECRETS, secrets_in_bytes, secrets_in_folder, secrets_in_store

from kill_rounds import audit, compare, references
from servers import free_ports
from stic_ray import artifacts, storage
from stic_ray.artifacts import RECORD
from stic_ray.leases import LEASE
from stic_ray.stopping import LINE

pytestmark = pytest.mark.slow

_EXPORT_S = 12.0  # a worker's metrics are exported every ten seconds
_METRIC = re.compile(r"^(ray_stic_ray_\w+)\{(.*)\} ([0-9.e+-]+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Head:
    """A running head: its jobs, its metrics, the folder that holds all that its nodes write, and the session of all
    that it starts."""

    jobs: Jobs
    metrics: str
    folder: Path
    session: int


@pytest.fixture(scope="module")
def head(s3_server: str) -> Iterator[Head]:
    """An isolated head of two CPUs, in an environment that names the S3 server and holds secrets."""
    folder = Path(tempfile.mkdtemp(prefix="sh-", dir="/tmp"))  # short: unix sockets lie below it
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port", "metrics-export-port")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    command = [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2", "--object-store-memory=200000000"]
    command += [f"--temp-dir={folder / 'ray'}", *(f"--{name}={port}" for name, port in ports.items())]
    environment = {**environment_of_head(folder), **SECRETS, "WANDB_MODE": "offline", "WANDB_DIR": str(folder)}
    jobs = Jobs(address=f"http://127.0.0.1:{ports['dashboard-port']}", environment=environment)
    log = folder / "head.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        wait_for_jobs(jobs, ports["dashboard-agent-listen-port"], process, log)
        metrics = f"http://127.0.0.1:{ports['metrics-export-port']}/metrics"
        yield Head(jobs=jobs, metrics=metrics, folder=folder, session=process.pid)
    finally:
        end(process)
        shutil.rmtree(folder, ignore_errors=True)


def test_submitted_job_on_s3_makes_what_a_local_run_makes(head: Head, finished: Project, s3_bucket: str) -> None:
    config = str(finished.home / "own.yaml")
    trackers = f"[{{type: Wandb}}, {{type: Mlflow, uri: '{head.folder / 'mlflow'}'}}]"
    settings = [f"store={s3_bucket}/store", f"runs={s3_bucket}/runs", f"execution.trackers={trackers}"]
    with _scraped(head) as metrics:
        done = head.jobs.submit("python", "jobs/stic_pipeline.py", "--config", config, *settings)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    home = f"{s3_bucket}/runs/own"
    made = references(home)
    assert {uri.rpartition("/")[2] for uri in made.values()} == finished.made()
    assert all(uri.startswith(f"{s3_bucket}/store/") for uri in made.values())
    found = compare(references(finished.run_home), made)
    assert found.faults == []
    assert (found.num_lost, found.num_double, found.num_different_draws) == (0, 0, 0)
    assert found.num_texts > 0 and found.num_different_texts <= 0.001 * found.num_texts
    assert audit(home) == []
    for part in (
        "report.html",
        "report.md",
        "stage1/adapter/adapter_model.safetensors",
        "stage2/merged/model.safetensors",
    ):
        assert storage.size(f"{home}/{part}") > 0
    _check_upload(head)
    told = mlflow.MlflowClient(f"sqlite:///{head.folder / 'mlflow' / 'mlflow.db'}")
    experiment = told.get_experiment_by_name("stic_ray")
    assert experiment is not None
    assert len(list(head.folder.rglob("*.wandb"))) == len(told.search_runs([experiment.experiment_id])) == 2
    assert secrets_in_store(s3_bucket) == secrets_in_folder(head.folder) == []
    assert secrets_in_bytes((done.stdout + done.stderr).encode()) == []
    counts = artifacts.load(made["responses"]).record
    assert metrics["ray_stic_ray_units_total", "responses"] == counts["inputs"]
    assert metrics["ray_stic_ray_figures_total", "responses"] > 0  # tokens


@contextmanager
def _scraped(head: Head) -> Iterator[dict[tuple[str, str], float]]:
    """The largest value of our metrics by name and stage, as Prometheus would read them in the meantime."""
    found: dict[tuple[str, str], float] = {}
    ended = threading.Event()

    def scrape() -> None:
        while not ended.wait(1.0):
            try:
                text = urllib.request.urlopen(head.metrics, timeout=5).read().decode()
            except OSError:
                continue
            for name, labels, value in _METRIC.findall(text):
                key = (name, dict(_LABEL.findall(labels)).get("stage", ""))
                found[key] = max(found.get(key, 0.0), float(value))

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield found
    finally:
        time.sleep(_EXPORT_S)
        ended.set()
        thread.join()


def _check_upload(head: Head) -> None:
    """What travelled is the sources, not the environment and not what runs left in the checkout."""
    copies = list(head.folder.glob("ray/session_latest/runtime_resources/working_dir_files/_ray_pkg_*/"))
    assert copies
    for copy in copies:
        names = {path.name for path in copy.iterdir()}
        assert {"jobs", "stic_ray"} <= names
        assert names & {".git", ".venv", "store", "runs", ".mypy_cache", ".pytest_cache", ".ruff_cache"} == set()
        assert sum(path.stat().st_size for path in copy.rglob("*") if path.is_file()) < 20_000_000


@pytest.mark.parametrize("settings", [[], ["store=here", "runs=file:///tmp/there"]], ids=["defaults", "store"])
def test_submitted_job_with_relative_output_fails_with_one_clear_line(head: Head, settings: list[str]) -> None:
    done = head.jobs.submit("python", "jobs/stic_pipeline.py", *settings)
    assert done.returncode == 1
    output = done.stdout + done.stderr
    (line,) = {line for line in output.splitlines() if line.startswith("error: ")}  # Ray says a job's last lines again
    assert "is a relative path" in line and "set both store=URI and runs=URI" in line
    assert "failed" in output.lower() and "Traceback" not in output
    assert secrets_in_bytes(output.encode()) == secrets_in_folder(head.folder) == []


def _questions(folder: Path, images: Path) -> str:
    """The setting of an evaluation on the project's images."""
    questions = [
        {
            "image": image.name,
            "question_id": number,
            "text": "what color is the car ?",
            "answer": "red",
            "category": "a",
        }
        for number, image in enumerate(sorted(images.glob("*.png"))[:8])
    ]
    path = folder / "questions.jsonl"
    path.write_text("".join(f"{json.dumps(question)}\n" for question in questions))
    asked = f"{{type: ShortAnswers, questions: '{path}', images: '{images}'}}"
    return f"evaluation={{test: {{asked: {asked}}}, max_new_tokens: 8}}"


def _committed(store: Path) -> dict[Path, int]:
    """The files of a store that no later attempt may make again, with their times."""
    patterns = ("*/record.json", "*/data/*.parquet", "*/rejects/*.parquet")
    return {path: path.stat().st_mtime_ns for pattern in patterns for path in store.glob(pattern)}


def _has_begun(artifact: Path) -> bool:
    """Whether an artifact is being made, and stage 1's has a checkpoint."""
    checkpoints = artifact.name.startswith("stage1") and not list(artifact.glob("checkpoints/*/checkpoint.json"))
    return (artifact / LEASE).exists() and not checkpoints


def _works(pid: int) -> bool:
    """Whether a process works for a run: Ray's own beside it are idle workers, agents and the like."""
    with suppress(OSError):
        title = Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
        return title.startswith(("ray::MapWorker", "ray::Train", "ray::RayTrain", "ray::Ledger"))
    return False


def _stop_in(head: Head, artifact: Path, command: tuple[str, ...]) -> None:
    """Submit a job, stop it when it makes an artifact, and look at how it ends."""
    name = f"stopped-{artifact.name}"
    head.jobs.start(name, *command, options=("--entrypoint-num-cpus", "0.5"))

    def story() -> str:
        return f"{name} is {head.jobs.status(name)}: {head.jobs.logs(name)[-3000:]}"

    wait(lambda: _has_begun(artifact), story, lambda: head.jobs.status(name) in ("PENDING", "RUNNING"))
    head.jobs.stop(name)
    wait(lambda: head.jobs.status(name) == "STOPPED", story)
    assert not (artifact / RECORD).exists(), f"committed before the stop: {story()}"
    assert list(artifact.parent.glob(f"*/{LEASE}")) == [], story()
    said = head.jobs.logs(name)
    assert said.endswith(f"{LINE}\n") and "Traceback" not in said and "SIGTERM" not in said, story()
    wait(lambda: not any(map(_works, members(head.session))), lambda: "actors of a job that was stopped live on")


STOPPED = ("responses", "pairs_scores", "stage1", "descriptions", "stage2", "predictions_stage2")


@pytest.mark.long
def test_job_stopped_in_each_stage_and_submitted_again_goes_on(head: Head, finished: Project, tmp_path: Path) -> None:
    """Nothing is lost or double, and what was committed before a stop stays as it is."""
    settings = (_questions(tmp_path, finished.home / "images"), "stage1.steps=40")
    undisturbed = finished.copy(tmp_path / "undisturbed")
    undisturbed.finish(*settings)
    expected = references(undisturbed.run_home)
    store, runs = tmp_path / "store", tmp_path / "runs"
    config = str(finished.home / "own.yaml")
    command = ("python", "jobs/stic_pipeline.py", "--config", config, *settings, f"store={store}", f"runs={runs}")
    kept: dict[Path, int] = {}
    for role in STOPPED:
        _stop_in(head, store / Path(expected[role]).name, command)
        now = _committed(store)
        assert kept.items() <= now.items()
        kept = now
    done = head.jobs.submit(*command)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert kept.items() <= _committed(store).items()
    made = references(runs / "own")
    found = compare(expected, made)
    assert found.faults == [] and audit(runs / "own") == []
    assert (found.num_lost, found.num_double, found.num_different_draws) == (0, 0, 0)
    assert found.num_texts > 0 and found.num_different_texts <= 0.001 * found.num_texts
    attempts = artifacts.load(made["stage1"]).record["attempts"]
    assert len(attempts) == 2 and attempts[1]["step"] > 0
