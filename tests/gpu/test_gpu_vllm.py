"""vLLM on one GPU in bfloat16 answers as transformers does there, base and adapter, and loses no request.

In bfloat16 a near tie may fall either way, and from there on answers differ: their first tokens are compared.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from random_models import Size, save_random_adapter, save_random_model
from stic_ray import engines
from stic_ray.config import Sampling, Transformers, Vllm
from stic_ray.engines.protocol import Request

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use"),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vLLM"),
]
_GREEDY = Sampling(temperature=0.0, max_new_tokens=8)


def _write_ids(ids: Sequence[int], **_: Any) -> str:
    return " ".join(map(str, ids))


def _requests(adapter: str) -> list[Request]:
    found = []
    for number in range(32):
        pixels = np.random.default_rng(number).integers(0, 256, (5, 5, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((200, 150))
        prompt = f"what is it {number % 4} ?"
        found.append(Request(prompt=prompt, image=image, sampling=_GREEDY, seed=number, adapter=adapter))
    return found


@pytest.mark.parametrize("family", ["llava", "llava_next", "idefics3"])
def test_first_tokens_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    """At least 95% of them."""
    model = save_random_model(family, tmp_path / "model", Size(tile_px=112, hidden=256))
    save_random_adapter(model, tmp_path / "adapter", seed=1)
    answers = {}
    for settings in (Vllm(max_lora_rank=8, gpu_memory_share=0.3), Transformers()):
        start = engines.EngineStart(settings=settings, model_uri=str(model), dtype="bfloat16", batch_size=8)
        engine: Any = engines.start_engine(start)
        engine._processor.tokenizer.decode = _write_ids
        asked = [*_requests(""), *_requests(str(tmp_path / "adapter"))]
        answers[type(settings)] = engine.generate(asked)
        if isinstance(settings, Vllm):
            engine.shut_down()
    vllm, transformers = answers[Vllm], answers[Transformers]
    assert not any(answer.error for answer in (*vllm, *transformers))
    firsts = [(one.text.split()[:1], other.text.split()[:1]) for one, other in zip(vllm, transformers, strict=True)]
    assert sum(one == other for one, other in firsts) >= 0.95 * len(firsts)
