"""Training on one GPU: the parity that CPUs show, there, in float32 and in bfloat16 with flash attention.

`make test-gpu` runs it; without a GPU every test skips and says so.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from random_models import Size, save_random_model
from small_training import make_job, make_pairs, score_alone, score_pairs, train_pairs
from stic_ray import vlm
from stic_ray.config import AdapterOff, DpoLoss, FullFinetune, Lora, ScoredReference, Training
from stic_ray.train.data import Item

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")


@pytest.fixture(scope="module", params=["llava", "llava_next", "idefics3", "smolvlm", "qwen2_5_vl"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param in ("smolvlm", "qwen2_5_vl"):
        pytest.importorskip("torchvision")
    return save_random_model(request.param, tmp_path_factory.mktemp(request.param) / "model", Size())


@pytest.fixture(autouse=True)
def whole_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions too: by default a GPU rounds theirs to 10 bits (TF32), which patches are embedded by."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    return make_pairs(tmp_path_factory.mktemp("images"))


def _groups(processor: Any, items: list[Item]) -> list[vlm.Group]:
    return [group for item in items for group in item.encode(processor)]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_rows_on_a_gpu_score_as_answers_alone_on_a_cpu(
    checkpoint: Path, items: list[Item], dtype: str, tolerance: float
) -> None:
    processor = vlm.load_processor(str(checkpoint))
    groups = _groups(processor, items)
    scorer = vlm.AnswerScorer(vlm.load_model(str(checkpoint), dtype).cuda())
    row = vlm.pack(groups).to("cuda")
    with torch.inference_mode():
        found = row.sums(scorer(row)).tolist()
    assert found == pytest.approx(score_alone(checkpoint, groups), rel=tolerance)


def test_segments_are_attended_to_by_flash_kernels_in_bfloat16(checkpoint: Path, items: list[Item]) -> None:
    processor = vlm.load_processor(str(checkpoint))
    scorer = vlm.AnswerScorer(vlm.load_model(str(checkpoint), "bfloat16").cuda())
    row = vlm.pack(_groups(processor, items)).to("cuda")
    with torch.inference_mode(), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        assert torch.isfinite(scorer(row)).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("weights", [Lora(rank=4, lora_alpha=8), FullFinetune()], ids=["lora", "full"])
def test_step_on_a_gpu_is_the_cpus(
    checkpoint: Path, items: list[Item], dtype: str, weights: Lora | FullFinetune
) -> None:
    """Losses of three steps: 1e-3 of the first in float32, 5% in bfloat16, whose later steps Adam makes of rounding."""
    losses = {device: _losses(checkpoint, items, dtype, weights, device) for device in ("cpu", "cuda")}
    tolerance = 1e-3 if dtype == "float32" else 0.05
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=tolerance, abs=tolerance * losses["cpu"][0])
    assert losses["cuda"][-1] < losses["cuda"][0]


def _losses(checkpoint: Path, items: list[Item], dtype: str, weights: Lora | FullFinetune, device: str) -> list[float]:
    lora = isinstance(weights, Lora)
    training = Training(
        loss=DpoLoss(beta=0.5, alpha=1.0, reduction="token_mean"),
        weights=weights,
        lr=0.01,
        epochs=1,
        global_batch=len(items),
        reference=AdapterOff() if lora else ScoredReference(),
    )
    job = make_job(checkpoint, training, dtype=dtype)
    job = replace(job, execution=replace(job.execution, recompute_activations=True))
    given = items if lora else score_pairs(checkpoint, items, dtype)
    return [line["loss"] for line in train_pairs(job, given, device=device).log]
