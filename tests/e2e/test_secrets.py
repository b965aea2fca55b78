"""Secrets of the environment end up nowhere, also where jobs fail and servers repeat what they are sent."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e_project import ROOT, Project
from planted import SECRETS, secrets_in_bytes, secrets_in_folder, secrets_in_store

from kill_rounds import references
from stic_ray import artifacts
from stic_ray.records import Verdict
from stic_ray.world import splits

pytestmark = pytest.mark.slow


class _Echo(ThreadingHTTPServer):
    """A judge and a hub that refuse whoever asks, and say with which key."""

    daemon_threads = True
    judges = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: _Echo

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        told = f"with {self.headers['authorization']}"
        if self.server.judges:
            choice = {"message": {"role": "assistant", "content": f"Grade: 0.5\n{told}"}, "finish_reason": "stop"}
            self._send(200, {"choices": [choice]})
        else:
            self._send(401, {"error": told})

    def _send(self, status: int, tree: Any) -> None:
        body = json.dumps(tree).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("x-error-message", str(tree.get("error", "")))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def echo() -> Iterator[_Echo]:
    server = _Echo(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def logs() -> Iterator[Path]:
    """Where Ray writes its own."""
    folder = Path(tempfile.mkdtemp(prefix="sl-", dir="/tmp"))  # short: unix sockets lie below it
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _run(command: list[str], logs: Path, **more: str) -> "subprocess.CompletedProcess[bytes]":
    environment = {**os.environ, **SECRETS, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": str(logs), **more}
    done = subprocess.run(command, cwd=logs, env=environment, capture_output=True, timeout=300)
    assert secrets_in_bytes(done.stdout + done.stderr) == [], done.stderr.decode()[-3000:]
    return done


def _told(done: "subprocess.CompletedProcess[bytes]", status: int) -> str:
    said = done.stderr.decode()
    assert done.returncode == status, said[-3000:]
    return said


def test_jobs_that_are_refused_or_fail_on_a_worker_say_no_secret(project: Project, echo: _Echo, logs: Path) -> None:
    own, hub = project.command(), {"HF_ENDPOINT": echo.address, "HF_HUB_OFFLINE": "0"}
    assert "no-such-bucket" in _told(_run([*own, "store=s3://no-such-bucket/store"], logs), 2)
    assert "hub.repo me/mine: " in _told(_run([*own, "hub={repo: me/mine}"], logs, **hub), 2)
    model = project.home / "other-sizes"  # which an actor finds out
    shutil.copytree(yaml.safe_load((project.home / "own.yaml").read_text())["model"]["path"], model)
    settings = json.loads((model / "config.json").read_text())
    settings["text_config"]["intermediate_size"] += 8
    (model / "config.json").write_text(json.dumps(settings))
    assert "Traceback" in _told(_run([*own, f"model.path={model}"], logs), 1)
    assert secrets_in_folder(project.home) == secrets_in_folder(logs) == []


def test_judge_that_repeats_its_key_is_not_quoted(s3_bucket: str, echo: _Echo, logs: Path) -> None:
    data = logs / "data" / "mmvet"
    (data / "images").mkdir(parents=True)
    (data / "images" / "a.png").write_bytes(splits.image_png("test", 0))
    entry = {"imagename": "a.png", "question": "what is 4 ?", "answer": "a", "capability": ["rec"]}
    (data / "mm-vet.json").write_text(json.dumps({"v1_0": entry}))
    endpoint = f"{{type: Endpoint, url: '{echo.address}/v1', model: j, key_variable: JUDGE_KEY}}"
    command = [sys.executable, str(ROOT / "jobs" / "evaluate_model.py"), "--model", "embedded://models/base"]
    command += ["--benchmarks", "mmvet", "--data", str(logs / "data"), "name=judged", f"evaluation.judge={endpoint}"]
    command += ["evaluation.max_new_tokens=8", "engine.type=Transformers", "model.dtype=float32"]
    command += ["execution.pool={min_size: 1, max_size: 1}"]
    command += [f"store={s3_bucket}/store", f"runs={s3_bucket}/runs"]
    said = _told(_run(command, logs), 2)
    assert "evaluation.judge.key_variable" in said and "[key]" in said
    echo.judges = True
    _told(_run(command, logs), 0)
    (verdict,) = artifacts.read(references(f"{s3_bucket}/runs/judged")["verdicts_base"], Verdict)
    assert "[key]" in verdict.text
    assert secrets_in_store(s3_bucket) == secrets_in_folder(logs) == []
