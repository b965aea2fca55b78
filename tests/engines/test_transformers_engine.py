"""Generation: the same answers whatever stands beside a request, and draws from the right distribution."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from random_models import save_random_adapter
from stic_ray import engines, vlm
from stic_ray.config import Sampling, Transformers
from stic_ray.engines.protocol import Completion, Contrasted, Request, draws
from stic_ray.engines.transformers_engine import GumbelSampling, TransformersEngine
from stic_ray.noise import Noise
from stic_ray.vlm import prompts

_GREEDY = Sampling(temperature=0.0, max_new_tokens=5)
_WARM = Sampling(temperature=1.5, max_new_tokens=5)
_PROMPTS = (
    "what is it ?",
    "is there a cat in the picture ? yes or no",
    "describe the image in detail",
    "a",
    "the red car",
)


@pytest.fixture(scope="module")
def engine(tiny_llava: Path) -> TransformersEngine:
    started = engines.start_engine(
        engines.EngineStart(settings=Transformers(), model_uri=str(tiny_llava), dtype="float32", batch_size=3)
    )
    assert isinstance(started, TransformersEngine)
    return started


def _image(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8))


def _request(number: int, sampling: Sampling, *, text_only: bool = False) -> Request:
    image = None if text_only else _image(number)
    return Request(prompt=_PROMPTS[number % len(_PROMPTS)], image=image, sampling=sampling, seed=number)


def _mixed() -> list[Request]:
    """More than two batches of requests of every kind, none of them sorted."""
    return [_request(number, _WARM if number % 3 else _GREEDY, text_only=number % 4 == 1) for number in range(7)]


def _one_by_one(engine: TransformersEngine, requests: list[Request]) -> list[Completion]:
    return [engine.generate([request])[0] for request in requests]


def test_generate_batched_equals_single_greedy(engine: TransformersEngine) -> None:
    requests = [_request(number, _GREEDY) for number in range(5)]
    batched = engine.generate(requests)
    assert batched == _one_by_one(engine, requests)
    assert len({answer.num_prompt_tokens for answer in batched}) > 1  # there was something to pad
    assert all(not answer.error for answer in batched)


def test_generate_greedy_equals_a_plain_loop_over_the_model(engine: TransformersEngine) -> None:
    request = _request(2, _GREEDY)
    text = vlm.render_prompt(engine._processor, request.prompt, has_image=True)
    inputs = engine._processor(text=[text], images=[_image(2)], return_tensors="pt", add_special_tokens=False)
    ids = inputs["input_ids"]
    with torch.inference_mode():
        for _ in range(_GREEDY.max_new_tokens):
            logits = engine._model(input_ids=ids, pixel_values=inputs["pixel_values"]).logits[0, -1]
            ids = torch.cat([ids, logits.argmax()[None, None]], dim=1)
    new = ids[0, inputs["input_ids"].shape[1] :].tolist()
    (answer,) = engine.generate([request])
    end = engine._processor.tokenizer.eos_token_id
    expected = new[: new.index(end)] if end in new else new
    assert answer.num_tokens == len(expected)
    assert answer.text == engine._processor.tokenizer.decode(expected, skip_special_tokens=True).strip()
    assert answer.num_prompt_tokens == inputs["input_ids"].shape[1]
    assert answer.finish_reason == ("stop" if end in new else "length")


def _contrasted(number: int, strength: float = 1.0, sampling: Sampling = _GREEDY) -> Request:
    contrast = Contrasted(noise=Noise(step=700, seed=number), strength=strength, cutoff=0.2)
    return replace(_request(number, sampling), contrast=contrast)


def test_generate_contrasted_equals_a_plain_loop_over_whole_forwards(engine: TransformersEngine) -> None:
    request = _contrasted(2, strength=1.5)
    assert request.contrast is not None
    text = vlm.render_prompt(engine._processor, request.prompt, has_image=True)
    inputs = engine._processor(text=[text], images=[_image(2)], return_tensors="pt", add_special_tokens=False)
    ids = inputs["input_ids"]
    clean = inputs["pixel_values"]
    noised = vlm.noised_pixels(engine._processor, _image(2), request.contrast.noise)[None]
    with torch.inference_mode():
        for _ in range(_GREEDY.max_new_tokens):
            seen, blurred = (
                engine._model(input_ids=ids, pixel_values=pixels).logits[0, -1].double() for pixels in (clean, noised)
            )
            scores = 2.5 * seen - 1.5 * blurred
            scores[seen.softmax(0) < 0.2 * seen.softmax(0).max()] = float("-inf")
            ids = torch.cat([ids, scores.argmax()[None, None]], dim=1)
    new = ids[0, inputs["input_ids"].shape[1] :].tolist()
    end = engine._processor.tokenizer.eos_token_id
    expected = new[: new.index(end)] if end in new else new
    (answer,) = engine.generate([request])
    assert answer.text == engine._processor.tokenizer.decode(expected, skip_special_tokens=True).strip()
    assert answer.text != engine.generate([replace(request, contrast=None)])[0].text


def test_generate_contrasted_in_a_batch_equals_each_alone(engine: TransformersEngine) -> None:
    requests = [_contrasted(number, 0.5 + number, _GREEDY if number % 2 else _WARM) for number in range(5)]
    requests += [replace(request, contrast=None) for request in requests]
    requests.append(replace(requests[0], contrast=replace(_contrasted(0).contrast, cutoff=1.0)))  # type: ignore[type-var]
    answers = engine.generate(requests)
    assert answers == _one_by_one(engine, requests)
    assert answers[:5] != answers[5:10]


def test_generate_does_not_depend_on_batch_order_or_company(engine: TransformersEngine) -> None:
    requests = _mixed()
    together = engine.generate(requests)
    assert engine.generate(requests[::-1]) == together[::-1]
    assert _one_by_one(engine, requests) == together
    assert engine.generate(requests[3:6]) == together[3:6]


def test_generate_same_seed_same_text_and_other_seeds_differ(engine: TransformersEngine) -> None:
    one = _request(0, _WARM)
    texts = [
        answer.text
        for answer in engine.generate(
            [Request(prompt=one.prompt, image=one.image, sampling=_WARM, seed=seed) for seed in (5, 5, 6, 7, 2**63 - 1)]
        )
    ]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 4


def test_generate_text_only_differs_from_the_same_prompt_on_an_image(engine: TransformersEngine) -> None:
    answers = engine.generate([_request(0, _GREEDY), _request(0, _GREEDY, text_only=True)])
    assert answers[0].num_prompt_tokens > answers[1].num_prompt_tokens > 0
    assert all(not answer.error for answer in answers)


def test_generate_too_long_is_an_error_and_the_others_are_unaffected(engine: TransformersEngine) -> None:
    long = Request(prompt="dog " * 600, image=_image(0), sampling=_GREEDY, seed=0)
    fine = [_request(number, _GREEDY) for number in range(3)]
    answers = engine.generate([fine[0], long, fine[1], long, fine[2]])
    assert [answers[0], answers[2], answers[4]] == engine.generate(fine)
    for answer in (answers[1], answers[3], *engine.generate([long])):
        assert answer.error == "prompt and answer need more than the model's 512 positions"
        assert (answer.text, answer.num_tokens, answer.finish_reason) == ("", 0, "")


def test_generate_too_long_counts_the_answer(engine: TransformersEngine) -> None:
    (short,) = engine.generate([_request(0, Sampling(temperature=0.0, max_new_tokens=1))])
    room = 512 - short.num_prompt_tokens
    (refused,) = engine.generate([_request(0, Sampling(temperature=0.0, max_new_tokens=room + 1))])
    assert refused.error


def test_generate_stops_at_an_end_token_and_counts_what_stands_before_it(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [_request(number, _WARM) for number in range(3)]
    monkeypatch.setattr(engine, "_ends", list(range(len(engine._processor.tokenizer))))
    for answer in engine.generate(requests):
        assert (answer.num_tokens, answer.text, answer.finish_reason) == (0, "", "stop")


def test_generate_several_prompts_on_one_image_object_equals_each_alone(engine: TransformersEngine) -> None:
    images = [_image(0), _image(1)]
    requests = [
        Request(prompt=prompt, image=images[number % 2], sampling=_GREEDY, seed=0)
        for number, prompt in enumerate(_PROMPTS)
    ]
    assert engine.generate(requests) == _one_by_one(engine, requests)


def test_generate_reads_an_image_once_for_all_prompts_of_like_length(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images come in turns, as a benchmark's file may have them; a batch holds three requests, so three of an image."""
    images = [_image(number) for number in range(4)]
    requests = [
        Request(prompt=prompt, image=image, sampling=_GREEDY, seed=0)
        for prompt in ("is it a dog ?", "is it a cat ?", "is it a car ?")
        for image in images
    ]
    read: list[int] = []
    process = prompts.process_images

    def counted(processor: Any, given: list[Image.Image]) -> tuple[dict[str, torch.Tensor], list[str]]:
        read.append(len(given))
        return process(processor, given)

    monkeypatch.setattr(prompts, "process_images", counted)
    engine.generate(requests)
    assert read == [1, 1, 1, 1]


def test_generate_answers_equal_requests_once_and_gives_all_of_them_the_answer(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = _image(0)

    def ask(prompt: str, seed: int) -> Request:
        return Request(prompt=prompt, image=image, sampling=_WARM, seed=seed)

    requests = [ask("a", 1), ask("what is it ?", 1), ask("a", 1), ask("a", 2)]
    expected = _one_by_one(engine, requests)
    sizes: list[int] = []
    generate = engine._generate_batch

    def counted(batch: list[Request], texts: list[str]) -> list[Completion]:
        sizes.append(len(batch))
        return generate(batch, texts)

    monkeypatch.setattr(engine, "_generate_batch", counted)
    assert engine.generate(requests) == expected
    assert sum(sizes) == 3


def test_generate_nothing_gives_nothing(engine: TransformersEngine) -> None:
    assert engine.generate([]) == []


# Which engine


# Adapters


@pytest.fixture
def own_engine(tiny_llava: Path) -> TransformersEngine:
    """An engine that no other test has put an adapter into."""
    return TransformersEngine(str(tiny_llava), "float32", 3)


def test_generate_with_adapters_equals_the_merged_models_and_leaves_the_base_as_it_is(
    own_engine: TransformersEngine, tiny_llava: Path, tmp_path: Path
) -> None:
    base = [_request(number, _GREEDY) for number in range(4)]
    plain = own_engine.generate(base)
    folders = [tmp_path / "a", tmp_path / "b"]
    expected = [save_random_adapter(tiny_llava, folder, seed=seed) for seed, folder in enumerate(folders)]
    mixed = [
        replace(request, adapter=adapter) for request in base for adapter in ("", str(folders[0]), str(folders[1]))
    ]
    answers = own_engine.generate(mixed)
    assert answers[0::3] == plain
    for offset, merged in enumerate(expected, start=1):
        engine = TransformersEngine(str(merged), "float32", 3)
        assert [a.text for a in answers[offset::3]] == [a.text for a in engine.generate(base)]
        assert answers[offset::3] != plain
    assert own_engine.generate(base) == plain


def test_generate_uses_the_adapter_that_lies_at_a_place_now(
    own_engine: TransformersEngine, tiny_llava: Path, tmp_path: Path
) -> None:
    place, later = tmp_path / "adapter", tmp_path / "later"
    save_random_adapter(tiny_llava, place, seed=0)
    save_random_adapter(tiny_llava, later, seed=1)
    requests = [replace(_request(number, _GREEDY), adapter=str(place)) for number in range(4)]
    before = own_engine.generate(requests)
    shutil.rmtree(place)
    shutil.copytree(later, place)
    after = own_engine.generate(requests)
    assert after != before
    assert after == own_engine.generate([replace(request, adapter=str(later)) for request in requests])


def test_generate_without_the_adapter_asked_for_is_one_line(engine: TransformersEngine, tmp_path: Path) -> None:
    request = replace(_request(0, _GREEDY), adapter=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"adapter .*nowhere: there is no such directory"):
        engine.generate([request])
    with pytest.raises(ValueError, match=r"holds no adapter_config\.json"):
        engine.generate([replace(request, adapter=str(tmp_path))])


# Threads and figures


def test_generate_by_several_threads_equals_one_after_another(engine: TransformersEngine) -> None:
    parts = [_mixed()[start:] + _mixed()[:start] for start in range(4)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(engine.generate, parts)) == [engine.generate(part) for part in parts]


def test_figures_count_what_was_asked_since_the_start(own_engine: TransformersEngine) -> None:
    long = Request(prompt="dog " * 600, image=None, sampling=_GREEDY, seed=0)
    answers = own_engine.generate([_request(0, _GREEDY), _request(1, _GREEDY)])
    own_engine.generate([long])
    assert own_engine.figures() == {
        "requests": 3,
        "refused": 1,
        "prompt_tokens": sum(answer.num_prompt_tokens for answer in answers),
        "cached_tokens": 0,
        "new_tokens": sum(answer.num_tokens for answer in answers),
    }


# The draws


def test_draws_are_as_many_requests_with_seeds_of_their_own() -> None:
    request = _request(0, _WARM)
    three = draws(request, 3)
    assert len({r.seed for r in three} | {r.seed for r in draws(replace(request, seed=1), 3)}) == 6
    assert draws(request, 2) == three[:2]
    assert all(replace(r, seed=request.seed) == request for r in three)


_LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5])


def _draws(sampling: Sampling, number: int) -> torch.Tensor:
    """How often each token comes out of one step for `number` seeds."""
    rows = GumbelSampling(sampling, list(range(number)))(
        torch.zeros(number, 1, dtype=torch.long), _LOGITS.repeat(number, 1)
    )
    return torch.bincount(rows.argmax(dim=1), minlength=len(_LOGITS))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_gumbel_sampling_draws_from_the_softmax_at_its_temperature(temperature: float) -> None:
    """Chi-square over 5 tokens: 18.47 is exceeded by chance once in 1000 (4 degrees of freedom); seeds are fixed."""
    number = 20_000
    observed = _draws(Sampling(temperature=temperature, max_new_tokens=1), number)
    weights = [np.exp(float(logit) / temperature) for logit in _LOGITS]
    expected = np.array(weights) / sum(weights) * number
    assert (((observed.numpy() - expected) ** 2) / expected).sum() < 18.47


def test_gumbel_sampling_with_top_p_draws_from_the_smallest_set_that_holds_it() -> None:
    """Probabilities at temperature 1: .563, .207, .126, .076, .028 for tokens 0, 1, 4, 2, 3."""
    for top_p, kept in ((0.5, {0}), (0.6, {0, 1}), (0.8, {0, 1, 4}), (0.95, {0, 1, 4, 2})):
        observed = _draws(Sampling(temperature=1.0, max_new_tokens=1, top_p=top_p), 4000)
        assert {token for token, count in enumerate(observed.tolist()) if count} == kept
    weights = np.exp(np.array([2.0, 1.0]))
    expected = weights / weights.sum() * 4000
    observed = _draws(Sampling(temperature=1.0, max_new_tokens=1, top_p=0.6), 4000)
    assert (((observed.numpy()[:2] - expected) ** 2) / expected).sum() < 10.83  # once in 1000, 1 degree of freedom


def test_gumbel_sampling_row_depends_on_its_seed_alone() -> None:
    sampling = Sampling(temperature=1.0, max_new_tokens=1)
    scores = torch.stack([_LOGITS, _LOGITS * 2])
    ids = torch.zeros(2, 1, dtype=torch.long)
    both, turned = GumbelSampling(sampling, [3, 4]), GumbelSampling(sampling, [4, 3])
    for _ in range(3):  # every step goes on where the row's own generator stands
        one, other = both(ids, scores), turned(ids, scores.flip(0))
        assert torch.equal(one, other.flip(0))
    assert not torch.equal(both(ids, scores), one)
