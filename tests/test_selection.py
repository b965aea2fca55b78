"""Exact thresholds, strata, and rules for tokens in several scripts."""

import numpy as np
import pytest

from stic_ray import selection


@pytest.mark.parametrize(
    ("share", "expected"), [(1.0, 1.0), (0.7, 4.0), (0.5, 6.0), (0.3, 8.0), (0.1, 10.0), (0.01, 10.0), (0.71, 3.0)]
)
def test_threshold_keeps_the_share_rounded_up_and_at_least_one(share: float, expected: float) -> None:
    values = np.array([3.0, 1.0, 2.0, 10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0])
    assert selection.threshold(values, share) == expected
    assert (values >= expected).sum() == selection.num_kept(share, 10)


def test_threshold_equals_sorting_for_any_share_and_keeps_ties() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        values = rng.integers(-5, 5, rng.integers(1, 60)).astype(float)
        share = float(rng.uniform(0.001, 1))
        wanted = np.sort(values)[::-1][selection.num_kept(share, len(values)) - 1]
        assert selection.threshold(values, share) == wanted
        assert (values >= wanted).sum() >= share * len(values) - 1e-9


def test_threshold_of_thirds_is_not_led_astray_by_rounding() -> None:
    assert selection.num_kept(0.7, 10) == 7  # 0.7 * 10 is 7.000000000000001 in some orders of multiplication
    assert selection.num_kept(0.07, 100) == 7
    assert selection.num_kept(1 / 3, 3) == 1


@pytest.mark.parametrize(("values", "reason"), [([], "nothing to select"), ([1.0, float("nan")], "not finite")])
def test_threshold_of_what_cannot_be_is_refused(values: list[float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        selection.threshold(np.array(values), 0.5)


def test_thresholds_are_each_stratums_own() -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 4, 1000).astype(np.int32)
    values = rng.normal(size=1000) + codes * 10
    found = selection.thresholds(values, codes, 0.3)
    assert found.tolist() == [selection.threshold(values[codes == code], 0.3) for code in range(4)]


def test_merge_small_leaves_large_strata_and_puts_the_others_together() -> None:
    assert selection.merge_small(np.array([30, 5, 20, 1]), 20).tolist() == [0, 2, 1, 2]
    assert selection.merge_small(np.array([1, 2]), 20).tolist() == [0, 0]
    assert selection.merge_small(np.array([20, 21]), 20).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("pieces", "numbers"),
    [
        (["a", " red", " cir", "cle", ",", " top"], [0, 1, 2, 2, -1, 3]),
        (["the ", "dog", "'", "s", " tail"], [0, 1, -1, 2, 3]),  # the space may stand at a token's end
        (["▁", "un"], [-1, 0]),
        (["猫", "在", "桌子", "上", "。"], [0, 1, 2, 3, -1]),
        (["안녕", "하세요", " 세계"], [0, 0, 1]),  # Korean writes spaces
        (["नम", "स्", "ते", " दुनिया"], [0, 0, 0, 1]),  # vowel signs are of a word
        (["3", ".", "5", " km"], [0, -1, 1, 2]),
        ([" (", "red", ")", "\n"], [-1, 0, -1, -1]),
        ([], []),
    ],
)
def test_word_numbers_in_several_scripts(pieces: list[str], numbers: list[int]) -> None:
    assert selection.word_numbers(pieces) == numbers


def test_same_texts_are_the_tokens_of_one_character() -> None:
    starts, stops = [0, 0, 0, 1, 2, 2], [1, 1, 1, 2, 2, 2]
    assert selection.same_texts(range(6), starts, stops) == [[0, 1, 2], [3], [4], [5]]  # the last two stand for none


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Red circle top", "red"),
        ('"No", it is', "no"),
        ("top-right .", "top-right"),
        ("没有。", "没有"),
        ("没有\uff0c图中只有猫。", "没有"),  # a wide comma
        ("图中只有一只黑色的猫", "图中只有"),
        ("네, 있습니다", "네"),
        ("...", ""),
        ("", ""),
    ],
)
def test_first_word_in_several_scripts(text: str, word: str) -> None:
    assert selection.first_word(text) == word


def _kept(text: str, gains: dict[str, float], min_gain: float = 0.5) -> str:
    """The kept tokens of a text cut at spaces."""
    pieces = [piece if i == 0 else f" {piece}" for i, piece in enumerate(text.split())]
    kept = selection.keep_phrases(pieces, [gains.get(piece.strip(), 0.0) for piece in pieces], min_gain)
    return "".join(piece for piece, is_kept in zip(pieces, kept, strict=True) if is_kept).strip()


def test_keep_phrases_keeps_words_by_gain_and_a_separator_with_the_phrase_that_it_opens() -> None:
    text = "red circle top , blue square center , green star left ."
    assert _kept(text, {"red": 1, "circle": 1, "star": 2}) == "red circle , star ."
    assert _kept(text, {"blue": 1}) == "blue ."  # a third of a phrase does not open it
    assert _kept(text, {"blue": 1, "center": 0.6}) == ", blue center ."
    assert _kept(text, {}) == "."  # the closing one follows no phrase that opens
    assert _kept("no .", {"no": 1, ".": -9}) == "no ."
    assert _kept("Yes . It is a cat . Sure", {"cat": 3}) == ". cat"


def test_keep_phrases_takes_a_words_largest_gain_for_all_its_tokens() -> None:
    pieces = ["an", " umb", "rel", "la", " there"]
    assert selection.keep_phrases(pieces, [0.0, -1.0, 2.0, 0.0, 0.1], 0.5) == [False, True, True, True, False]


def test_keep_above_is_the_papers_rule() -> None:
    gains = [0.7, 0.69, 5.0, -1.0]
    assert selection.keep_above(gains, 0.7) == [True, False, True, False]
    assert gains == [0.7, 0.69, 5.0, -1.0]
