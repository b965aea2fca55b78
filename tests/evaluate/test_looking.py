"""How models look at images, on a random LLaVA: figures against direct computations, the same every time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stic_ray import vlm
from stic_ray.engines import start_scorer
from stic_ray.engines.protocol import Conversation
from stic_ray.evaluate import looking
from stic_ray.noise import Noise, diffuse
from stic_ray.records import Pair, Sample, Turn, make_id, make_seed


@pytest.fixture
def image(tmp_path: Path) -> str:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


def _sample(item: str, image: str, *texts: str) -> Sample:
    turns = [Turn(role=("user", "assistant")[index % 2], text=text) for index, text in enumerate(texts)]
    return Sample(
        id=make_id(item), image_id=make_id("image", item), image_uri=image, category="", description="", turns=turns
    )


def _pair(item: str, image: str) -> Pair:
    empty: dict[str, Any] = dict.fromkeys(Pair.__annotations__, "")
    texts = {"prompt": "what ?", "chosen": "a dog on grass", "rejected": "a cat", "negative": "noised_image"}
    return Pair(**{**empty, **texts, "id": make_id(item), "image_uri": image, "chosen_seed": 0, "rejected_seed": 0})


def test_image_attention_is_what_transformers_says_of_all_layers(tiny_llava: Path, image: str) -> None:
    """Tolerance 1e-5 relative."""
    processor = vlm.load_processor(str(tiny_llava))
    model = vlm.load_model(str(tiny_llava), "float32", attention="eager")
    turns = [Turn(role="user", text="what ?"), Turn(role="assistant", text="a dog")]
    example = vlm.encode_example(processor, turns, Image.open(image).convert("RGB"))
    mass_LN = vlm.image_attention(model, processor.image_token_id, example)
    with torch.inference_mode():
        attentions = model(
            input_ids=torch.tensor([example.input_ids]), **example.image_inputs, output_attentions=True
        ).attentions
    asking = [place - 1 for place, trained in enumerate(example.trained) if trained]
    images = [place for place, token in enumerate(example.input_ids) if token == processor.image_token_id]
    assert mass_LN.shape == (len(attentions), len(asking)) and len(images) == 4
    for layer, weights_BKTT in enumerate(attentions):
        for number, row in enumerate(asking):
            heads = [sum(head[row, place].item() for place in images) for head in weights_BKTT[0]]
            assert mass_LN[layer, number].item() == pytest.approx(sum(heads) / len(heads), rel=1e-5)
    assert (mass_LN > 0).all() and (mass_LN < 1).all()


def test_measure_attention_is_the_mean_over_tokens_and_counts_what_is_left_out(tiny_llava: Path, image: str) -> None:
    samples = [
        _sample("0", image, "what ?", "a dog"),
        _sample("1", image, "what ?", "a dog on the green grass"),
        _sample("2", f"{image}.gone", "what ?", "a dog"),
        _sample("3", image, "what ?", "a <image>"),
    ]
    found = looking.measure_attention(str(tiny_llava), "float32", samples)
    alone = [looking.measure_attention(str(tiny_llava), "float32", [sample]) for sample in samples[:2]]
    tokens = [one["tokens"] for one in alone]
    assert (found["conversations"], found["left_out"], found["tokens"]) == (2, 2, sum(tokens))
    for layer, value in enumerate(found["layers"]):
        plain = sum(one["layers"][layer] * num for one, num in zip(alone, tokens, strict=True)) / sum(tokens)
        assert value == pytest.approx(plain, rel=1e-5)


def test_wrong_answers_are_of_questions_that_begin_alike_and_never_right() -> None:
    samples = [
        _sample("0", "a.png", "what color is it ?", "red"),
        _sample("1", "a.png", "what color is the dog ?", "Blue."),
        _sample("2", "a.png", "what shape is it ?", "circle"),
        _sample("3", "a.png", "is there a dog ?", "yes"),
        _sample("4", "a.png", "is there a cat ?", "Yes."),
        _sample("5", "a.png", "is the dog left ?", "no"),
        _sample("6", "a.png", "where is it ?", "left"),
    ]
    found = {one.question: one for one in looking.mislead(samples, seed=0)}
    assert found["what color is it ?"].wrong == "Blue."
    assert found["what color is the dog ?"].wrong == "red"
    assert found["what shape is it ?"].wrong in ("red", "Blue.")
    assert found["is there a dog ?"].wrong == found["is there a cat ?"].wrong == "no"
    assert "where is it ?" not in found
    assert looking.misled_question(found["what color is it ?"]) == "The answer is Blue. what color is it ?"


def test_draws_do_not_depend_on_order_or_on_others() -> None:
    samples = [_sample(f"{n}", "a.png" if n % 3 else "", "is it ?", "yes" if n % 2 else "a dog") for n in range(40)]
    drawn = looking.draw_samples(samples, 8, seed=1)
    assert looking.draw_samples(samples[::-1], 8, seed=1) == drawn
    assert looking.draw_samples(samples, 8, seed=2) != drawn
    assert looking.draw_samples(samples, 4, seed=1) == drawn[:4]
    assert all(sample.image_uri for sample in drawn)
    short = looking.draw_short_samples(samples, 40, seed=1)
    assert {sample.turns[1].text for sample in short} == {"yes"} and all(sample.image_uri for sample in short)


def test_misled_accuracy_equals_a_choice_by_plain_scores(tiny_llava: Path, image: str) -> None:
    samples = [_sample(f"{n}", image, f"is there a dog {n} ?", "yes" if n % 3 else "no") for n in range(9)]
    asked = looking.mislead(samples, seed=0)
    scorer = start_scorer(model_uri=str(tiny_llava), dtype="float32", row_tokens=100)
    found = looking.measure_misled(scorer, asked)
    right = {"plain": 0, "misled": 0}
    for one in asked:
        wrong = "no" if one.answer == "yes" else "yes"
        for key, question in (("plain", one.question), ("misled", f"The answer is {wrong}. {one.question}")):
            logp = [_logp(scorer, question, answer, image) for answer in (one.answer, wrong)]
            right[key] += logp[0] > logp[1]
    assert found == {"template": looking.MISLEADING, "questions": 9, "left_out": 0, **right}
    assert looking.measure_misled(scorer, asked) == found
    gone = [looking.Misled(image_uri=f"{image}.gone", question="q", answer="yes", wrong="no")]
    assert looking.measure_misled(scorer, [*asked, *gone]) == {**found, "left_out": 1}


def _logp(scorer: Any, question: str, answer: str, image: str) -> float:
    turns = [Turn(role="user", text=question), Turn(role="assistant", text=answer)]
    (scored,) = scorer.score([Conversation(turns=turns, image=Image.open(image).convert("RGB"))], 1000)
    return float(sum(scored.logp))


def test_noise_curves_equal_scores_of_diffused_pixels(tiny_llava: Path, image: str) -> None:
    """Tolerance 1e-4 relative, against all logits on pixels that numpy diffused."""
    pairs = [_pair(f"{n}", image) for n in range(2)]
    scorer = start_scorer(model_uri=str(tiny_llava), dtype="float32", row_tokens=100)
    found = looking.measure_noise(scorer, [*pairs, _pair("gone", f"{image}.gone")], seed=3)
    assert (found["pairs"], found["left_out"], found["kinds"]) == (2, 1, {"noised_image": 2})
    assert found["steps"] == [0, 100, 200, 300, 400, 500, 600, 700, 800, 900, 999]
    processor, model = vlm.load_processor(str(tiny_llava)), vlm.load_model(str(tiny_llava), "float32")
    for role in ("chosen", "rejected"):
        for number in (0, 5, 10):
            plain = []
            for pair in pairs:
                noise = Noise(step=found["steps"][number], seed=make_seed(3, pair.id, "noise curve"))
                plain.append(_mean_logp(processor, model, getattr(pair, role), image, noise))
            assert found[role][number] == pytest.approx(sum(plain) / 2, rel=1e-4)
    assert len(set(found["chosen"])) == len(looking.STEPS)
    assert looking.measure_noise(scorer, pairs, seed=3)["chosen"] == found["chosen"]


def _mean_logp(processor: Any, model: Any, answer: str, image: str, noise: Noise) -> float:
    turns = [Turn(role="user", text="what ?"), Turn(role="assistant", text=answer)]
    example = vlm.encode_example(processor, turns, Image.open(image).convert("RGB"))
    (pixels_CHW,) = example.image_inputs["pixel_values"].numpy()
    noised_CHW = torch.from_numpy(diffuse(pixels_CHW, noise))
    with torch.inference_mode():
        logits_TV = model(input_ids=torch.tensor([example.input_ids]), pixel_values=noised_CHW[None]).logits[0]
    logp_TV = logits_TV.log_softmax(dim=1)
    places = [place for place, trained in enumerate(example.trained) if trained]
    return float(sum(logp_TV[place - 1, example.input_ids[place]].item() for place in places) / len(places))


def test_measure_of_nothing_says_so(tiny_llava: Path) -> None:
    nothing = looking.Probes(samples=[], questions=[], pairs=[], seed=0)
    found = looking.measure({"base": str(tiny_llava)}, "float32", nothing)
    assert all("skipped" in found[part] for part in ("attention", "misleading", "noise"))
