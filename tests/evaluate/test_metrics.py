"""Metrics against cases worked by hand."""

from pathlib import Path

import numpy as np
import pytest

from stic_ray.evaluate.metrics import (
    Vocabulary,
    answer_is_correct,
    caption_counts,
    caption_figures,
    make_vocabulary,
    most_frequent_answer_rates,
    normalise_answer,
    pope_counts,
    pope_figures,
    pope_says_yes,
    question_counts,
    question_figures,
    singulars,
)
from stic_ray.records import Prediction

COCO = make_vocabulary(
    [
        ["person", "man", "woman", "child", "people", "policeman"],
        ["dog", "puppy"],
        ["hot dog"],
        ["bus"],
        ["vase"],
        ["knife"],
        ["wine glass"],
        ["cell phone", "phone"],
        ["skis", "ski"],
        ["tie", "bow tie"],
        ["teddy bear"],
        ["bear"],
        ["bat"],
        ["bat box"],
        ["sandwich"],
    ]
)


def answered(text: str, answer: str, category: str) -> Prediction:
    return Prediction(
        id=f"{text}{answer}{category}",
        split="test",
        image_id="a",
        task="questions",
        image_uri="a.png",
        question="?",
        description="",
        answer=answer,
        category=category,
        group="",
        text=text,
        num_tokens=1,
        finish_reason="stop",
    )


@pytest.mark.parametrize(
    ("text", "says_yes"),
    [
        ("Yes", True),
        ("yes", True),
        ("No", False),
        ("no", False),
        ("No, there is no snowboard in the image.", False),
        ("Yes, there is a snowboard. It is not red.", True),
        ("There is not a dog.", False),
        ("There isn't a dog.", True),
        ("I see a dog. No cat.", True),
        ("No!", False),
        ("  No\nA dog stands there", False),
        ("Yes\nThere is no cat", True),
        ("NO", True),
        ("Not at all", True),
        ("Nothing is known of a knot", True),
        ("A snowboard, no, two of them", False),
        ("**No**", False),
        ("", True),
    ],
)
def test_pope_answer_kinds_read_by_first_sentence(text: str, says_yes: bool) -> None:
    assert pope_says_yes(text) is says_yes


def test_pope_figures_of_known_confusion_match_hand_values() -> None:
    answers = [("yes", "yes")] * 6 + [("yes", "no")] * 2 + [("no", "no")] * 8 + [("no", "yes")] * 4
    sums_S = np.array([pope_counts(text, label) for text, label in answers], dtype=np.float64).sum(0)
    assert sums_S.tolist() == [6, 2, 8, 4]
    figures = {name: float(value) for name, value in pope_figures(sums_S).items()}
    assert figures == pytest.approx(
        {"accuracy": 70.0, "precision": 75.0, "recall": 60.0, "f1": 100 * 12 / 18, "yes_ratio": 40.0}
    )


def test_pope_model_that_never_says_yes_has_precision_and_f1_zero() -> None:
    figures = pope_figures(np.array([0.0, 0.0, 5.0, 5.0]))
    assert [float(figures[name]) for name in ("accuracy", "precision", "f1", "yes_ratio")] == [50, 0, 0, 0]


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("A hot dog beside a dog.", ["hot dog", "dog"]),
        ("Hot dogs and dogs", ["hot dog", "dog"]),
        ("It is hot. Dogs sleep.", ["dog"]),
        ("a hot-dog", ["hot dog"]),
        ("hot, dog", ["dog"]),
        ("A man, two women and three children with policemen", ["person"] * 4),
        ("people", ["person"]),
        ("puppies", ["dog"]),
        ("three buses, vases and knives", ["bus", "vase", "knife"]),
        ("wine glasses by a cell phone", ["wine glass", "cell phone"]),
        ("His phone", ["cell phone"]),
        ("a teddy bear and a bear", ["teddy bear", "bear"]),
        ("He skis on one ski", ["skis", "skis"]),
        ("a bow tie or ties", ["tie", "tie"]),
        ("sandwiches", ["sandwich"]),
        ("a bat box, bat boxes, bats, a bat by a box", ["bat box", "bat box", "bat", "bat"]),
        ("the dog's bone", ["dog"]),
        ("a doghouse, a busy busman", []),
        ("", []),
    ],
)
def test_vocabulary_mentions_match_longest_singular_synonym(text: str, mentions: list[str]) -> None:
    assert COCO.mentions(text) == mentions


@pytest.mark.parametrize("word", ["glass", "dress", "dog", "as"])
def test_singulars_word_that_is_no_plural_gives_nothing(word: str) -> None:
    assert singulars(word) == ()


def test_vocabulary_without_names_finds_nothing() -> None:
    assert Vocabulary().mentions("a dog") == []
    assert Vocabulary().canonical("dog") is None


def test_canonical_synonym_maps_to_first_word_of_its_line() -> None:
    assert [COCO.canonical(name) for name in ("Woman", "puppy", "hot dog", "cat")] == ["person", "dog", "hot dog", None]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([["cat"], [], ["dog", "cat"]], "line 3: the name 'cat' stands for 'cat' and for 'dog'"),
        ([["cat", ""]], "line 1: the name '' has no word"),
    ],
)
def test_make_vocabulary_bad_line_is_named(lines: list[list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_vocabulary(lines)


def test_caption_counts_repeated_hallucination_counts_each_time_and_found_once() -> None:
    counts = caption_counts(
        "A dog, a dog, a bus and another bus, a vase.",
        num_tokens=17,
        objects=frozenset({"dog", "tie"}),
        vocabulary=COCO,
    )
    # Mentions 5; hallucinated: bus twice and the vase; found: the dog of {dog, tie}.
    assert counts == (5, 3, 1, True, 1, 2, 17)


def test_caption_figures_over_three_captions_match_hand_values() -> None:
    captions = [
        ("a dog and a bus", 5, {"dog"}),  # 2 mentions, 1 hallucinated, found 1 of 1
        ("a man with a man", 5, {"person", "dog", "bus"}),  # 2 mentions, 0 hallucinated, found 1 of 3
        ("nothing", 2, {"tie", "bear"}),  # 0 mentions, found 0 of 2
    ]
    counts = [
        caption_counts(text, num_tokens=num, objects=frozenset(objects), vocabulary=COCO)
        for text, num, objects in captions
    ]
    figures = caption_figures(np.array(counts, dtype=np.float64).sum(0))
    assert {name: float(value) for name, value in figures.items()} == pytest.approx(
        {"chair_i": 25.0, "chair_s": 100 / 3, "recall": 100 * 2 / 6, "mean_length": 4.0}
    )


def test_caption_figures_without_any_mention_has_chair_i_zero() -> None:
    counts = caption_counts("fog", num_tokens=1, objects=frozenset({"dog"}), vocabulary=COCO)
    assert float(caption_figures(np.array(counts, dtype=np.float64))["chair_i"]) == 0


def test_caption_colour_shape_pairs_are_objects() -> None:
    vocabulary = make_vocabulary([["red circle"], ["blue square"]])
    mentions = vocabulary.mentions("red circle top , blue square center , red square left , blue circle .")
    assert mentions == ["red circle", "blue square"]


@pytest.mark.parametrize(
    ("text", "answer", "correct"),
    [
        ("Red.", "red", True),
        ("  top   left ", "top left", True),
        ("**Three**", "three", True),
        ("dark red", "red", False),
        ("Yes, it is", "yes", True),
        ("No", "yes", False),
        ("no .", "No", True),
        ("nope", "no", False),
        ("3.5", "35", False),
        ("", "yes", False),
        ("", "red", False),
    ],
)
def test_answer_is_correct_after_normalising(text: str, answer: str, correct: bool) -> None:
    assert answer_is_correct(text, answer) is correct


def test_normalise_answer_keeps_punctuation_inside_words() -> None:
    assert normalise_answer(' "Top-Left", 3.5! . ') == "top-left 3.5"


def test_question_accuracy_is_plain_mean_over_categories() -> None:
    rows = [answered("red", "red", "color"), answered("red", "blue", "color")] * 3 + [answered("two", "two", "count")]
    categories = ["color", "count"]
    sums_S = np.array([question_counts(row, categories) for row in rows], dtype=np.float64).sum(0)
    figures = {name: float(value) for name, value in question_figures(categories)(sums_S).items()}
    assert figures == {"accuracy": 75.0, "color": 50.0, "count": 100.0}


def test_question_figures_category_missing_from_a_resample_is_left_out_of_its_mean() -> None:
    figures = question_figures(["color", "count"])(np.array([[1.0, 0.0, 2.0, 0.0], [1.0, 3.0, 1.0, 3.0]]))
    assert figures["accuracy"].tolist() == [50.0, 100.0]
    assert np.isnan(figures["count"][0])


def test_most_frequent_answer_rates_by_category() -> None:
    rows = [answered("", gold, "color") for gold in ("red", "Red", "blue", "green")] + [answered("", "two", "count")]
    assert most_frequent_answer_rates(rows) == {"color": 50.0, "count": 100.0}


def test_vocabulary_of_chair_synonyms_reads_real_captions(real_data: Path) -> None:
    lines = (real_data / "benchmarks" / "chair_synonyms.txt").read_text().splitlines()
    vocabulary = make_vocabulary([[name.strip() for name in line.split(",")] for line in lines])
    assert len(set(vocabulary.objects.values())) == 80
    text = "Two men in bow ties hold wine glasses near a fire hydrant and stop lights."
    assert vocabulary.mentions(text) == ["person", "tie", "wine glass", "fire hydrant", "traffic light"]
