"""The same run as a submitted job, on a Ray head that is started beside it."""

import re
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from e2e_project import ROOT, Project
from heads import BIN, end, environment_of_head

from kill_rounds import audit, compare, references
from servers import free_ports, wait_until_it_answers
from stic_ray import artifacts, storage

pytestmark = pytest.mark.slow

_EXPORT_S = 12.0  # a worker's metrics are exported every ten seconds
_METRIC = re.compile(r"^(ray_stic_ray_\w+)\{(.*)\} ([0-9.e+-]+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Head:
    """A running head: where jobs are submitted, and the folder that holds all that its nodes write."""

    address: str
    metrics: str
    folder: Path
    environment: dict[str, str]

    def submit(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """`ray job submit --working-dir CHECKOUT -- COMMAND`, waiting for its end."""
        return subprocess.run(
            [str(BIN / "ray"), "job", "submit", "--working-dir", str(ROOT), "--", *command],
            env={**self.environment, "RAY_ADDRESS": self.address},
            capture_output=True,
            text=True,
            timeout=300,
        )


def _version_request(head: Head) -> urllib.request.Request:
    token = Path(head.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    return urllib.request.Request(f"{head.address}/api/version", headers={"Authorization": f"Bearer {token}"})


@pytest.fixture(scope="module")
def head(s3_server: str) -> Iterator[Head]:
    """An isolated head of two CPUs, in an environment that names the S3 server."""
    folder = Path(tempfile.mkdtemp(prefix="sh-", dir="/tmp"))  # short: unix sockets lie below it
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port", "metrics-export-port")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    command = [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2", "--object-store-memory=200000000"]
    command += [f"--temp-dir={folder / 'ray'}", *(f"--{name}={port}" for name, port in ports.items())]
    found = Head(
        address=f"http://127.0.0.1:{ports['dashboard-port']}",
        metrics=f"http://127.0.0.1:{ports['metrics-export-port']}/metrics",
        folder=folder,
        environment=environment_of_head(folder),
    )
    log = folder / "head.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=found.environment, stdout=output, stderr=output, start_new_session=True)
    try:
        wait_until_it_answers(_version_request(found), process, log)
        yield found
    finally:
        end(process)
        shutil.rmtree(folder, ignore_errors=True)


def test_submitted_job_on_s3_makes_what_a_local_run_makes(head: Head, finished: Project, s3_bucket: str) -> None:
    config = str(finished.home / "own.yaml")
    settings = [f"store={s3_bucket}/store", f"runs={s3_bucket}/runs"]
    with _scraped(head) as metrics:
        done = head.submit("python", "jobs/stic_pipeline.py", "--config", config, *settings)
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
    done = head.submit("python", "jobs/stic_pipeline.py", *settings)
    assert done.returncode == 1
    output = done.stdout + done.stderr
    (line,) = {line for line in output.splitlines() if line.startswith("error: ")}  # Ray says a job's last lines again
    assert "is a relative path" in line and "set both store=URI and runs=URI" in line
    assert "failed" in output.lower() and "Traceback" not in output
