"""The step that TRL's DPOTrainer takes on the same pairs, adapters and precision."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stic_ray import vlm
from stic_ray.config import (
    AdapterOff,
    DpoLoss,
    Execution,
    HingeLoss,
    IpoLoss,
    LengthNormalisedDpoLoss,
    Lora,
    Loss,
    Training,
)
from stic_ray.config import RobustDpoLoss as Robust
from stic_ray.records import Turn
from stic_ray.train import loop
from stic_ray.train.data import Item, known
from stic_ray.train.feed import Batch, encode_parts
from stic_ray.train.job import Job, PairData

pytestmark = pytest.mark.slow
_NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")

_BETA, _ALPHA = 0.3, 0.7
_TALKS = (
    ("what is it ?", "a small dog sits on the green grass", "a cat"),
    ("describe the image", "two people walk along the beach", "there are three apples in the bowl"),
    ("is there a car ?", "yes , it is red", "no"),
)


def _job(model: Path, loss: Loss) -> Job:
    training = Training(
        loss=loss,
        weights=Lora(rank=4, lora_alpha=8),
        lr=1.0,
        epochs=1,
        global_batch=len(_TALKS),
        max_grad_norm=1e9,
        reference=AdapterOff(),
    )
    return Job(
        model_uri=str(model),
        dtype="float32",
        training=training,
        data=PairData(parts=()),
        seed=0,
        output="",
        execution=Execution(row_tokens=10_000),
    )


def _set_adapters(model: torch.nn.Module) -> None:
    """The same in both and on every device, none of them 0."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if ".lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def _adapter_name(name: str) -> str:
    return name[name.index("language_model") :].replace(".default", "")


def _images(folder: Path) -> list[Path]:
    paths = [folder / f"{number}.png" for number in range(len(_TALKS))]
    for number, path in enumerate(paths):
        pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


def _ours(model: Path, images: list[Path], loss: Loss, device: str) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    items = [
        Item(
            id=path.name,
            image_uri=str(path),
            conversations=tuple(
                [Turn(role="user", text=prompt), Turn(role="assistant", text=answer)] for answer in answers
            ),
            known=(known(), known()),
        )
        for path, (prompt, *answers) in zip(images, _TALKS, strict=True)
    ]
    job = _job(model, loss)
    scorer = vlm.AnswerScorer(loop.trainable(str(model), job, quantize=False).to(device))
    _set_adapters(scorer.model)
    trainer = loop.Trainer(job, scorer, loop.Workers(rank=0, world=1), lambda: False)
    trained = {name: p for name, p in scorer.named_parameters() if p.requires_grad}
    trainer.optimizer = torch.optim.SGD(trained.values(), lr=0.0)
    gradients: dict[str, torch.Tensor] = {}

    def keep(name: str, parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        gradients[_adapter_name(name)] = parameter.grad.cpu()

    for name, parameter in trained.items():
        parameter.register_post_accumulate_grad_hook(partial(keep, name))
    parts = encode_parts(items, processor=vlm.load_processor(str(model)), job=job)
    metrics = trainer.take_step(Batch(parts=tuple(parts), waited_s=0.0), ids=[item.id for item in items])
    return metrics, gradients


def _theirs(
    model: Path, images: list[Path], folder: Path, settings: dict[str, Any], device: str
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    import trl
    from datasets import Dataset, Sequence
    from datasets import Image as ImageColumn
    from peft import LoraConfig
    from transformers import AutoModelForImageTextToText, AutoProcessor

    rows = [
        {
            "images": [str(path)],
            "prompt": [{"role": "user", "content": prompt}],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
        }
        for path, (prompt, chosen, rejected) in zip(images, _TALKS, strict=True)
    ]
    trainer = trl.DPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32),
        args=trl.DPOConfig(
            output_dir=str(folder / "trl"),
            per_device_train_batch_size=len(rows),
            max_length=None,
            beta=_BETA,
            report_to=[],
            use_cpu=device == "cpu",
            bf16=False,
            gradient_checkpointing=False,
            save_strategy="no",
            **settings,
        ),
        train_dataset=Dataset.from_list(rows).cast_column("images", Sequence(ImageColumn())),
        processing_class=AutoProcessor.from_pretrained(model),
        peft_config=LoraConfig(
            r=4,
            lora_alpha=8,
            lora_dropout=0.0,
            target_modules=r".*language_model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj",
        ),
    )
    _set_adapters(trainer.model)
    batch = trainer._prepare_inputs(
        trainer.data_collator([trainer.train_dataset[number] for number in range(len(rows))])
    )
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    told = {name: float(np.mean(values)) for name, values in trainer._metrics["train"].items()}
    gradients = {_adapter_name(n): p.grad.cpu() for n, p in trainer.model.named_parameters() if p.grad is not None}
    return {"loss": loss.item(), **told}, gradients


@pytest.mark.parametrize(
    ("loss", "settings"),
    [
        (DpoLoss(beta=_BETA, alpha=0.0, reduction="sum"), {"loss_type": ["sigmoid"]}),
        (
            DpoLoss(beta=_BETA, alpha=_ALPHA, reduction="token_mean"),
            {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, _ALPHA]},
        ),
        (Robust(beta=_BETA, label_smoothing=0.2), {"loss_type": ["robust"], "label_smoothing": 0.2}),
        (IpoLoss(beta=_BETA), {"loss_type": ["ipo"]}),
        (HingeLoss(beta=_BETA), {"loss_type": ["hinge"]}),
        (LengthNormalisedDpoLoss(beta=_BETA), {"loss_type": ["sigmoid_norm"]}),
    ],
    ids=["sigmoid", "sigmoid and sft", "robust", "ipo", "hinge", "length-normalised"],
)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=_NEEDS_GPU)])
def test_step_equals_trls(tiny_llava: Path, tmp_path: Path, loss: Loss, settings: dict[str, Any], device: str) -> None:
    """Log-probabilities to 1e-5 relative, the loss to 1e-4, gradients to 1e-4 of their length, in float32."""
    images = _images(tmp_path)
    ours, our_gradients = _ours(tiny_llava, images, loss, device)
    theirs, their_gradients = _theirs(tiny_llava, images, tmp_path, settings, device)
    told = json.dumps({"ours": ours, "theirs": theirs}, indent=1)
    for role in ("chosen", "rejected"):
        assert ours[f"{role}_logp"] == pytest.approx(theirs[f"logps/{role}"], rel=1e-5), told
    assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4), told
    assert our_gradients.keys() == their_gradients.keys() and our_gradients
    flat = [torch.cat([each[name].flatten() for name in sorted(each)]) for each in (our_gradients, their_gradients)]
    assert (flat[0] - flat[1]).norm() <= 1e-4 * flat[1].norm(), told
    assert flat[1].norm() > 0
