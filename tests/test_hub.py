"""Pushing a model: over HTTP, to a small server that answers as the hub does."""

import base64
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, request
from werkzeug.serving import make_server

from servers import free_ports
from stic_ray import hub
from stic_ray.config import Hub
from stic_ray.report.model_card import render_card

_HUB = Hub(repo="me/mine")


class Server:
    """What a hub was told: repositories with their settings, and the files of their commits."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.refuses = False
        self.app = Flask("hub")
        self.app.add_url_rule("/api/validate-yaml", view_func=self._validate, methods=["POST"])
        self.app.add_url_rule("/api/repos/create", view_func=self._create, methods=["POST"])
        self.app.add_url_rule("/api/models/<owner>/<name>/preupload/main", view_func=self._preupload, methods=["POST"])
        self.app.add_url_rule("/api/models/<owner>/<name>/commit/main", view_func=self._commit, methods=["POST"])

    def _validate(self) -> Any:
        """A hub takes names of its own as the base of a model."""
        errors = [{"message": "base_model is no model id"}] if "base_model: /" in request.get_json()["content"] else []
        return Response(json.dumps({"errors": errors, "warnings": []}), status=400 if errors else 200)

    def _create(self) -> Any:
        if request.headers.get("authorization") != "Bearer right":
            return Response("{}", status=401)
        asked = request.get_json()
        self.repos["me/" + asked["name"].rpartition("/")[2]] = asked
        return {"url": "https://huggingface.co/me/mine", "name": "me/mine"}

    def _preupload(self, owner: str, name: str) -> Any:
        files = request.get_json()["files"]
        return {
            "files": [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in files],
            "commitOid": "0" * 40,
        }

    def _commit(self, owner: str, name: str) -> Any:
        if self.refuses or f"{owner}/{name}" not in self.repos:
            return Response("{}", status=403)
        for line in request.get_data().splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        return {"commitUrl": "https://huggingface.co/me/mine/commit/1", "commitOid": "1" * 40}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server()
    (port,) = free_ports(1)
    http = make_server("127.0.0.1", port, made.app)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "right")
    yield made
    http.shutdown()
    thread.join()
    http.server_close()


def test_a_model_and_its_adapter_arrive_file_by_file(server: Server, tmp_path: Path) -> None:
    merged, adapter = tmp_path / "merged", tmp_path / "adapter"
    for folder, name in ((merged, "model.safetensors"), (adapter, "adapter_config.json")):
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(f"# {name}")
    card = render_card(base="/store/base", is_adapter=False, origin={}, training={}, step={"loss": 1.0})
    (merged / "README.md").write_text(card)
    hub.check(_HUB)
    assert hub.push(_HUB, {"": str(merged), "adapter": str(adapter)}) == "https://huggingface.co/me/mine/commit/1"
    assert server.repos["me/mine"]["visibility"] == "private"
    assert server.files == {
        "model.safetensors": b"# model.safetensors",
        "README.md": card.encode(),
        "adapter/adapter_config.json": b"# adapter_config.json",
    }


def test_a_hub_that_refuses_is_one_line_with_the_remedy(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "wrong")
    told = r"^hub\.repo me/mine: .*: set HF_TOKEN, or `hf auth login`, and look at the network .*; or hub=null$"
    with pytest.raises(ValueError, match=told):
        hub.check(_HUB)
    server.refuses = True
    (tmp_path / "a").write_text("a")
    with pytest.raises(ValueError, match=r"^hub\.repo me/mine: .*the same command pushes again"):
        hub.push(_HUB, {"": str(tmp_path)})
