"""How benchmarks read answers, on cases worked by hand from their rules."""

import pytest

from stic_ray.evaluate.answers import (
    anls,
    edit_distance,
    normalise_vqa,
    read_choice,
    read_math_answer,
    relaxed_match,
    vqa_accuracy,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The dog", "dog"),
        ("a dog and an apple", "dog and apple"),
        ("Two", "2"),
        ("none", "0"),
        ("ten cats", "10 cats"),
        ("eleven", "eleven"),
        ("1,000", "1000"),
        ("yes, it is", "yes it is"),
        ("what?", "what"),
        ("dont", "don't"),
        ("it's red", "it 's red"),
        ("black-white", "black white"),
        ("black -white", "black white"),
        ("3.5", "3.5"),
        ("st. louis.", "st louis"),
        ("coca\ncola", "coca cola"),
        ("(left)", "left"),
        ("whats", "what's"),
        ("a", ""),
    ],
)
def test_normalise_vqa(text: str, expected: str) -> None:
    assert normalise_vqa(text) == expected


_TEN = ["red"] * 5 + ["dark red"] * 3 + ["maroon", "Red."]


@pytest.mark.parametrize(
    ("text", "answers", "expected"),
    [
        ("red", ["red"] * 10, 1.0),
        ("blue", ["red"] * 10, 0.0),
        ("red", ["red"] * 4 + ["blue"] * 6, 1.0),
        ("red", ["red"] * 3 + ["blue"] * 7, (3 * 2 / 3 + 7 * 1) / 10),
        ("red", ["red"] * 2 + ["blue"] * 8, (2 * 1 / 3 + 8 * 2 / 3) / 10),
        ("red", ["red"] + ["blue"] * 9, (0 + 9 * 1 / 3) / 10),
        ("red", _TEN, 1.0),
        ("dark red", _TEN, (3 * 2 / 3 + 7 * 1) / 10),
        ("maroon", _TEN, (0 + 9 / 3) / 10),
        ("the red", _TEN, 1.0),
        ("RED", _TEN, 1.0),
        ("2", ["two"] * 10, 1.0),
        ("two", ["2"] * 3 + ["three"] * 7, (3 * 2 / 3 + 7 * 1) / 10),
        ("", ["red"] * 10, 0.0),
        ("red car", ["red"] * 10, 0.0),
        ("red", [], 0.0),
    ],
)
def test_vqa_accuracy(text: str, answers: list[str], expected: float) -> None:
    assert vqa_accuracy(text, answers) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("100", "100", True),
        ("105", "100", True),
        ("105.1", "100", False),
        ("95", "100", True),
        ("94.9", "100", False),
        ("-100", "100", False),
        ("0", "0", True),
        ("0.01", "0", False),
        ("50%", "0.5", True),
        ("50%", "50", False),
        ("52%", "50%", True),
        ("Yes", "yes", True),
        ("yes.", "yes", False),
        ("blue", "green", False),
        (" 2014 ", "2014", True),
        ("2100", "2014", True),
        ("about 5", "5", False),
        ("3,000", "3000", False),
        ("", "5", False),
    ],
)
def test_relaxed_match(text: str, answer: str, expected: bool) -> None:
    assert relaxed_match(text, answer) == expected


@pytest.mark.parametrize(
    ("text", "answers", "expected"),
    [
        ("hello", ["hello"], 1.0),
        ("HELLO", ["hello"], 1.0),
        ("hello  world", ["hello world"], 1.0),
        ("hallo", ["hello"], 0.8),
        ("hell", ["hello"], 0.8),
        ("helloo", ["hello"], 1 - 1 / 6),
        ("ab", ["abcd"], 0.5),
        ("a", ["abcd"], 0.0),
        ("xyz", ["abc"], 0.0),
        ("", ["abc"], 0.0),
        ("abc", [], 0.0),
        ("hallo", ["hullo", "hello"], 0.8),
        ("1,234.50", ["1234.50"], 1 - 1 / 8),
        ("12/03/1998", ["12-03-1998"], 0.8),
        ("the united states", ["united states"], 1 - 4 / 17),
        ("", [""], 0.0),
    ],
)
def test_anls(text: str, answers: list[str], expected: float) -> None:
    assert anls(text, answers) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [("", "", 0), ("a", "", 1), ("", "ab", 2), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("abc", "abc", 0)],
)
def test_edit_distance(one: str, other: str, expected: int) -> None:
    assert edit_distance(one, other) == expected


_CHOICES = {"A": "a cat", "B": "a dog", "C": "the moon", "D": "none of them"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B", "B"),
        (" B ", "B"),
        ("B.", "B"),
        ("B. a dog", "B"),
        ("(B)", "B"),
        ("B) a dog", "B"),
        ("The answer is C.", "C"),
        ("The answer is (C).", "C"),
        ("I think it is D", "D"),
        ("a dog", "B"),
        ("It shows the moon.", "C"),
        ("a dog and a cat", ""),
        ("A or B", ""),
        ("A picture of something", ""),
        ("E", ""),
        ("", ""),
        ("Answer: B", "B"),
        ("B\n\nThe picture shows ten cats sitting on a wall", "B"),
        ("B, B", "B"),
        ("(B) a dog", "B"),
        ("The moon.", "C"),
        ("D because this image holds something that I have never seen before", ""),
        ("b", ""),
    ],
)
def test_read_choice(text: str, expected: str) -> None:
    assert read_choice(text, _CHOICES) == expected


def test_read_choice_whole_text_of_a_choice_is_it_though_another_stands_in_it() -> None:
    assert read_choice("10", {"A": "1", "B": "10", "C": "2"}) == "B"
    assert read_choice("10 of 1", {"A": "1", "B": "10", "C": "2"}) == ""


@pytest.mark.parametrize(
    ("text", "kind", "precision", "expected"),
    [
        ("5", "integer", None, "5"),
        ("5.0", "integer", None, "5"),
        ("There are 3 red and 12 blue balls, so 15", "integer", None, "15"),
        ("1,200 people", "integer", None, "1200"),
        ("-7", "integer", None, "-7"),
        ("none", "integer", None, ""),
        ('The answer is "14".', "integer", None, "14"),
        ("1.456", "float", 1, "1.5"),
        ("1.45", "float", 2, "1.45"),
        ("about 0.5 m", "float", 1, "0.5"),
        ("7", "float", 1, "7.0"),
        ("no idea", "float", 1, ""),
        ("(B)", "choice", None, "dog"),
        ("(b) dog", "choice", None, "dog"),
        ("B", "choice", None, "dog"),
        ("dog", "choice", None, "dog"),
        ("dogs", "choice", None, "dog"),
        ("The answer is (A)", "choice", None, "cat"),
        ("", "choice", None, ""),
        ("[1, 2]", "list", None, "[1, 2]"),
        ("9" * 400, "integer", None, ""),
    ],
)
def test_read_math_answer(text: str, kind: str, precision: int | None, expected: str) -> None:
    choices = ("cat", "dog", "horse")
    assert read_math_answer(text, kind=kind, choices=choices, precision=precision) == expected
