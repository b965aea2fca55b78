"""Every family trains: one beginning for both answers, several pairs in a row, and a step that changes what trains.

Those of SmolVLM and Qwen2.5-VL need torchvision, which has no build for the CPU build of torch that the others are
tested with: `make test-families` runs all in an environment of its own.
"""

from pathlib import Path

import pytest
import torch

from random_models import Size, save_random_model
from small_training import make_job, make_pairs, score_alone, score_pairs, train_pairs
from stic_ray import vlm
from stic_ray.config import DpoLoss, FullFinetune, Lora, Training
from stic_ray.train import loop
from stic_ray.train.data import Item

_FAMILIES = ("llava", "llava_next", "idefics3", "smolvlm", "qwen2_5_vl")

_LOSS = DpoLoss(beta=0.5, alpha=1.0, reduction="token_mean")


@pytest.fixture(scope="module", params=_FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param in ("smolvlm", "qwen2_5_vl"):
        pytest.importorskip("torchvision")
    return save_random_model(request.param, tmp_path_factory.mktemp(request.param) / "model", Size())


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    return make_pairs(tmp_path_factory.mktemp("images"))


def test_shared_and_packed_answers_score_as_each_alone(checkpoint: Path, items: list[Item]) -> None:
    """Tolerance 1e-5 relative: pairs of images of several sizes in one row, each pair by itself, each answer by itself,
    against the family's own forward."""
    processor = vlm.load_processor(str(checkpoint))
    pairs = [group for item in items for group in item.encode(processor)]
    expected = score_alone(checkpoint, pairs)
    scorer = vlm.AnswerScorer(vlm.load_model(str(checkpoint), "float32"))

    def score(*groups: vlm.Group) -> list[float]:
        row = vlm.pack(groups)
        with torch.inference_mode():
            return [float(value) for value in row.sums(scorer(row))]

    assert score(*pairs) == pytest.approx(expected, rel=1e-5)
    assert [value for pair in pairs for value in score(pair)] == pytest.approx(expected, rel=1e-5)
    assert [value for pair in pairs for each in pair for value in score([each])] == pytest.approx(expected, rel=1e-5)
    assert all(vlm.shape_of(pair).prefix > 0 for pair in pairs)


def test_whole_model_trains_in_bfloat16_from_losses_near_those_in_float32(checkpoint: Path, items: list[Item]) -> None:
    training = Training(loss=_LOSS, weights=FullFinetune(), lr=0.01, epochs=1, global_batch=4)
    losses = {}
    for dtype in ("float32", "bfloat16"):
        job = make_job(checkpoint, training, dtype=dtype)
        losses[dtype] = [line["loss"] for line in train_pairs(job, score_pairs(checkpoint, items, dtype)).log]
    assert losses["bfloat16"][0] == pytest.approx(losses["float32"][0], rel=0.05)
    assert losses["bfloat16"][-1] < losses["bfloat16"][0]


@pytest.mark.parametrize("weights", [Lora(rank=2, lora_alpha=4), FullFinetune()], ids=["lora", "full"])
def test_step_trains_the_language_model_and_the_projector_alone(
    checkpoint: Path, items: list[Item], weights: Lora | FullFinetune
) -> None:
    training = Training(loss=_LOSS, weights=weights, lr=0.01, epochs=1, global_batch=4, projector_lr=0.01)
    job = make_job(checkpoint, training)
    trainer = train_pairs(job, score_pairs(checkpoint, items))
    losses = [line["loss"] for line in trainer.log]
    assert trainer.log[0]["margin"] == pytest.approx(0.0, abs=1e-3)
    assert losses[2] < losses[1] < losses[0]
    before = dict(vlm.AnswerScorer(loop.trainable(str(checkpoint), job, quantize=False)).named_parameters())
    trained = dict(trainer.scorer.named_parameters())
    moved = {name for name, parameter in trained.items() if not torch.equal(parameter, before[name])}
    assert moved <= {name for name, parameter in trained.items() if parameter.requires_grad}
    assert any("language_model" in name or "text_model" in name for name in moved)
    projectors = ("multi_modal_projector", "connector", "merger")
    assert any(part in name for name in moved for part in projectors)
    towers = ("vision_tower", "vision_model", "visual.blocks", "visual.patch_embed")
    assert not any(part in name for name in moved for part in towers)
