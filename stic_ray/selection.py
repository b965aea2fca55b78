"""Selection by visual information gain (VIG, arXiv 2602.17186): thresholds over any number of rows, rules for tokens.

Pure functions. Legend: N = rows, S = strata, T = tokens of one answer.
"""

import unicodedata
from collections.abc import Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt

_MAX_WIDE = 4  # characters of a first word where no space ends it
Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int32]


def num_kept(share: float, num_rows: int) -> int:
    """How many of so many rows the top `share` are: rounded up, and at least one."""
    return max(1, int(np.ceil(share * num_rows - 1e-9)))


def threshold(values_N: Floats, share: float) -> float:
    """tau_p, the value that keeps the top `share` (section 3.2): the `num_kept`-th largest. Exact, in linear time.

    Whoever keeps all values >= tau keeps equal ones too, so that the choice does not depend on the rows' order.

    Raises:
        ValueError: there are no values, or one of them is not finite.
    """
    if not len(values_N):
        raise ValueError("there is nothing to select from")
    if not np.isfinite(values_N).all():
        raise ValueError("a gain is not finite: the scorer's weights or its dtype are at fault")
    position = len(values_N) - num_kept(share, len(values_N))
    return float(np.partition(values_N, position)[position])


def thresholds(values_N: Floats, codes_N: Codes, share: float) -> Floats:
    """`threshold` of each stratum, [S], by its code 0..S-1; every code has rows.

    Raises:
        ValueError: as `threshold`.
    """
    order = np.argsort(codes_N, kind="stable")
    cuts = np.flatnonzero(np.diff(codes_N[order])) + 1
    return np.array([threshold(part, share) for part in np.split(values_N[order], cuts)])


def merge_small(counts_S: npt.NDArray[np.int64], minimum: int) -> Codes:
    """The new code of each stratum: those with fewer than `minimum` rows share the last one."""
    large = counts_S >= minimum
    codes = np.cumsum(large) - 1
    return np.where(large, codes, large.sum()).astype(np.int32)


def same_texts(tokens: Sequence[int], starts: Sequence[int], stops: Sequence[int]) -> list[list[int]]:
    """Tokens in order, those together that stand for the same characters: one that is cut into bytes has several."""
    alike = groupby(tokens, key=lambda t: (starts[t], stops[t]) if starts[t] < stops[t] else t)
    return [list(run) for _, run in alike]


def word_numbers(pieces_T: Sequence[str]) -> list[int]:
    """The number of the word that each token is of, from 0; -1 for a separator, a token without a letter or a digit.

    A word ends at a space, a separator, or around a wide character (Chinese and Japanese write no spaces, Korean does).
    """
    numbers: list[int] = []
    last, after = -1, True  # the newest word; whether the next token begins one
    for piece in pieces_T:
        if not any(_is_of_word(character) for character in piece):
            numbers.append(-1)
            after = True
            continue
        if after or piece[0].isspace() or _is_wide(piece.strip()[0]):
            last += 1
        numbers.append(last)
        after = piece[-1].isspace() or _is_wide(piece.strip()[-1])
    return numbers


def _is_of_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN"


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF" and not unicodedata.name(character, "").startswith("HANGUL")


def first_word(text: str) -> str:
    """What an answer begins with, in lower case: up to a space or a wide stop, of wide characters at most four."""
    word = next(iter(text.split()), "")
    inside = [place for place, character in enumerate(word) if _is_of_word(character)]
    word = word[inside[0] : inside[-1] + 1] if inside else ""
    stop = next((n for n, each in enumerate(word) if _is_wide(each) and not _is_of_word(each)), len(word))
    word = word[:stop].lower()
    return word[:_MAX_WIDE] if word and _is_wide(word[0]) else word


def keep_phrases(pieces_T: Sequence[str], gains_T: Sequence[float], min_gain: float) -> list[bool]:
    """Which tokens of an answer `PhraseTokens` trains; `pieces_T` are their texts without the end tokens."""
    numbers = word_numbers(pieces_T)
    best = [float("-inf")] * (max(numbers, default=-1) + 1)
    for number, gain in zip(numbers, gains_T, strict=True):
        if number >= 0:
            best[number] = max(best[number], gain)
    kept = [number >= 0 and best[number] >= min_gain for number in numbers]
    # A separator is trained as the phrase that it opens; behind the last phrase there are only closing ones.
    start = 0
    for is_separator, run in groupby(numbers, key=lambda number: number < 0):
        stop = start + len(list(run))
        if is_separator:
            following = next((n for n in range(stop, len(numbers)) if numbers[n] < 0), len(numbers))
            words = [best[number] for number in dict.fromkeys(numbers[stop:following])]
            opened = not words or sum(words) / len(words) >= min_gain
            kept[start:stop] = [opened] * (stop - start)
        start = stop
    return kept


def keep_above(gains_T: Sequence[float], min_gain: float) -> list[bool]:
    """T+ = {t : VIG_t >= tau} (section 3.3)."""
    return [gain >= min_gain for gain in gains_T]
