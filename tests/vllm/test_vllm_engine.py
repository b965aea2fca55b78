"""vLLM gives the tokens that transformers gives, one by one or together, and loses no request."""

import itertools
import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from random_models import Size, save_random_adapter, save_random_model
from stic_ray import engines, vlm
from stic_ray.config import Sampling, Transformers, Vllm
from stic_ray.engines.protocol import Completion, Request, draws
from stic_ray.engines.transformers_engine import TransformersEngine
from stic_ray.engines.vllm import VllmEngine
from stic_ray.noise import Noise

_BLOCK = 128  # tokens of a prefix-cache block on a CPU
_GREEDY = Sampling(temperature=0.0, max_new_tokens=8)
_WARM = Sampling(temperature=1.0, max_new_tokens=8)
_PROMPTS = (
    "describe the image in detail",
    "what color is the car ?",
    "is there a cat in the picture ? yes or no",
    "name every object that you see",
)
_SIZES = {"llava": Size(tile_px=224), "idefics3": Size(tile_px=112)}  # an image has a block or more of tokens


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Both engines on one model; the text of their answers is the token ids, so that nothing hides in decoding."""

    model: Path
    adapter: str
    vllm: VllmEngine
    transformers: TransformersEngine


@pytest.fixture(scope="module", params=["llava", "idefics3"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    model = save_random_model(request.param, tmp_path_factory.mktemp(request.param) / "model", _SIZES[request.param])
    adapter = model.with_name("adapter")
    save_random_adapter(model, adapter, seed=1)
    settings = Vllm(cpu_cache_gib=0.5, max_lora_rank=8, eager=True)
    vllm = engines.start_engine(
        engines.EngineStart(settings=settings, model_uri=str(model), dtype="float32", batch_size=1)
    )
    transformers = engines.start_engine(
        engines.EngineStart(settings=Transformers(), model_uri=str(model), dtype="float32", batch_size=16)
    )
    assert isinstance(vllm, VllmEngine)
    assert isinstance(transformers, TransformersEngine)
    for engine in (vllm, transformers):
        engine._processor.tokenizer.decode = _write_ids
    yield Pair(model=model, adapter=str(adapter), vllm=vllm, transformers=transformers)
    vllm.shut_down()


def _write_ids(ids: Sequence[int], **_: Any) -> str:
    return " ".join(map(str, ids))


def _image(seed: int) -> Image.Image:
    """Coarse squares, in a size of its own."""
    rng = np.random.default_rng(seed)
    width, height = (int(side) for side in rng.integers(40, 400, 2))
    return Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((width, height))


def _requests(number: int, sampling: Sampling = _GREEDY, *, adapter: str = "", start: int = 0) -> list[Request]:
    return [
        Request(prompt=_PROMPTS[i % 4], image=_image(i), sampling=sampling, seed=i, adapter=adapter)
        for i in range(start, start + number)
    ]


def _plain(completions: Sequence[Completion]) -> list[Completion]:
    """Without how much came from the cache, which depends on what was asked before."""
    return [replace(completion, num_cached_tokens=0) for completion in completions]


@pytest.mark.parametrize("adapted", [False, True])
def test_greedy_tokens_equal_those_of_transformers_together_and_one_by_one(pair: Pair, adapted: bool) -> None:
    requests = _requests(64, adapter=pair.adapter if adapted else "")
    expected = pair.transformers.generate(requests)
    assert len({answer.text for answer in expected}) > 48
    assert len({token for answer in expected for token in answer.text.split()}) > 100
    assert not any(answer.error for answer in expected)
    assert _plain(pair.vllm.generate(requests)) == expected
    assert _plain([pair.vllm.generate([request])[0] for request in requests]) == expected
    assert [pair.transformers.generate([request])[0] for request in requests] == expected


def test_requests_with_and_without_adapters_and_images_may_come_mixed(pair: Pair) -> None:
    requests = [replace(r, adapter=pair.adapter if i % 2 else "") for i, r in enumerate(_requests(12))]
    requests += [replace(request, image=None) for request in requests[:4]]
    assert _plain(pair.vllm.generate(requests)) == pair.transformers.generate(requests)


def test_another_adapter_at_the_same_place_is_the_one_that_is_used(pair: Pair, tmp_path: Path) -> None:
    place, later = tmp_path / "adapter", tmp_path / "later"
    shutil.copytree(pair.adapter, place)
    save_random_adapter(pair.model, later, seed=2)
    requests = _requests(4, adapter=str(place))
    before = pair.vllm.generate(requests)
    shutil.rmtree(place)
    shutil.copytree(later, place)
    after = pair.vllm.generate(requests)
    assert [a.text for a in after] != [b.text for b in before]
    assert _plain(after) == pair.transformers.generate(requests)


def test_adapters_that_vllm_cannot_take_are_one_line(pair: Pair, tmp_path: Path) -> None:
    save_random_adapter(pair.model, tmp_path / "large", seed=0, rank=16)
    with pytest.raises(ValueError, match=r"has rank 16, engine\.max_lora_rank is 8: raise it"):
        pair.vllm.generate(_requests(1, adapter=str(tmp_path / "large")))
    save_random_adapter(pair.model, tmp_path / "whole", seed=0)
    settings = tmp_path / "whole" / "adapter_config.json"  # as of an adapter beside which a projector was trained
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "modules_to_save": ["projector"]}))
    with pytest.raises(ValueError, match="replaces whole modules, which vLLM cannot: use the merged model instead"):
        pair.vllm.generate(_requests(1, adapter=str(tmp_path / "whole")))
    with pytest.raises(ValueError, match="there is no such directory"):
        pair.vllm.generate(_requests(1, adapter=str(tmp_path / "nowhere")))


def test_what_the_model_cannot_hold_is_refused_and_the_others_are_answered(pair: Pair) -> None:
    fine = _requests(3)
    long = replace(fine[0], prompt="dog " * 2000)
    marked = replace(fine[0], prompt="what is <image> ?")
    (answer,) = pair.vllm.generate(fine[:1])
    last = replace(fine[0], sampling=replace(_GREEDY, max_new_tokens=1024 - answer.num_prompt_tokens))
    too_many = replace(_GREEDY, max_new_tokens=1025 - answer.num_prompt_tokens)
    over = replace(fine[0], sampling=too_many, image=_image(0).transpose(Image.Transpose.ROTATE_180))
    after = replace(fine[0], image=over.image)  # an image whose first request was refused
    requests = [long, fine[0], marked, fine[1], over, after, replace(long, image=None), last]
    before = pair.vllm.figures()["refused"]
    answers = pair.vllm.generate(requests)
    expected = pair.transformers.generate(requests)
    assert [bool(a.error) for a in answers] == [True, False, True, False, True, False, True, False]
    assert [a.error for a in answers] == [e.error for e in expected]
    assert [a.text for a in answers] == [e.text for e in expected]
    assert pair.vllm.figures()["refused"] == before + 4


def test_draws_depend_on_the_seed_and_on_nothing_else(pair: Pair) -> None:
    (request,) = _requests(1, _WARM)
    eight = draws(request, 8)
    texts = [answer.text for answer in pair.vllm.generate(eight)]
    assert len(set(texts)) == 8
    company = _requests(9, _WARM, start=100)
    mixed = [r for two in itertools.zip_longest(company, reversed(eight)) for r in two if r is not None]
    again = {r.seed: a.text for r, a in zip(mixed, pair.vllm.generate(mixed), strict=True)}
    assert [again[r.seed] for r in eight] == texts
    assert [pair.vllm.generate([r])[0].text for r in eight] == texts


def test_calls_of_several_threads_at_once_equal_one_after_another(pair: Pair) -> None:
    parts = [_requests(8, _WARM if part % 2 else _GREEDY, start=4 * part) for part in range(6)]
    parts += [_requests(4, adapter=pair.adapter)]
    before = pair.vllm.figures()["requests"]
    with ThreadPoolExecutor(len(parts)) as threads:
        together = [_plain(answers) for answers in threads.map(pair.vllm.generate, parts)]
    assert pair.vllm.figures()["requests"] == before + 52
    assert together == [_plain(pair.vllm.generate(part)) for part in parts]


def test_the_image_of_several_prompts_comes_from_the_cache(pair: Pair) -> None:
    """Read from the engine: at least nine tenths of the whole blocks that the prompts of an image have in common."""
    images = [_image(seed) for seed in range(1000, 1024)]
    asked = [Request(prompt=p, image=im, sampling=_GREEDY, seed=0) for p in _PROMPTS for im in images]
    processor = pair.transformers._processor
    shareable = 0
    for image in images:
        texts = [vlm.render_prompt(processor, prompt, has_image=True) for prompt in _PROMPTS]
        rows = [vlm.encode_prompts(processor, [text], [image]).input_ids[0].tolist() for text in texts]
        common = sum(1 for _ in itertools.takewhile(lambda ids: len(set(ids)) == 1, zip(*rows, strict=False)))
        shareable += (len(rows) - 1) * (common // _BLOCK) * _BLOCK
    assert shareable > 0
    before = pair.vllm.figures()["cached_tokens"]
    answers = pair.vllm.generate(asked)
    cached = pair.vllm.figures()["cached_tokens"] - before
    assert cached == sum(answer.num_cached_tokens for answer in answers)
    assert cached >= 0.9 * shareable


@pytest.mark.parametrize("pair", ["llava"], indirect=True)  # vLLM is not taken where images are cut into tiles
def test_noised_images_are_answered_as_by_transformers(pair: Pair) -> None:
    """The noise is added to what the processor makes of an image, in both engines."""
    clean = _requests(12)
    noised = [replace(r, noise=Noise(step=300 + 50 * i, seed=i)) for i, r in enumerate(clean)]
    both = [*clean, *noised]
    answers = pair.vllm.generate(both)
    expected = pair.transformers.generate(both)
    assert [a.text for a in answers] == [a.text for a in expected]
    assert [a.text for a in answers[12:]] != [a.text for a in answers[:12]]
