"""Figures of counts against cases worked by hand."""

import numpy as np
import pytest

from stic_ray.config import Pope, ShortAnswers
from stic_ray.evaluate.benchmarks import captions, pope, short_answers
from tests.evaluate.answering import figures, predict

POPE = Pope(questions={"random": "r.jsonl"}, images="images")
SHORT = ShortAnswers(questions="q.jsonl", images="images")


def test_pope_figures_of_known_confusion_match_hand_values() -> None:
    answers = [("yes", "yes")] * 6 + [("yes", "no")] * 2 + [("no", "no")] * 8 + [("no", "yes")] * 4
    rows = [predict("pope", "0.png", text, [gold], "random") for text, gold in answers]
    assert pope.measure(POPE, rows).count(rows) == (6, 2, 8, 4)
    expected = {"accuracy": 70.0, "precision": 75.0, "recall": 60.0, "f1": 100 * 12 / 18, "yes_ratio": 40.0}
    found = figures(POPE, rows)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert {name: found[f"random/{name}"] for name in expected} == pytest.approx(expected)


def test_pope_model_that_never_says_yes_has_precision_and_f1_zero() -> None:
    found = figures(POPE, [predict("pope", "0.png", "no", [gold], "random") for gold in ("yes", "no")])
    assert [found[name] for name in ("accuracy", "precision", "f1", "yes_ratio")] == [50, 0, 0, 0]


def test_caption_counts_repeated_hallucination_counts_each_time_and_found_once() -> None:
    counts = captions.counts(
        ["dog", "dog", "bus", "bus", "vase"],
        num_tokens=17,
        objects=frozenset({"dog", "tie"}),
    )
    # Mentions 5; hallucinated: bus twice and the vase; found: the dog of {dog, tie}.
    assert counts == (5, 3, 1, True, 1, 2, 17)


def test_caption_figures_over_three_captions_match_hand_values() -> None:
    described = [
        (["dog", "bus"], 5, {"dog"}),  # 2 mentions, 1 hallucinated, found 1 of 1
        (["person", "person"], 5, {"person", "dog", "bus"}),  # 2 mentions, 0 hallucinated, found 1 of 3
        ([], 2, {"tie", "bear"}),  # 0 mentions, found 0 of 2
    ]
    counts = [captions.counts(names, num_tokens=num, objects=frozenset(there)) for names, num, there in described]
    figures = captions.figures(np.array(captions.total(counts)))
    assert {name: float(value) for name, value in figures.items()} == pytest.approx(
        {"chair_i": 25.0, "chair_s": 100 / 3, "recall": 100 * 2 / 6, "mean_length": 4.0}
    )


def test_caption_figures_without_any_mention_has_chair_i_zero() -> None:
    counts = captions.counts([], num_tokens=1, objects=frozenset({"dog"}))
    assert float(captions.figures(np.array(counts, dtype=np.float64))["chair_i"]) == 0


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
    assert short_answers.is_correct(text, answer) is correct


def test_normalise_answer_keeps_punctuation_inside_words() -> None:
    assert short_answers.normalise_answer(' "Top-Left", 3.5! . ') == "top-left 3.5"


def test_question_accuracy_is_plain_mean_over_categories() -> None:
    rows = [predict("questions", f"{n}.png", "red", [gold], "color") for n in range(3) for gold in ("red", "blue")]
    rows.append(predict("questions", "0.png", "two", ["two"], "count"))
    assert figures(SHORT, rows) == {"accuracy": 75.0, "color": 50.0, "count": 100.0}


def test_question_figures_category_missing_from_a_resample_is_left_out_of_its_mean() -> None:
    rows = [predict("questions", "0.png", "red", ["red"], category) for category in ("color", "count")]
    found = short_answers.measure(SHORT, rows).figures(np.array([[1.0, 0.0, 2.0, 0.0], [1.0, 3.0, 1.0, 3.0]]))
    assert found["accuracy"].tolist() == [50.0, 100.0]
    assert np.isnan(found["count"][0])


def test_most_frequent_answer_rates_by_category() -> None:
    rows = [predict("questions", "0.png", "", [gold], "color") for gold in ("red", "Red", "blue", "green")]
    rows.append(predict("questions", "0.png", "", ["two"], "count"))
    assert short_answers.most_frequent_answer_rates(rows) == {"color": 50.0, "count": 100.0}
