"""A whole run on one GPU: its pools, its trainings and vLLM take turns there, and nothing is lost."""

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch
from e2e_project import NUM_IMAGES, audit, make_project

from random_models import Size, save_random_model
from stic_ray import artifacts
from stic_ray.records import Response

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")

_ENGINES = ["engine={type: Transformers}", "engine={type: Vllm, gpu_memory_share: 0.4, eager: true, max_lora_rank: 8}"]


@pytest.mark.parametrize("engine", _ENGINES, ids=["transformers", "vllm"])
def test_run_on_a_gpu_loses_nothing_and_reuses_all(engine: str, tmp_path: Path) -> None:
    if "Vllm" in engine and importlib.util.find_spec("vllm") is None:
        pytest.skip("needs vLLM")
    project = make_project(tmp_path / "home", save_random_model("llava", tmp_path / "model", Size()))
    places = ["execution.pool={num_cpus: 1, num_gpus: 0.5}", "execution.train_gpus=1"]
    settings = ["model.dtype=bfloat16", engine, *places]
    project.finish(*settings)
    (responses,) = project.store.glob("responses-*")
    answered = [row.image_id for row in artifacts.read(str(responses), Response)]
    assert len(answered) == 2 * NUM_IMAGES and len(set(answered)) == NUM_IMAGES
    lines = [json.loads(line) for line in (project.run_home / "metrics.jsonl").read_text().splitlines()]
    losses = [value for line in lines for name, value in line.items() if name.endswith("/loss")]
    assert losses and all(map(math.isfinite, losses))
    checked = audit(project.run_home)
    assert checked.returncode == 0, checked.stdout
    again = project.run(*settings)
    assert again.returncode == 0 and "0 artifacts made" in again.stdout
