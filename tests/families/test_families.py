"""Every family trains: one beginning for both answers, several pairs in a row, and a step that changes what trains.

Those of SmolVLM and Qwen2.5-VL need torchvision, which has no build for the CPU build of torch that the others are
tested with: `make test-families` runs all in an environment of its own.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from random_models import Size, save_random_model
from stic_ray import vlm
from stic_ray.config import DpoLoss, Execution, FullFinetune, Lora, Training
from stic_ray.records import Turn
from stic_ray.train import loop
from stic_ray.train.data import Item, known
from stic_ray.train.feed import Batch, encode_parts
from stic_ray.train.job import Job, PairData

_FAMILIES = ("llava", "llava_next", "idefics3", "smolvlm", "qwen2_5_vl")
_SIDES = ((60, 60), (150, 50), (60, 130), (60, 60))
_ANSWERS = ("a small dog sits on the grass", "a small cat")


@pytest.fixture(scope="module", params=_FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param in ("smolvlm", "qwen2_5_vl"):
        pytest.importorskip("torchvision")
    return save_random_model(request.param, tmp_path_factory.mktemp(request.param) / "model", Size())


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    paths = []
    for number, (width, height) in enumerate(_SIDES):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        paths.append(folder / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def _turns(number: int, answer: str) -> list[Turn]:
    return [Turn(role="user", text=f"what is it {number} ?"), Turn(role="assistant", text=answer)]


def _alone(model: Any, example: vlm.Example, image_token: int) -> float:
    """One sequence through the family's own forward, from all logits."""
    ids = torch.tensor([example.input_ids])
    extra = {}
    if model.config.model_type == "qwen2_5_vl":  # from which it makes its positions
        extra["mm_token_type_ids"] = (ids == image_token).int()
    with torch.inference_mode():
        logp_TV = model(input_ids=ids, **example.image_inputs, **extra).logits[0].log_softmax(dim=1)
    places = [place for place, trained in enumerate(example.trained) if trained]
    return sum(float(logp_TV[place - 1, example.input_ids[place]]) for place in places)


def test_shared_and_packed_answers_score_as_each_alone(checkpoint: Path, images: list[Path]) -> None:
    """Tolerance 1e-5 relative: pairs of images of several sizes in one row, each pair by itself, each answer by itself,
    against the family's own forward."""
    processor = vlm.load_processor(str(checkpoint))
    pairs = [
        vlm.encode_group(processor, [_turns(number, answer) for answer in _ANSWERS], Image.open(path).convert("RGB"))
        for number, path in enumerate(images)
    ]
    plain = vlm.load_model(str(checkpoint), "float32")
    token = processor.image_token_id
    expected = [_alone(plain, example, token) for pair in pairs for example in pair]
    scorer = vlm.AnswerScorer(vlm.load_model(str(checkpoint), "float32"))

    def score(*groups: vlm.Group) -> list[float]:
        row = vlm.pack(groups)
        with torch.inference_mode():
            return [float(value) for value in row.sums(scorer(row))]

    assert score(*pairs) == pytest.approx(expected, rel=1e-5)
    assert [value for pair in pairs for value in score(pair)] == pytest.approx(expected, rel=1e-5)
    assert [value for pair in pairs for each in pair for value in score([each])] == pytest.approx(expected, rel=1e-5)
    assert all(vlm.shape_of(pair).prefix > 0 for pair in pairs)


@pytest.mark.parametrize("weights", [Lora(rank=2, lora_alpha=4), FullFinetune()], ids=["lora", "full"])
def test_step_trains_the_language_model_and_the_projector_alone(
    checkpoint: Path, images: list[Path], weights: Lora | FullFinetune
) -> None:
    loss = DpoLoss(beta=0.5, alpha=1.0, reduction="token_mean")
    job = Job(
        model_uri=str(checkpoint),
        dtype="float32",
        training=Training(loss=loss, weights=weights, lr=0.01, epochs=1, global_batch=4, projector_lr=0.01),
        data=PairData(parts=()),
        seed=0,
        output="",
        execution=Execution(row_tokens=400),
    )
    processor = vlm.load_processor(str(checkpoint))
    items = [
        Item(
            id=f"{number}",
            image_uri=str(path),
            conversations=tuple(_turns(number, answer) for answer in _ANSWERS),
            known=(known(), known()),
        )
        for number, path in enumerate(images)
    ]
    scorer = vlm.AnswerScorer(vlm.load_model(str(checkpoint), "float32"))
    scored = []
    for item in items:
        row = vlm.pack(item.encode(processor))
        with torch.inference_mode():
            parts = scorer(row).split(row.num_tokens)
        scored.append(Item(**{**vars(item), "known": tuple(known(logp=part.tolist()) for part in parts)}))
    trained = vlm.AnswerScorer(loop.trainable(str(checkpoint), job, quantize=False))
    trainer = loop.Trainer(job, trained, loop.Workers(rank=0, world=1), lambda: False)
    before = {name: parameter.detach().clone() for name, parameter in trained.named_parameters()}
    losses = []
    for _ in range(3):
        batch = Batch(parts=tuple(encode_parts(scored, processor=processor, job=job)), waited_s=0.0)
        trainer.log.append(trainer.take_step(batch, ids=[item.id for item in scored]))
        losses.append(trainer.log[-1]["loss"])
    assert trainer.log[0]["margin"] == pytest.approx(0.0, abs=1e-3)
    assert losses[2] < losses[1] < losses[0]
    moved = {name for name, parameter in trained.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved <= {name for name, parameter in trained.named_parameters() if parameter.requires_grad}
    assert any("language_model" in name or "text_model" in name for name in moved)
    projectors = ("multi_modal_projector", "connector", "merger")
    assert any(part in name for name in moved for part in projectors)
    towers = ("vision_tower", "vision_model", "visual.blocks", "visual.patch_embed")
    assert not any(part in name for name in moved for part in towers)
