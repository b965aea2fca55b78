"""The shipped checkpoints load, speak their chat template, and answer batched as they answer singly."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from stic_ray.world import batches, captions, splits
from stic_ray.world.train import main

CHECKPOINTS = Path(batches.__file__).parent / "checkpoints"


@pytest.fixture(scope="module")
def processor() -> Any:
    return AutoProcessor.from_pretrained(CHECKPOINTS / "base")


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForImageTextToText.from_pretrained(CHECKPOINTS / "base").eval()


def _message(role: str, text: str, *, has_image: bool = False) -> dict[str, Any]:
    content = [{"type": "image"}] if has_image else []
    return {"role": role, "content": [*content, {"type": "text", "text": text}]}


def _picture(index: int) -> Image.Image:
    return Image.open(io.BytesIO(splits.image_png("dev", index)))


def _answer(model: Any, processor: Any, prompts: list[str], pictures: list[Image.Image]) -> list[str]:
    texts = [
        processor.apply_chat_template([_message("user", prompt, has_image=True)], add_generation_prompt=True)
        for prompt in prompts
    ]
    inputs = processor(text=texts, images=pictures, padding=True, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=30, do_sample=False)
    answers: list[str] = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return answers


def test_checkpoints_fit_the_package() -> None:
    sizes = [file.stat().st_size for file in CHECKPOINTS.rglob("*") if file.is_file()]
    assert sum(sizes) <= 6_000_000
    assert {file.suffix for file in CHECKPOINTS.rglob("*") if file.is_file()} == {".json", ".jinja", ".safetensors"}


def test_model_loads_in_float32_with_head_dims_that_engines_serve(model: Any) -> None:
    assert model.dtype == torch.float32
    assert model.config.text_config.head_dim in (32, 64)
    assert all(torch.equal(weight, weight.half().float()) for weight in model.state_dict().values())


def test_batched_answers_equal_single_ones(model: Any, processor: Any) -> None:
    prompts = [captions.SIMPLE[0], "where is the red circle ?", captions.DETAILED[0], "is there a star ?"] * 3
    pictures = [_picture(index) for index in range(len(prompts))]
    rows = zip(prompts, pictures, strict=True)
    single = [_answer(model, processor, [prompt], [picture])[0] for prompt, picture in rows]
    assert _answer(model, processor, prompts, pictures) == single


def test_model_answers_without_an_image(model: Any, processor: Any) -> None:
    prompt = captions.REWRITE_DESCRIPTION.format(description="red circle top , blue square center .")
    text = processor.apply_chat_template([_message("user", prompt)], add_generation_prompt=True)
    output = model.generate(**processor(text=[text], return_tensors="pt"), max_new_tokens=30, do_sample=False)
    assert processor.decode(output[0], skip_special_tokens=True).split("errors :")[1].split()


def test_template_of_an_answer_continues_the_template_of_its_prompt(processor: Any) -> None:
    asked = [_message("user", "describe the image .", has_image=True)]
    answered = [*asked, _message("assistant", "red circle top .")]
    again = [*answered, _message("user", "is there a ring ?")]
    prompt = processor.apply_chat_template(asked, add_generation_prompt=True)
    full = processor.apply_chat_template(answered)
    assert full.startswith(prompt)
    assert full.endswith("<eos>")
    assert processor.apply_chat_template(again, add_generation_prompt=True).startswith(full)


def test_training_tokens_equal_those_of_template_and_processor(processor: Any) -> None:
    turns = [("is there a ring ?", "yes"), ("where is the red circle ?", "top-left")]
    messages = [
        _message(role, text, has_image=index == 0 and role == "user")
        for index, turn in enumerate(turns)
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    rendered = processor.apply_chat_template(messages)
    inputs = processor(text=[rendered], images=[_picture(0)], return_tensors="pt")
    ids, trained = batches.encode(turns, has_image=True)
    assert inputs["input_ids"][0].tolist() == ids
    assert (
        processor.decode([token for token, kept in zip(ids, trained, strict=True) if kept])
        == "yes <eos> top-left <eos>"
    )
    assert "<unk>" not in processor.decode(ids)


def test_training_pixels_equal_the_processors(processor: Any) -> None:
    import numpy as np

    picture = _picture(1)
    expected = batches.normalize(np.asarray(picture)[None])
    pixels = processor(text=["<image>"], images=[picture], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, expected, atol=1e-5, rtol=1e-5)


def test_every_prompt_is_in_the_vocabulary(processor: Any) -> None:
    for prompt in (*captions.SIMPLE, *captions.DETAILED, *captions.MISLEADING):
        assert processor.tokenizer.unk_token_id not in processor.tokenizer(prompt)["input_ids"]


@pytest.mark.slow
def test_training_writes_both_checkpoints(tmp_path: Path) -> None:
    assert main(["--seed", "3", "--out", str(tmp_path), "--scale", "0.001"]) == 0
    for name in ("aligned", "base"):
        assert AutoModelForImageTextToText.from_pretrained(tmp_path / name).dtype == torch.float32
