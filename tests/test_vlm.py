"""What is known of model families, on a random LLaVA that is not the embedded world's."""

import json
import shutil
from collections.abc import Sequence
from copy import copy as shallow_copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from stic_ray import checkpoint, vlm
from stic_ray.config import Lora
from stic_ray.records import Turn
from stic_ray.vlm import AnswerScorer, Example

_LORA = Lora(rank=2, lora_alpha=4)


@pytest.fixture(scope="module")
def processor(tiny_llava: Path) -> Any:
    return vlm.load_processor(str(tiny_llava))


@pytest.fixture
def model(tiny_llava: Path) -> Any:
    return vlm.load_model(str(tiny_llava), "float32")


def _image(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8))


def _talk(*texts: str) -> list[Turn]:
    return [Turn(role=("user", "assistant")[index % 2], text=text) for index, text in enumerate(texts)]


def _runs(processor: Any, example: Example) -> list[tuple[bool, str]]:
    """The sequence as stretches of trained and untrained text."""
    runs: list[tuple[bool, list[int]]] = []
    for token, trained in zip(example.input_ids, example.trained, strict=True):
        if not runs or runs[-1][0] != trained:
            runs.append((trained, []))
        runs[-1][1].append(token)
    return [(trained, processor.tokenizer.decode(ids)) for trained, ids in runs]


# Conversations


def test_encode_example_trains_the_answer_and_its_end_token_alone(processor: Any) -> None:
    example = vlm.encode_example(processor, _talk("what is it ?", "a small dog"), _image())
    assert _runs(processor, example) == [
        (False, "<s>USER: <image><image><image><image>\nwhat is it ? ASSISTANT:"),
        (True, " a small dog</s>"),
    ]
    assert example.num_trained == sum(example.trained) > 1
    assert set(example.image_inputs) == {"pixel_values"} and example.image_inputs["pixel_values"].shape[0] == 1


def test_encode_example_trains_every_answer_of_several_turns(processor: Any) -> None:
    example = vlm.encode_example(processor, _talk("what ?", "a dog", "where ?", "on grass", "sure ?", "yes"), _image())
    runs = _runs(processor, example)
    assert [text for trained, text in runs if trained] == [" a dog</s>", " on grass</s>", " yes</s>"]
    assert [text for trained, text in runs if not trained] == [
        "<s>USER: <image><image><image><image>\nwhat ? ASSISTANT:",
        "USER: where ? ASSISTANT:",
        "USER: sure ? ASSISTANT:",
    ]


def test_encode_example_without_an_image_holds_no_image_tokens(processor: Any) -> None:
    example = vlm.encode_example(processor, _talk("what ?", "nothing"), None)
    assert example.image_inputs == {}
    assert _runs(processor, example) == [(False, "<s>USER: what ? ASSISTANT:"), (True, " nothing</s>")]


@pytest.mark.parametrize("answer", ["", "a dog\n", " a dog ", "dog", "a dog a dog"])
def test_encode_example_any_answer_ends_with_one_end_token(processor: Any, answer: str) -> None:
    end = processor.tokenizer.eos_token_id
    for template in (processor.chat_template, processor.chat_template.replace("part['text']", "part['text'] | trim")):
        example = vlm.encode_example(_with_template(processor, template), _talk("what ?", answer), None)
        answered = [token for token, trained in zip(example.input_ids, example.trained, strict=True) if trained]
        assert answered.count(end) == 1 and answered[-1] == end
        assert processor.tokenizer.decode(answered[:-1]).strip() == answer.strip()


def test_encode_example_template_without_an_end_token_gets_one(processor: Any) -> None:
    template = processor.chat_template.replace("{{ eos_token }}", "{{ '\n' }}")
    example = vlm.encode_example(_with_template(processor, template), _talk("what ?", "a dog"), None)
    assert _runs(processor, example)[1:] == [(True, " a dog</s>"), (False, "\n")]


def test_encode_example_template_with_an_end_token_of_its_own_trains_up_to_it(processor: Any) -> None:
    """As Llama-3's: another token than the tokenizer's ends a turn, and a line break follows it."""
    template = processor.chat_template.replace("{{ eos_token }}", "{{ '<pad>\n' }}")
    example = vlm.encode_example(_with_template(processor, template), _talk("what ?", "a dog", "sure ?", "yes"), None)
    assert _runs(processor, example) == [
        (False, "<s>USER: what ? ASSISTANT:"),
        (True, " a dog<pad>"),
        (False, "\nUSER: sure ? ASSISTANT:"),
        (True, " yes<pad>"),
        (False, "\n"),
    ]


@pytest.mark.parametrize("text", ["a <image> of it", "</s>", "so <s> then"])
def test_encode_example_answer_that_holds_a_special_token_is_refused(processor: Any, text: str) -> None:
    with pytest.raises(ValueError, match="a text of the assistant holds <"):
        vlm.encode_example(processor, _talk("what ?", text), _image())


def test_encode_example_question_that_holds_the_image_token_is_refused(processor: Any) -> None:
    with pytest.raises(ValueError, match="a text of the user holds <image>"):
        vlm.encode_example(processor, _talk("what <image> ?", "a dog"), _image())


def _with_template(processor: Any, template: str) -> Any:
    changed = shallow_copy(processor)
    changed.chat_template = template
    return changed


def test_encode_example_template_that_rewrites_earlier_turns_is_refused(processor: Any) -> None:
    forgetful = "{% for message in messages %}{% if not loop.first or messages | length < 3 %}" + (
        "{{ message['role'] + message['content'][0]['text'] }}{% endif %}{% endfor %}"
    )
    with pytest.raises(ValueError, match="rewrites earlier turns"):
        vlm.encode_example(_with_template(processor, forgetful), _talk("a", "b", "c", "d"), None)


@pytest.mark.parametrize("turns", [[], _talk("q"), _talk("q", "a", "q"), [Turn(role="assistant", text="a")] * 2])
def test_encode_example_turns_that_do_not_alternate_are_refused(processor: Any, turns: list[Turn]) -> None:
    with pytest.raises(ValueError, match="turns must alternate user and assistant"):
        vlm.encode_example(processor, turns, None)


def test_render_prompt_is_what_an_example_starts_with(processor: Any) -> None:
    prompt = vlm.render_prompt(processor, "what ?", has_image=True)
    ids = vlm.encode_prompts(processor, [prompt], [_image()]).input_ids[0].tolist()
    example = vlm.encode_example(processor, _talk("what ?", "a dog"), _image())
    assert example.input_ids[: len(ids)] == ids and not any(example.trained[: len(ids)])


def test_encode_prompts_pads_on_the_left(processor: Any) -> None:
    texts = [vlm.render_prompt(processor, prompt, has_image=False) for prompt in ("a", "a much longer prompt")]
    batch = vlm.encode_prompts(processor, texts, [None, None])
    mask = batch.attention_mask
    assert mask[0].tolist() == sorted(mask[0].tolist()) and mask[0, 0] == 0 and mask[1].all()
    assert batch.beginnings == {} and batch.beginning_of == []


def test_encode_prompts_holds_an_image_once_and_what_follows_it_for_every_prompt(processor: Any) -> None:
    cat, dog = _image(1), _image(2)
    texts = [vlm.render_prompt(processor, prompt, has_image=True) for prompt in ("what ?", "is it a cat ?", "a")]
    batch = vlm.encode_prompts(processor, texts, [cat, dog, cat])
    assert batch.beginning_of == [0, 1, 0]
    assert batch.beginnings["pixel_values"].shape[0] == batch.beginnings["input_ids"].shape[0] == 2
    beginning = batch.beginnings["input_ids"].shape[1]
    assert (batch.beginnings["input_ids"][:, -1] == processor.image_token_id).all()
    assert not (batch.input_ids[:, beginning:] == processor.image_token_id).any()
    for text, image, ids, mask in zip(
        texts, (cat, dog, cat), batch.input_ids, batch.attention_mask.bool(), strict=True
    ):
        alone = processor(text=[text], images=[image], return_tensors="pt", add_special_tokens=False)
        assert ids[mask].tolist() == alone["input_ids"][0].tolist()
        assert mask.sum() == alone["attention_mask"].sum()


def test_encode_prompts_template_that_writes_text_before_the_image_keeps_every_text(processor: Any) -> None:
    template = (
        "{% for message in messages %}{% for part in message['content'] | reverse %}"
        "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}:"
    )
    changed, image = _with_template(processor, template), _image()
    texts = [vlm.render_prompt(changed, prompt, has_image=True) for prompt in ("is it a cat ?", "is it a dog ?")]
    assert texts[0] == "is it a cat ?<image>:"
    batch = vlm.encode_prompts(changed, texts, [image, image])
    for text, ids, mask in zip(texts, batch.input_ids, batch.attention_mask.bool(), strict=True):
        assert processor.tokenizer.decode(ids[mask]).replace("<s>", "") == text.replace("<image>", "<image>" * 4)
    assert batch.beginnings["pixel_values"].shape[0] == 2


def test_read_beginnings_equals_one_forward_over_the_whole_prompt(processor: Any, model: Any) -> None:
    """Tolerance 1e-5: other shapes sum in another order."""
    images = [_image(1), _image(2), None]
    texts = [vlm.render_prompt(processor, prompt, has_image=True) for prompt in ("what is it ?", "a", "where ?")]
    batch = vlm.encode_prompts(processor, texts, [images[0], images[1], images[0]])
    cut = batch.beginnings["input_ids"].shape[1]
    positions = (batch.attention_mask.cumsum(dim=1) - 1)[:, cut:]
    with torch.inference_mode():
        logits = model(
            input_ids=batch.input_ids[:, cut:],
            attention_mask=batch.attention_mask,
            position_ids=positions,
            past_key_values=vlm.read_beginnings(model, batch),
        ).logits[:, -1]
        for row, number in enumerate((0, 1, 0)):
            alone = processor(text=[texts[row]], images=[images[number]], return_tensors="pt", add_special_tokens=False)
            expected = model(**alone).logits[0, -1]
            assert torch.allclose(logits[row], expected, atol=1e-5)


# Scores


def _examples(processor: Any) -> list[Example]:
    return [
        vlm.encode_example(processor, _talk("what is it ?", "a small dog on the grass"), _image(0)),
        vlm.encode_example(processor, _talk("what ?", "no"), None),
        vlm.encode_example(processor, _talk("is there a cat ?", "yes", "where ?", "on the table"), _image(1)),
    ]


def _sums(model: Any, *groups: Sequence[Example]) -> torch.Tensor:
    """What a scorer gives for each conversation of one row."""
    row = vlm.pack(groups)
    return row.sums(AnswerScorer(model)(row))


def _each(examples: Sequence[Example]) -> list[list[Example]]:
    return [[example] for example in examples]


def _slow_logp(model: Any, example: Example) -> float:
    """From all logits, in float64, token by token."""
    with torch.inference_mode():
        logits_TV = model.double()(input_ids=torch.tensor([example.input_ids]), **_double(example)).logits[0]
    total = 0.0
    for position in range(1, len(example.input_ids)):
        if example.trained[position]:
            row_V = logits_TV[position - 1]
            total += float(row_V[example.input_ids[position]] - row_V.exp().sum().log())
    return total


def _double(example: Example) -> dict[str, Any]:
    return {name: value.double() for name, value in example.image_inputs.items()}


def test_answer_scorer_equals_the_slow_float64_reference(processor: Any, model: Any, tiny_llava: Path) -> None:
    """Tolerance 1e-5 relative: one float32 forward of a random model against float64."""
    examples = _examples(processor)
    with torch.inference_mode():
        batched = _sums(model, *_each(examples))
    reference = vlm.load_model(str(tiny_llava), "float32")
    assert batched.dtype == torch.float32
    assert batched.tolist() == pytest.approx([_slow_logp(reference, each) for each in examples], rel=1e-5)


def test_answer_scorer_gives_the_same_together_as_alone(processor: Any, model: Any) -> None:
    """Tolerance 1e-5 relative: other shapes sum in another order."""
    examples = _examples(processor)
    with torch.inference_mode():
        together = _sums(model, *_each(examples)).tolist()
        single = [_sums(model, [example]).item() for example in examples]
    assert together == pytest.approx(single, rel=1e-5)


def test_answer_scorer_sees_the_image(processor: Any, model: Any) -> None:
    scores = []
    for seed in range(2):
        example = vlm.encode_example(processor, _talk("what ?", "a small dog"), _image(seed))
        with torch.inference_mode():
            scores.append(_sums(model, [example]).item())
    assert abs(scores[0] - scores[1]) > 1e-4


# What trains


def test_add_lora_trains_adapters_of_the_language_blocks_alone_and_starts_as_the_base(
    processor: Any, model: Any
) -> None:
    groups = _each(_examples(processor))
    with torch.inference_mode():
        before = _sums(model, *groups)
        adapted = vlm.add_lora(model, _LORA, projector=False)
        assert torch.equal(_sums(adapted, *groups), before)
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    kinds = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert len(trained) == 2 * 2 * len(kinds)  # A and B, two layers
    assert all("language_model.layers." in name and ".lora_" in name for name in trained)
    assert {kind for kind in kinds if any(f".{kind}." in name for name in trained)} == set(kinds)


def test_unfreeze_language_model_leaves_vision_tower_and_projector_frozen(model: Any) -> None:
    vlm.unfreeze_language_model(model, projector=False)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert frozen == {name for name in frozen | trained if "vision_tower" in name or "multi_modal_projector" in name}
    assert any("embed_tokens" in name for name in trained) and any("lm_head" in name for name in trained)


def test_projector_parameters_are_found_in_plain_and_adapted_models(model: Any) -> None:
    plain = vlm.projector_parameters(model)
    assert len(plain) == 4  # two linear layers with bias
    assert {id(each) for each in vlm.projector_parameters(vlm.add_lora(model, _LORA, projector=False))} == {
        id(each) for each in plain
    }


def test_sharding_units_are_the_language_layers(model: Any) -> None:
    layers = list(model.model.language_model.layers)
    assert vlm.sharding_units(model) == layers
    assert len(vlm.sharding_units(vlm.add_lora(model, _LORA, projector=False))) == len(layers) == 2


def test_add_lora_with_the_projector_saves_and_loads_it_with_the_adapter(
    processor: Any, model: Any, tiny_llava: Path, tmp_path: Path
) -> None:
    from peft import PeftModel

    adapted = vlm.add_lora(model, _LORA, projector=True)
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert sum("multi_modal_projector" in name for name in trained) == len(vlm.projector_parameters(adapted)) == 4
    with torch.no_grad():
        for parameter in vlm.projector_parameters(adapted):
            parameter.mul_(2)
    adapted.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(vlm.load_model(str(tiny_llava), "float32"), str(tmp_path))
    groups = _each(_examples(processor))
    with torch.inference_mode():
        assert torch.equal(_sums(loaded, *groups), _sums(adapted, *groups))
        merged = _sums(adapted.merge_and_unload(), *groups)
        assert torch.allclose(merged, _sums(loaded, *groups), rtol=1e-6)
        assert not torch.allclose(merged, _sums(vlm.load_model(str(tiny_llava), "float32"), *groups), rtol=1e-5)


def test_trained_in_float32_holds_exactly_what_trains_and_still_computes_in_bfloat16(
    processor: Any, tiny_llava: Path
) -> None:
    model = vlm.load_model(str(tiny_llava), "bfloat16")
    groups = _each(_examples(processor))
    before = _sums(model, *groups).detach()
    vlm.unfreeze_language_model(model, projector=True)
    model = vlm.trained_in_float32(model)
    dtypes = {p.requires_grad: p.dtype for p in model.parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    after = _sums(model, *groups)
    assert after.dtype == torch.float32 and torch.allclose(after, before, rtol=0.02)
    after.sum().backward()
    weight = model.lm_head.weight
    with torch.no_grad():
        weight.add_(weight.grad, alpha=1e-6)  # a step that bfloat16 would round away
    assert not torch.equal(weight.bfloat16().float(), weight)


def test_answer_scorer_without_an_image_gives_the_trained_projector_a_zero_gradient(processor: Any, model: Any) -> None:
    vlm.unfreeze_language_model(model, projector=True)
    _sums(model, [vlm.encode_example(processor, _talk("what ?", "no"), None)]).sum().backward()
    for parameter in vlm.projector_parameters(model):
        assert parameter.grad is not None and not parameter.grad.any()


# Checkpoints


def test_save_checkpoint_reloads_with_equal_logits_under_the_published_names(
    processor: Any, model: Any, tmp_path: Path
) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.25)
    vlm.save_checkpoint(model, processor, str(tmp_path))
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = set(file.keys())
    towers = {name for name in names if "vision_tower" in name}
    assert towers and all(name.startswith("vision_tower.vision_model.") for name in towers)
    assert {name.split(".")[0] for name in names} == {"vision_tower", "multi_modal_projector", "language_model"}
    (example, *_) = _examples(processor)
    inputs = {"input_ids": torch.tensor([example.input_ids]), **example.image_inputs}
    with torch.inference_mode():
        saved = vlm.load_model(str(tmp_path), "float32")(**inputs).logits
        assert torch.equal(saved, model(**inputs).logits)
    assert vlm.load_processor(str(tmp_path)).chat_template == processor.chat_template
    assert vlm.render_prompt(vlm.load_processor(str(tmp_path)), "x", has_image=True) == vlm.render_prompt(
        processor, "x", has_image=True
    )


def test_save_checkpoint_of_several_files_keeps_index_and_files_in_step(
    processor: Any, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = type(model).save_pretrained
    monkeypatch.setattr(
        type(model), "save_pretrained", lambda self, *args, **kw: save(self, *args, max_shard_size="60KB", **kw)
    )
    vlm.save_checkpoint(model, processor, str(tmp_path))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(index.values())) > 1
    for name, file in index.items():
        with safe_open(tmp_path / file, "pt") as tensors:
            assert name in tensors.keys()  # noqa: SIM118 - no mapping
    (example, *_) = _examples(processor)
    inputs = {"input_ids": torch.tensor([example.input_ids]), **example.image_inputs}
    with torch.inference_mode():
        assert torch.equal(vlm.load_model(str(tmp_path), "float32")(**inputs).logits, model(**inputs).logits)


@pytest.fixture
def copy(tiny_llava: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llava, tmp_path / "copy"))


def test_check_checkpoint_accepts_a_llava(copy: Path) -> None:
    checkpoint.check_checkpoint(str(copy))


def test_check_checkpoint_without_a_config_says_so(copy: Path) -> None:
    (copy / "config.json").unlink()
    with pytest.raises(ValueError, match=r"model\.path .*copy holds no config\.json"):
        checkpoint.check_checkpoint(str(copy))


def test_check_checkpoint_of_another_family_names_the_supported(copy: Path) -> None:
    (copy / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match=r"is of type 'bert': supported are idefics3, llava"):
        checkpoint.check_checkpoint(str(copy))


def test_load_model_takes_safetensors_only(copy: Path) -> None:
    torch.save({}, copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"holds no \*\.safetensors: only safetensors weights are read, convert them"):
        vlm.load_model(str(copy), "float32")


def test_load_processor_without_a_chat_template_says_so(copy: Path) -> None:
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="copy has no chat template: save one with its processor"):
        vlm.load_processor(str(copy))


@pytest.mark.parametrize(("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_load_model_has_the_dtype_that_was_asked_for_and_does_not_train(
    tiny_llava: Path, name: str, dtype: torch.dtype
) -> None:
    model = vlm.load_model(str(tiny_llava), name)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert not model.training


def test_end_token_ids_are_those_of_the_generation_config_and_the_tokenizers(processor: Any, model: Any) -> None:
    end = processor.tokenizer.eos_token_id
    for configured, expected in (([5, 7], [end, 5, 7]), (5, [end, 5]), (None, [end])):
        model.generation_config.eos_token_id = configured
        assert vlm.end_token_ids(processor, model.generation_config) == expected


def test_end_token_ids_hold_what_the_template_writes_after_an_answer(processor: Any, model: Any) -> None:
    template = processor.chat_template.replace("{{ eos_token }}", "{{ '<pad>' }}")
    pad = processor.tokenizer.pad_token_id
    assert pad not in vlm.end_token_ids(processor, model.generation_config)
    assert pad in vlm.end_token_ids(_with_template(processor, template), model.generation_config)


@pytest.mark.parametrize("template", ["{{ messages[0]['content'] }}", "{{ messages[0]['content'][0]['text'] }}"])
def test_load_processor_with_a_template_that_cannot_take_images_says_so(copy: Path, template: str) -> None:
    (copy / "chat_template.jinja").write_text(template)
    with pytest.raises(ValueError, match="its chat template must take a message's content as a list of parts"):
        vlm.load_processor(str(copy))
