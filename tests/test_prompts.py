"""Prompt pools and what is made of them."""

from collections import Counter

from stic_ray import prompts
from stic_ray.records import Sample, Turn


def test_draw_is_a_function_of_the_seed_and_reaches_the_whole_pool() -> None:
    drawn = [prompts.draw(prompts.SIMPLE, seed) for seed in range(800)]
    assert drawn == [prompts.draw(prompts.SIMPLE, seed) for seed in range(800)]
    counts = Counter(drawn)
    assert set(counts) == set(prompts.SIMPLE)
    assert min(counts.values()) > 60  # 100 expected


def test_paper_pools_have_the_papers_sizes_without_repetition() -> None:
    assert len(set(prompts.PAPER.simple)) == len(set(prompts.PAPER.misleading)) == 8
    assert not set(prompts.PAPER.simple) & set(prompts.PAPER.misleading)


def test_infuse_takes_both_texts_literally() -> None:
    infused = prompts.infuse("Image: {description}\n{question}", "a {question} \\1 mark", "is {description} {x} there?")
    assert infused == "Image: a {question} \\1 mark\nis {description} {x} there?"


def test_infused_turns_change_the_first_question_only() -> None:
    turns = [Turn(role=role, text=text) for role, text in (("user", "q"), ("assistant", "a"), ("user", "r"))]
    sample = Sample(id="s", image_id="i", image_uri="u", category="", description="d", turns=turns)
    assert prompts.infused_turns(sample, "{description}: {question}") == [Turn(role="user", text="d: q"), *turns[1:]]
    assert [turn.text for turn in sample.turns] == ["q", "a", "r"]


def test_infused_turns_without_a_description_are_as_they_were() -> None:
    sample = Sample(id="s", image_id="", image_uri="", category="", description="", turns=[Turn(role="user", text="q")])
    assert prompts.infused_turns(sample, "{description}: {question}") == sample.turns
