"""Scores of given answers: in order, whatever the batch, and never of a truncated conversation."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stic_ray import engines, vlm
from stic_ray.engines.protocol import Conversation
from stic_ray.records import Turn


def _conversation(number: int) -> Conversation:
    image = Image.fromarray(np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    answer = " ".join(["a dog sits on the grass"] * (1 + number % 3))
    turns = [Turn(role="user", text="what is it ?"), Turn(role="assistant", text=answer)]
    return Conversation(turns=turns, image=None if number == 2 else image)


def test_score_is_in_order_and_equals_the_slow_reference(tiny_llava: Path) -> None:
    """Tolerance 1e-5 relative, against all logits in float64, one conversation at a time."""
    conversations = [_conversation(number) for number in range(5)]
    scorer = engines.start_scorer(model_uri=str(tiny_llava), dtype="float32", row_tokens=100)
    scores = scorer.score(conversations, max_length=1000)
    processor = vlm.load_processor(str(tiny_llava))
    model = vlm.load_model(str(tiny_llava), "float32").double()
    for conversation, score in zip(conversations, scores, strict=True):
        example = vlm.encode_example(processor, conversation.turns, conversation.image)
        images = {name: value.double() for name, value in example.image_inputs.items()}
        with torch.inference_mode():
            logp_TV = model(input_ids=torch.tensor([example.input_ids]), **images).logits[0].log_softmax(dim=1)
        answered = [position for position, trained in enumerate(example.trained) if trained]
        expected = [logp_TV[position - 1, example.input_ids[position]].item() for position in answered]
        assert score.logp == pytest.approx(expected, rel=1e-5)
        assert score.token_ids == [example.input_ids[position] for position in answered]
        assert score.num_tokens == len(example.input_ids)
        assert score.error == ""


def test_score_too_long_is_an_error_and_the_others_are_unaffected(tiny_llava: Path) -> None:
    conversations = [_conversation(number) for number in range(5)]
    scorer = engines.start_scorer(model_uri=str(tiny_llava), dtype="float32", row_tokens=100)
    whole = scorer.score(conversations, max_length=1000)
    limit = sorted(score.num_tokens for score in whole)[2]
    cut = scorer.score(conversations, max_length=limit)
    for before, after in zip(whole, cut, strict=True):
        assert after.num_tokens == before.num_tokens
        assert after.error == (f"longer than max_length {limit} tokens" if before.num_tokens > limit else "")
        if not after.error:
            assert after.logp == pytest.approx(before.logp, rel=1e-5)
    assert scorer.score([], max_length=1) == []


def test_score_that_cannot_be_encoded_is_an_error_and_the_others_are_unaffected(tiny_llava: Path) -> None:
    scorer = engines.start_scorer(model_uri=str(tiny_llava), dtype="float32", row_tokens=100)
    fine = _conversation(0)
    bad = Conversation(turns=[fine.turns[0], Turn(role="assistant", text="a <image>")], image=fine.image)
    alone, refused, beside = scorer.score([fine, bad, fine], max_length=1000)
    assert "holds <image>" in refused.error and not alone.error
    assert beside.logp == pytest.approx(alone.logp, rel=1e-5)


def test_tokenizer_reads_what_the_scorer_reads_without_log_probabilities(tiny_llava: Path) -> None:
    bad = Conversation(turns=[Turn(role="user", text="?"), Turn(role="assistant", text="a <image>")], image=None)
    conversations = [*(_conversation(number) for number in range(5)), bad]
    scorer = engines.start_scorer(model_uri=str(tiny_llava), dtype="float32", row_tokens=100)
    limit = sorted(score.num_tokens for score in scorer.score(conversations, max_length=1000))[3]
    scored = scorer.score(conversations, max_length=limit)
    assert {bool(score.error) for score in scored} == {True, False}
    tokenizer = engines.start_tokenizer(model_uri=str(tiny_llava))
    assert tokenizer.score(conversations, max_length=limit) == [replace(score, logp=[]) for score in scored]
