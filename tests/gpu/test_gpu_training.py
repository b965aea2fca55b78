"""Training on one GPU: the parity that CPUs show, there, in float32 and in bfloat16 with flash attention.

`make test-gpu` runs it; without a GPU every test skips and says so.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel

from random_models import Size, save_random_model
from stic_ray import vlm
from stic_ray.config import AdapterOff, DpoLoss, Execution, FullFinetune, Lora, ScoredReference, Training
from stic_ray.records import Turn
from stic_ray.train import loop
from stic_ray.train.data import Item, known
from stic_ray.train.feed import Batch, encode_parts
from stic_ray.train.job import Job, PairData

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")

_ANSWERS = ("a small dog sits on the grass", "a small cat")
_SIDES = ((60, 60), (150, 50), (60, 130), (60, 60))


@pytest.fixture(scope="module", params=["llava", "llava_next", "idefics3"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(request.param, tmp_path_factory.mktemp(request.param) / "model", Size())


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    folder = tmp_path_factory.mktemp("images")
    made = []
    for number, (width, height) in enumerate(_SIDES):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        conversations = tuple(
            [Turn(role="user", text=f"what is it {number} ?"), Turn(role="assistant", text=answer)]
            for answer in _ANSWERS
        )
        uri = str(folder / f"{number}.png")
        made.append(Item(id=f"{number}", image_uri=uri, conversations=conversations, known=(known(), known())))
    return made


def _groups(processor: Any, items: list[Item]) -> list[vlm.Group]:
    return [group for item in items for group in item.encode(processor)]


def _plain(checkpoint: Path, groups: list[vlm.Group]) -> list[float]:
    """Each answer alone from all logits, float32 on the CPU."""
    model = vlm.load_model(str(checkpoint), "float32")
    found = []
    for example in (example for group in groups for example in group):
        with torch.inference_mode():
            ids = torch.tensor([example.input_ids])
            logp_TV = model(input_ids=ids, **example.image_inputs).logits[0].log_softmax(dim=1)
        places = [place for place, trained in enumerate(example.trained) if trained]
        found.append(sum(float(logp_TV[place - 1, example.input_ids[place]]) for place in places))
    return found


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
    assert found == pytest.approx(_plain(checkpoint, groups), rel=tolerance)


def test_segments_are_attended_to_by_flash_kernels_in_bfloat16(checkpoint: Path, items: list[Item]) -> None:
    processor = vlm.load_processor(str(checkpoint))
    scorer = vlm.AnswerScorer(vlm.load_model(str(checkpoint), "bfloat16").cuda())
    row = vlm.pack(_groups(processor, items)).to("cuda")
    with torch.inference_mode(), sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]):
        assert torch.isfinite(scorer(row)).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("weights", [Lora(rank=4, lora_alpha=8), FullFinetune()], ids=["lora", "full"])
def test_step_on_a_gpu_is_the_cpus(
    checkpoint: Path, items: list[Item], dtype: str, weights: Lora | FullFinetune
) -> None:
    """Losses of three steps; 1e-3 relative in float32, 5% in bfloat16."""
    losses = {device: _losses(checkpoint, items, dtype, weights, device) for device in ("cpu", "cuda")}
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-3 if dtype == "float32" else 0.05)
    assert losses["cuda"][-1] < losses["cuda"][0]


def _losses(checkpoint: Path, items: list[Item], dtype: str, weights: Lora | FullFinetune, device: str) -> list[float]:
    lora = isinstance(weights, Lora)
    job = Job(
        model_uri=str(checkpoint),
        dtype=dtype,
        training=Training(
            loss=DpoLoss(beta=0.5, alpha=1.0, reduction="token_mean"),
            weights=weights,
            lr=0.01,
            epochs=1,
            global_batch=len(items),
            reference=AdapterOff() if lora else ScoredReference(),
        ),
        data=PairData(parts=()),
        seed=0,
        output="",
        execution=Execution(row_tokens=400),
    )
    processor = vlm.load_processor(str(checkpoint))
    given = items if lora else _scored(checkpoint, items, dtype)
    scorer = vlm.AnswerScorer(loop.trainable(str(checkpoint), job, quantize=False).to(device))
    loop.recompute_activations(scorer)
    trainer = loop.Trainer(job, scorer, loop.Workers(rank=0, world=1), lambda: False)
    for _ in range(3):
        parts = encode_parts(given, processor=processor, job=job)
        trainer.log.append(trainer.take_step(Batch(parts=tuple(parts), waited_s=0.0), ids=[item.id for item in given]))
    return [line["loss"] for line in trainer.log]


def _scored(checkpoint: Path, items: list[Item], dtype: str) -> list[Item]:
    processor = vlm.load_processor(str(checkpoint))
    scorer = vlm.AnswerScorer(vlm.load_model(str(checkpoint), dtype))
    found = []
    for item in items:
        row = vlm.pack(item.encode(processor))
        with torch.inference_mode():
            parts = scorer(row).split(row.num_tokens)
        found.append(Item(**{**vars(item), "known": tuple(known(logp=part.tolist()) for part in parts)}))
    return found
