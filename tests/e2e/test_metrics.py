"""A real Prometheus scrapes a submitted run: all that the dashboard and the alerts name is there."""

import json
import shutil
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from e2e_project import ROOT
from heads import BIN, end, environment_of_head
from promql import CLUSTER, expressions, name_of, needing_a_gpu, program, selectors

from servers import free_ports, wait_until_it_answers
from stic_ray import artifacts

pytestmark = pytest.mark.slow

_EXPORT_S = 25.0  # Ray exports every ten seconds, Prometheus scrapes every ten
_PRICE = 3.0
_SETTINGS = (
    *("name=scraped", "unlabeled.sample=32", "instructions.sample=16", "evaluation=null"),
    *(
        "stage1.epochs=1",
        "stage1.global_batch=8",
        "stage1_control=null",
        "stage2.global_batch=8",
        "stage2_control=null",
    ),
    *("execution.checkpoint_every=1", "execution.batch_size=8", "execution.rows_per_file=16"),
    *("execution.pool.min_size=1", "execution.pool.max_size=1"),
    # Ray is told of a GPU that is not there: what is held and what it costs is counted all the same.
    *("execution.pool.num_gpus=0.5", f"execution.gpu_hour_price={_PRICE}"),
)


@dataclass(frozen=True)
class Scraped:
    """A finished run's folder, and the address of the Prometheus that watched it."""

    home: Path
    prometheus: str

    def ask(self, what: str, **parameters: str) -> Any:
        """What Prometheus's API says of the last hour."""
        now = time.time()
        every = {"start": f"{now - 3600}", "end": f"{now}", **parameters}
        query = urllib.parse.urlencode(every)
        with urllib.request.urlopen(f"{self.prometheus}/api/v1/{what}?{query}", timeout=30) as answer:
            told = json.load(answer)
        assert told["status"] == "success"
        return told["data"]

    def value(self, expression: str) -> float:
        """The one value of an expression now."""
        (found,) = self.ask("query", query=expression)["result"]
        return float(found["value"][1])


@contextmanager
def _running(command: list[str], log: Path, environment: dict[str, str], ready: Any) -> Iterator[None]:
    """A server in a session of its own, from when it answers."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        wait_until_it_answers(ready, process, log)
        yield
    finally:
        end(process)


@pytest.fixture(scope="module")
def scraped() -> Iterator[Scraped]:
    """A small run, submitted to a head that a Prometheus scrapes by cluster/monitoring/prometheus.yml."""
    prometheus = program("prometheus")
    folder = Path(tempfile.mkdtemp(prefix="sm-", dir="/tmp"))  # short: unix sockets lie below it
    environment = environment_of_head(folder)
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port", "metrics-export-port")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    (listening,) = free_ports(1)
    head = [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2", "--num-gpus=1"]
    head += ["--object-store-memory=200000000", f"--temp-dir={folder / 'ray'}"]
    head += [f"--{name}={port}" for name, port in ports.items()]
    address = f"http://127.0.0.1:{ports['dashboard-port']}"
    token = (folder / "token").read_text()
    version = urllib.request.Request(f"{address}/api/version", headers={"Authorization": f"Bearer {token}"})
    command = [prometheus, f"--config.file={_configuration(folder)}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    command += [f"--web.listen-address=127.0.0.1:{listening}"]
    found = Scraped(home=folder / "runs" / "scraped", prometheus=f"http://127.0.0.1:{listening}")
    try:
        with (
            _running(head, folder / "head.log", environment, version),
            _running(command, folder / "prometheus.log", environment, f"{found.prometheus}/-/ready"),
        ):
            _submit({**environment, "RAY_ADDRESS": address}, folder)
            time.sleep(_EXPORT_S)
            yield found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _configuration(folder: Path) -> Path:
    """cluster/monitoring/prometheus.yml, where the head's folder is another one."""
    text = (CLUSTER / "prometheus.yml").read_text()
    assert text.count("[/tmp/ray/") == 1
    (folder / "prometheus.yml").write_text(text.replace("[/tmp/ray/", f"[{folder}/ray/"))
    shutil.copy(CLUSTER / "alerts.yml", folder)
    return folder / "prometheus.yml"


def _submit(environment: dict[str, str], folder: Path) -> None:
    places = [f"store={folder / 'store'}", f"runs={folder / 'runs'}"]
    job = ["python", "jobs/stic_pipeline.py", "--log", "json", *_SETTINGS, *places]
    command = [str(BIN / "ray"), "job", "submit", "--working-dir", str(ROOT), "--", *job]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    _check_log(done.stdout)


def _check_log(output: str) -> None:
    """The log came as JSON lines, which name the run and its roles."""
    lines = [json.loads(line) for line in output.splitlines() if line.startswith('{"time"')]
    assert {"responses", "stage1", "stage2"} <= {line["role"] for line in lines}
    assert {line["run"] for line in lines if line["role"]} == {"scraped"}
    assert any(line["message"].startswith("responses: made ") for line in lines)


def test_metrics_that_are_named_have_data(scraped: Scraped) -> None:
    asked = {selector for text in expressions().values() for selector in selectors(text)}
    found = {selector: scraped.ask("series", **{"match[]": selector}) for selector in asked}
    missing = {name_of(selector) for selector, series in found.items() if not series}
    there = {name_of(selector) for selector, series in found.items() if series}
    assert missing - needing_a_gpu() == set()
    assert there & needing_a_gpu() == set() or shutil.which("nvidia-smi")  # the list names no more than it must


@pytest.mark.parametrize("where", expressions())
def test_expression_is_answered(scraped: Scraped, where: str) -> None:
    text = expressions()[where]
    answer = scraped.ask("query_range", query=text, step="5")
    is_panel = where.endswith((" A", " B"))
    needs_gpu = bool({name_of(selector) for selector in selectors(text)} & needing_a_gpu())
    if is_panel and not needs_gpu:
        assert answer["result"], text


def test_figures_are_those_of_the_run(scraped: Scraped) -> None:
    made = artifacts.read_references(str(scraped.home))
    records = {role: artifacts.load(uri).record for role, uri in made.items()}
    for role in ("responses", "pairs"):
        units = scraped.value(f'sum(ray_stic_ray_units_total{{run="scraped", stage="{role}"}})')
        assert units == records[role]["inputs"]
    tokens = scraped.value('sum(ray_stic_ray_figures_total{stage="responses", figure="new_tokens"})')
    assert tokens == records["responses"]["new_tokens"]
    rejects = scraped.value('sum(ray_stic_ray_rejects_total{stage="pairs"})')
    assert rejects == records["pairs"]["counts"]["rejects"] > 0
    planned = scraped.value('max(max_over_time(ray_stic_ray_units_planned{stage="stage1"}[1h]))')
    assert planned == records["stage1"]["steps"]
    seconds = scraped.value('sum(ray_stic_ray_gpu_seconds_total{stage="responses"})')
    assert seconds == pytest.approx(0.5 * records["responses"]["seconds"], rel=0.3)
    cost = scraped.value("sum(ray_stic_ray_cost_total)")
    assert cost == pytest.approx(scraped.value("sum(ray_stic_ray_gpu_seconds_total)") / 3600 * _PRICE)


def test_finished_run_raises_no_alert_of_its_driver(scraped: Scraped) -> None:
    assert scraped.value('min(last_over_time(ray_stic_ray_run_in_work{run="scraped"}[1h]))') == 0
    firing = {alert["labels"]["alertname"] for alert in scraped.ask("alerts")["alerts"]}
    assert not firing & {"RunEndedUnfinished", "StageStalled", "CheckpointTooOld", "WorkersDie"}
