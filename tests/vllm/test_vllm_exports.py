"""What a training leaves gives the tokens of the trained model: in transformers, in peft and in vLLM.

vLLM's own classes of most families ask for torchvision; `make test-vllm` runs these tests twice, the second time with
one. A text here is the answer's token ids, so that nothing hides in decoding.
"""

import importlib.util
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from PIL import Image
from transformers import GenerationConfig

from random_models import Size, save_random_model
from small_training import make_job, make_pairs, train_pairs
from stic_ray import vlm
from stic_ray.checkpoint import implementation_in_vllm
from stic_ray.config import FullFinetune, Lora, Sampling, SimpoLoss, Training, Vllm
from stic_ray.engines.protocol import Request
from stic_ray.engines.vllm import VllmEngine
from stic_ray.train.data import Item
from stic_ray.train.export import export
from stic_ray.train.job import ADAPTER, MERGED
from stic_ray.train.loop import trainable
from stic_ray.vlm.families import language_model

_HAS_TORCHVISION = importlib.util.find_spec("torchvision") is not None
_FAMILIES = (
    ("llava", "llava_next", "smolvlm", "qwen2_5_vl") if _HAS_TORCHVISION else ("llava", "llava_next", "idefics3")
)
_LORA = Lora(rank=4, lora_alpha=16)
_GREEDY = Sampling(temperature=0.0, max_new_tokens=8)


@pytest.fixture(scope="module", params=_FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(request.param, tmp_path_factory.mktemp(request.param) / "model", Size(tile_px=112))


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    return make_pairs(tmp_path_factory.mktemp("images"))


def _train(checkpoint: Path, items: list[Item], folder: Path, weights: Lora | FullFinetune, *, projector: bool) -> Any:
    training = Training(
        loss=SimpoLoss(beta=2.0, gamma=0.5),
        weights=weights,
        lr=0.01,
        epochs=1,
        global_batch=len(items),
        projector_lr=0.01 if projector else None,
    )
    job = make_job(checkpoint, training, output=str(folder))
    trainer = train_pairs(job, items)
    processor = vlm.load_processor(str(checkpoint))
    start = partial(trainable, str(checkpoint), job, quantize=False)
    metrics = trainer.metrics_text(), trainer.log[-1]
    export(job, trainer.scorer, *metrics, processor=processor, start=start, rank=0)
    language_model(trainer.scorer.model).config._attn_implementation = "sdpa"  # it attended to rows
    return trainer.scorer.model


def _requests(items: Sequence[Item]) -> list[Request]:
    prompts = ("what is it ?", "describe the image in detail", "is there a cat in the picture ?")
    return [
        Request(prompt=prompt, image=Image.open(item.image_uri).convert("RGB"), sampling=_GREEDY, seed=0)
        for item in items
        for prompt in prompts
    ]


@torch.inference_mode()
def _generate(model: Any, checkpoint: Path, requests: Sequence[Request]) -> list[str]:
    """With the family's own `generate`, one by one."""
    processor = vlm.load_processor(str(checkpoint))
    ends = vlm.end_token_ids(processor, vlm.load_generation_config(str(checkpoint)))
    settings = GenerationConfig(
        max_new_tokens=_GREEDY.max_new_tokens, do_sample=False, eos_token_id=ends, pad_token_id=0
    )
    found = []
    for request in requests:
        text = vlm.render_prompt(processor, request.prompt, has_image=True)
        inputs = processor(images=[request.image], text=[text], add_special_tokens=False, return_tensors="pt")
        new = model.eval().generate(**inputs, generation_config=settings)[0, inputs["input_ids"].shape[1] :].tolist()
        end = next((place for place, token in enumerate(new) if token in ends), len(new))
        found.append(_write_ids(new[:end]))
    return found


def _write_ids(ids: Sequence[int], **_: Any) -> str:
    return " ".join(map(str, ids))


def _serve(model: Path, requests: Sequence[Request], *, adapter: str = "") -> list[str]:
    """With vLLM, all at once."""
    settings = Vllm(cpu_cache_gib=0.5, max_lora_rank=8 if adapter else 0, eager=True)
    engine = VllmEngine(str(model), "float32", settings)
    try:
        engine._processor.tokenizer.decode = _write_ids
        answers = engine.generate([Request(**{**vars(request), "adapter": adapter}) for request in requests])
    finally:
        engine.shut_down()
    assert not any(answer.error for answer in answers)
    return [answer.text for answer in answers]


@pytest.mark.parametrize(
    ("weights", "projector"),
    [(_LORA, False), (_LORA, True), (FullFinetune(), True)],
    ids=["lora", "lora-projector", "full-projector"],
)
def test_exports_answer_as_the_trained_model(
    checkpoint: Path, items: list[Item], tmp_path: Path, weights: Lora | FullFinetune, projector: bool
) -> None:
    assert implementation_in_vllm(str(checkpoint)) == (
        "vllm" if _HAS_TORCHVISION or "idefics3" in str(checkpoint) else "transformers"
    )
    requests = _requests(items)
    before = _generate(vlm.load_model(str(checkpoint), "float32"), checkpoint, requests)
    expected = _generate(_train(checkpoint, items, tmp_path, weights, projector=projector), checkpoint, requests)
    assert sum(one != other for one, other in zip(before, expected, strict=True)) > len(requests) // 2
    assert len(set(expected)) > len(requests) // 2

    merged, adapter = tmp_path / MERGED, tmp_path / ADAPTER
    assert _generate(vlm.load_model(str(merged), "float32"), merged, requests) == expected
    assert _serve(merged, requests) == expected
    if not isinstance(weights, Lora):
        assert not adapter.exists()
        return
    base = vlm.load_model(str(checkpoint), "float32")
    assert _generate(PeftModel.from_pretrained(base, adapter), checkpoint, requests) == expected
    if not projector:  # vLLM takes no adapter that replaces whole modules
        assert _serve(checkpoint, requests, adapter=str(adapter)) == expected
