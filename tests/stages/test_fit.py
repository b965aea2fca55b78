"""Fitting: every sample passes as it is or is a reject with the reason, before anything trains."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image

from stic_ray.flow import Task
from stic_ray.records import Sample, Turn, read_sample
from stic_ray.stages.fit import Fitter

_INFUSED = "{description} {question}"


def _sample(number: int, *, answer: str = "a dog", description: str = "a dog") -> Sample:
    turns = [Turn(role="user", text="what ?"), Turn(role="assistant", text=answer)]
    return Sample(id=str(number), image_id="i", image_uri="i.png", category="", description=description, turns=turns)


def _unit(sample: Sample) -> Task:
    image = Image.new("RGB", (30, 40), "red")
    return Task(id=sample.id, images=[image], payload=json.dumps(asdict(sample)))


@pytest.fixture
def fitter(tiny_llava: Path) -> Fitter:
    return Fitter(model_uri=str(tiny_llava), infused=_INFUSED, max_length=60)


def test_fitter_passes_what_fits_as_it_is_and_says_why_others_do_not(fitter: Fitter) -> None:
    samples = [
        _sample(0),
        _sample(1, description="a dog on the grass " * 20),
        _sample(2, answer="it is </s>"),
        _sample(3, answer="a dog on the grass " * 20, description=""),
    ]
    fine, described, strange, answered = fitter([_unit(sample) for sample in samples])
    assert (fine.rows, fine.reason) == ([samples[0]], "")
    assert described.rows == [] and described.reason == "longer than max_length 60 tokens"
    assert strange.rows == [] and "holds </s>" in strange.reason
    assert answered.reason == described.reason


def test_fitter_counts_image_and_description(tiny_llava: Path) -> None:
    """The longest limit that refuses a sample grows with its image (4 tokens and a line's end) and its description."""

    def smallest_limit(sample: Sample, unit: Task) -> int:
        for limit in range(1, 200):
            if not Fitter(model_uri=str(tiny_llava), infused=_INFUSED, max_length=limit)([unit])[0].reason:
                return limit
        raise AssertionError(sample.id)

    plain, described = _sample(0, description=""), _sample(1)
    text_only = Task(id="0", images=[], payload=_unit(plain).payload)
    assert smallest_limit(plain, _unit(plain)) == smallest_limit(plain, text_only) + 5
    assert smallest_limit(described, _unit(described)) > smallest_limit(plain, _unit(plain))


def test_read_sample_is_what_was_written() -> None:
    sample = _sample(0)
    assert read_sample(json.dumps(asdict(sample))) == sample
