"""Visual information gain of every token against a slow reference: one sample at a time, all logits, float64."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from random_models import Size, save_random_model
from stic_ray import vig, vlm
from stic_ray.config import Blind, Blur, ConstantImage, NoImage
from stic_ray.engines import start_scorer
from stic_ray.flow import Outcome, Task, Unit
from stic_ray.images import blind, decode, encode
from stic_ray.records import Sample, Turn, make_id
from stic_ray.stages.score import AnswerScorer, GainScorer, Hide, conversations_of_sample

_SIDES = ((30, 40), (150, 100), (200, 60), (90, 90))
_TALKS = (
    ("what is it ?", "a small dog on the grass"),
    ("is there a cat ?", "yes", "where ?", "next to the window , in the sun ."),
    ("describe the image", "two people walk along the beach under a cloudy sky"),
    ("how many ?", "three"),
    ("what color ?", "it is red", "and the house ?", "green", "sure ?", "yes , a green house ."),
)


@pytest.fixture(scope="module", params=["llava", "llava_next", "idefics3"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(request.param, tmp_path_factory.mktemp(request.param) / "model", Size(spread=0.15))


def _image(number: int) -> Image.Image:
    height, width = _SIDES[number % len(_SIDES)]
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8))


def _turns(number: int) -> list[Turn]:
    roles = ("user", "assistant")
    return [Turn(role=roles[i % 2], text=text) for i, text in enumerate(_TALKS[number])]


def _slow_logp(model: Any, processor: Any, turns: list[Turn], image: Image.Image | None) -> list[float]:
    """Of every answer token, from all logits in float64; which tokens those are, by tokenising each beginning anew."""
    example = vlm.encode_example(processor, turns, image)
    images = {n: v.double() if v.is_floating_point() else v for n, v in example.image_inputs.items()}
    with torch.inference_mode():
        logits_TV = model(input_ids=torch.tensor([example.input_ids]), **images).logits[0]
    logp_TV = logits_TV - logits_TV.logsumexp(dim=1, keepdim=True)
    return [
        float(logp_TV[place - 1, example.input_ids[place]]) for place, trained in enumerate(example.trained) if trained
    ]


def _score(checkpoint: Path, samples: list[Sample], view: Blind) -> list[Outcome]:
    """Both stages' workers on all samples at once, in batches of three."""
    start = partial(start_scorer, model_uri=str(checkpoint), dtype="float32", row_tokens=100)
    tasks = []
    for number, sample in enumerate(samples):
        payload = json.dumps({**vars(sample), "turns": [vars(turn) for turn in sample.turns]})
        tasks.append(Task(id=sample.id, images=[_image(number)] if sample.image_uri else [], payload=payload))
    scored = AnswerScorer(start=start, max_length=10_000, split=conversations_of_sample)(tasks)
    hidden = []
    for outcome, task in zip(scored, tasks, strict=True):
        assert outcome.reason == ""
        rows = [{**vars(row), "turns": [vars(turn) for turn in row.turns]} for row in outcome.rows]
        seen = [] if isinstance(view, NoImage) else [blind(image, view) for image in task.images]
        hidden.append(Task(id=task.id, images=seen, payload=json.dumps(rows)))
    return GainScorer(start=start, max_length=10_000)(hidden)


def _samples() -> list[Sample]:
    return [
        Sample(
            id=make_id("s", number),
            image_id=make_id("i", number),
            image_uri=f"{number}.png",
            category="",
            description="",
            turns=_turns(number),
        )
        for number in range(len(_TALKS))
    ]


@pytest.mark.parametrize("view", [Blur(radius=0.2), ConstantImage(), NoImage()], ids=lambda view: type(view).__name__)
def test_gains_equal_the_slow_float64_reference(checkpoint: Path, view: Blind) -> None:
    """Tolerance: 1e-4 nats a token; batched, single and several turns together."""
    processor = vlm.load_processor(str(checkpoint))
    model = vlm.load_model(str(checkpoint), "float32").double()
    samples = _samples()
    spread = []
    for number, outcome in enumerate(_score(checkpoint, samples, view)):
        (gain,) = outcome.rows
        seen = None if isinstance(view, NoImage) else blind(_image(number), view)
        logp = _slow_logp(model, processor, samples[number].turns, _image(number))
        without = _slow_logp(model, processor, samples[number].turns, seen)
        assert gain.logp == pytest.approx(logp, abs=1e-4)
        assert gain.blind_logp == pytest.approx(without, abs=1e-4)
        expected = [one - other for one, other in zip(logp, without, strict=True)]
        assert gain.gains == pytest.approx(expected, abs=1e-4)
        assert gain.mean_gain == pytest.approx(sum(expected) / len(expected), abs=1e-4)
        assert (gain.item_id, gain.role) == (samples[number].id, "answer")
        spread.append(max(map(abs, expected)))
    assert max(spread) > 0.01  # the image matters to this random model


def test_pieces_spell_the_answers_and_end_tokens_stand_behind_them(checkpoint: Path) -> None:
    for number, outcome in enumerate(_score(checkpoint, _samples(), NoImage())):
        (gain,) = outcome.rows
        assert gain.first_word == _TALKS[number][1].split()[0]
        for answer, text in enumerate(_TALKS[number][1::2]):
            mine = [t for t, of in enumerate(gain.answers) if of == answer]
            assert "".join(text[gain.starts[t] : gain.stops[t]] for t in mine) == text
            assert [gain.starts[t] == len(text) for t in mine] == [False] * (len(mine) - 1) + [True]


def test_a_sample_without_an_image_is_not_scored(checkpoint: Path) -> None:
    with_image, text_only = _samples()[:2]
    text_only = Sample(**{**vars(text_only), "image_uri": "", "image_id": ""})
    found = _score(checkpoint, [with_image, text_only], Blur(radius=0.2))
    assert found[0].rows[0].gains
    (row,) = found[1].rows
    assert (row.token_ids, row.gains, row.mean_gain) == ([], [], 0.0)


def test_hide_makes_of_an_image_what_the_view_says(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode(_image(1)))
    unit = Unit(id="u", image_uri=str(tmp_path / "a.png"), payload="p")
    for view in (Blur(radius=0.2), ConstantImage(level=9)):
        prepared = Hide(view=view)(unit)
        assert prepared.payload == "p" and prepared.reason == ""
        assert decode(prepared.images[0]).tobytes() == blind(_image(1), view).tobytes()
    assert Hide(view=NoImage())(unit).images == []
    assert Hide(view=Blur(radius=0.2))(Unit(id="u", image_uri="", payload="p")).images == []
    missing = Hide(view=Blur(radius=0.2))(Unit(id="u", image_uri=str(tmp_path / "b.png"), payload="p"))
    assert missing.reason == "the image file is missing"


def test_blind_takes_the_radius_from_the_short_side_and_leaves_the_size() -> None:
    image = _image(2)
    assert blind(image, Blur(radius=0.1)).size == blind(image, ConstantImage(level=3)).size == image.size
    assert set(blind(image, ConstantImage(level=3)).tobytes()) == {3}
    spread = [np.asarray(blind(image, Blur(radius=radius))).std() for radius in (0.01, 0.1, 0.5)]
    assert spread[0] > spread[1] > spread[2]
    double = image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST)
    halved = blind(double, Blur(radius=0.1)).resize(image.size, Image.Resampling.BOX)
    assert np.abs(np.asarray(halved, float) - np.asarray(blind(image, Blur(radius=0.1)), float)).mean() < 2


def test_mean_gain_of_nothing_is_zero() -> None:
    assert vig.mean_gain(vig.token_gains([], [])) == 0.0
    assert vig.mean_gain(vig.token_gains([-1.0, -2.0], [-3.0, -2.5])) == 1.25
