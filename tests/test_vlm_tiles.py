"""Families that cut images into tiles: every image has as many as its size asks for, beside any other."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from random_models import Size, save_random_model
from stic_ray import checkpoint, vlm
from stic_ray.config import Lora, Sampling
from stic_ray.engines.protocol import Request
from stic_ray.engines.transformers_engine import TransformersEngine
from stic_ray.records import Turn

_SIDES = ((30, 40), (150, 100), (200, 60), (90, 90))  # pixels; a tile is 56 wide


@pytest.fixture(scope="module", params=["idefics3", "llava_next"])
def tiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(request.param, tmp_path_factory.mktemp(request.param) / "model", Size())


@pytest.fixture(scope="module")
def processor(tiled: Path) -> Any:
    return vlm.load_processor(str(tiled))


@pytest.fixture
def model(tiled: Path) -> Any:
    return vlm.load_model(str(tiled), "float32")


def test_image_attention_is_of_every_layer_and_answer_token(tiled: Path, processor: Any) -> None:
    """Tolerance 1e-5 relative, against the weights that transformers gives out."""
    model = vlm.load_model(str(tiled), "float32", attention="eager")
    example = vlm.encode_example(processor, _turns(0), _image(0))
    mass_LN = vlm.image_attention(model, processor.image_token_id, example)
    ids_BT = torch.tensor([example.input_ids])
    with torch.inference_mode():
        attentions = model(input_ids=ids_BT, **example.image_inputs, output_attentions=True).attentions
    rows = torch.tensor(example.trained).nonzero()[:, 0] - 1
    expected = [w[0].mean(dim=0)[rows][:, ids_BT[0] == processor.image_token_id].sum(dim=1) for w in attentions]
    torch.testing.assert_close(mass_LN, torch.stack(expected), rtol=1e-5, atol=1e-6)


def _image(number: int) -> Image.Image:
    height, width = _SIDES[number % len(_SIDES)]
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8))


def _turns(number: int) -> list[Turn]:
    return [Turn(role="user", text="what is it ?"), Turn(role="assistant", text="a small dog " * (number + 1))]


def test_prompts_of_images_of_all_sizes_together_equal_each_alone_and_a_plain_loop(
    tiled: Path, processor: Any, model: Any
) -> None:
    checkpoint.check_checkpoint(str(tiled))
    engine = TransformersEngine(str(tiled), "float32", 8)
    sampling = Sampling(temperature=0.0, max_new_tokens=5)
    requests = [Request(prompt="what is it ?", image=_image(n), sampling=sampling, seed=n) for n in range(6)]
    together = engine.generate(requests)
    assert len({answer.num_prompt_tokens for answer in together}) > 2
    assert [engine.generate([request])[0] for request in requests] == together
    for request, answer in zip(requests, together, strict=True):
        text = vlm.render_prompt(processor, request.prompt, has_image=True)
        inputs = processor(text=[text], images=[[request.image]], return_tensors="pt", add_special_tokens=False)
        assert answer.num_prompt_tokens == inputs["input_ids"].shape[1]
        ids = inputs.pop("input_ids")
        inputs.pop("attention_mask")
        for _ in range(5):
            with torch.inference_mode():
                logits = model(input_ids=ids, **inputs).logits[0, -1]
            ids = torch.cat([ids, logits.argmax()[None, None]], dim=1)
        new = ids[0, answer.num_prompt_tokens :][: answer.num_tokens]
        assert answer.text == processor.tokenizer.decode(new, skip_special_tokens=True).strip()


def test_answers_about_images_of_all_sizes_score_together_as_each_alone(processor: Any, model: Any) -> None:
    examples = [vlm.encode_example(processor, _turns(number), _image(number)) for number in range(4)]
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([examples[1].input_ids]), **examples[1].image_inputs).logits[0]
    scorer = vlm.AnswerScorer(model)
    rows = [vlm.pack([[example] for example in examples]), *(vlm.pack([[example]]) for example in examples)]
    with torch.inference_mode():
        together, *alone_each = [row.sums(scorer(row)) for row in rows]
    alone = torch.cat(alone_each)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    targets = torch.tensor(examples[1].input_ids[1:])
    logp = logits[:-1].log_softmax(dim=1).gather(1, targets[:, None])[:, 0]
    expected = logp[torch.tensor(examples[1].trained[1:])].sum()
    torch.testing.assert_close(alone[1], expected, rtol=1e-4, atol=1e-4)


def test_adapters_and_full_training_touch_the_language_model_and_the_projector_alone(model: Any) -> None:
    vlm.unfreeze_language_model(model, projector=True)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen and all(".vision_model." in name or ".vision_tower." in name for name in frozen)
    num_projector = 1 if model.config.model_type == "idefics3" else 4
    beside = model.config.model_type == "llava_next"  # the vector that ends a row of patches
    assert len(vlm.projector_parameters(model)) == num_projector + beside
    assert len(vlm.sharding_units(model)) == 2
    adapted = vlm.add_lora(model, Lora(rank=2, lora_alpha=4), projector=True)
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert len(trained) == 2 * 2 * 7 + num_projector  # A and B of seven projections in two blocks, and the projector
    inside = (".text_model.layers.", ".language_model.layers.", ".connector.", ".multi_modal_projector.")
    assert all(any(part in name for part in inside) for name in trained)
