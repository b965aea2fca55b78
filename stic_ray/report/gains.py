"""What the gains of a run's answers amount to: rows in, figures out; memory does not grow with their tokens.

Exact but for the median and the quantiles of tokens, which are known to half of `_BIN_NATS`. A word is as in
`selection.word_numbers`; its gain is the sum of its tokens', which is log p(word | image) - log p(word | no image)
whatever pieces a tokenizer cuts it into. (Selection looks at a word's largest token.)
"""

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stic_ray import selection
from stic_ray.config import GainedPairs, VigSelection
from stic_ray.records import Gain

Floats = npt.NDArray[np.float64]
Figures = dict[str, Any]  # as vig.json has them

MIN_COUNT = 5  # occurrences that a word needs to be among the most or the least visual ones
NUM_BINS = 40
_BIN_NATS, _EDGE_NATS = 0.05, 25.0
_ZERO = round(_EDGE_NATS / _BIN_NATS)  # the first bin of those above 0
_MAX_WORDS = 200_000  # held at once: 60 MB
_BANDS = ((10, "words of rank 1 to 10"), (50, "words of rank 11 to 50"), (500, "words of rank 51 to 500"))
_RARER = "rarer words"
FUNCTION_LIKE = tuple(name for _, name in _BANDS[:2])  # the 50 commonest words
WORD, SEPARATOR, END = "word", "separator", "end"
_NUMBERS, _SEPARATORS, _ENDS = "numbers (words with a digit)", "separators (no letter, no digit)", "ends of answers"
_QUANTILES = {"p10": 0.1, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9}
_NUM_FIRST_WORDS = 25
_NUM_GROUPS = 100
_LEAST_COLOR_NATS = 0.5  # that a page colours in full


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A word, a separator or an end of an answer: its text in lower case, the places of its tokens in the row."""

    kind: str
    text: str
    places: list[int]


def units(gain: Gain) -> Iterator[Unit]:
    """All tokens of a conversation's answers, by what they are part of."""
    answers = [turn.text.strip() for turn in gain.turns if turn.role == "assistant"]
    for number, answer in enumerate(answers):
        mine = [t for t, of in enumerate(gain.answers) if of == number]
        spoken = [t for t in mine if gain.starts[t] < len(answer)]
        texts = selection.same_texts(spoken, gain.starts, gain.stops)
        words = zip(selection.word_numbers(_pieces(gain, answer, [one[0] for one in texts])), texts, strict=True)
        for word, run in groupby(words, key=lambda pair: pair[0]):
            parts = [one for _, one in run]
            places = [t for one in parts for t in one]
            if word < 0:
                yield from (Unit(kind=SEPARATOR, text=_text(gain, answer, one), places=one) for one in parts)
            else:
                yield Unit(kind=WORD, text=_bare(_text(gain, answer, places)), places=places)
        yield from (Unit(kind=END, text="", places=[t]) for t in mine[len(spoken) :])


def _pieces(gain: Gain, answer: str, places: list[int]) -> list[str]:
    """The tokens' texts with the space behind them, which many tokenizers count to no token: it ends a word."""
    following = [*(gain.starts[t] for t in places[1:]), len(answer)]
    return [answer[gain.starts[t] : max(gain.stops[t], after)] for t, after in zip(places, following, strict=True)]


def _text(gain: Gain, answer: str, places: list[int]) -> str:
    return answer[gain.starts[places[0]] : gain.stops[places[-1]]].strip().lower()


def _bare(word: str) -> str:
    """A word without what a tokenizer left at its ends, as in `dog.`"""
    inside = [place for place, character in enumerate(word) if unicodedata.category(character)[0] in "LMN"]
    return word[inside[0] : inside[-1] + 1]


@dataclass(slots=True, kw_only=True)
class Sums:
    """Of units that are alike: how many, of how many tokens, the sum of their gains, how many gain more than 0."""

    count: int = 0
    tokens: int = 0
    gain: float = 0.0
    above: int = 0

    def add(self, other: "Sums") -> None:
        """Take in others."""
        self.count += other.count
        self.tokens += other.tokens
        self.gain += other.gain
        self.above += other.above


class WordTally:
    """Sums by word and by class of word. Of more than `max_words` different words the rarer half is forgotten: they
    stay in the sums of their class, and the count of one that comes again starts anew."""

    def __init__(self, max_words: int = _MAX_WORDS) -> None:
        self._max_words = max_words
        self._words: dict[str, Sums] = {}
        self._others = {name: Sums() for name in (_RARER, _NUMBERS, _SEPARATORS, _ENDS)}
        self.num_forgotten = 0

    def add(self, gain: Gain) -> None:
        """Count all of a conversation."""
        for unit in units(gain):
            value = sum(gain.gains[t] for t in unit.places)
            one = Sums(count=1, tokens=len(unit.places), gain=value, above=int(value > 0))
            if unit.kind == WORD and not _is_number(unit.text):
                self._words.setdefault(unit.text, Sums()).add(one)
            else:
                self._others[{WORD: _NUMBERS, SEPARATOR: _SEPARATORS, END: _ENDS}[unit.kind]].add(one)
        if len(self._words) > self._max_words:
            self._forget()

    def _forget(self) -> None:
        ranked = self._ranked()
        for _, sums in ranked[self._max_words // 2 :]:
            self._others[_RARER].add(sums)
            self.num_forgotten += sums.count
        self._words = dict(ranked[: self._max_words // 2])

    def _ranked(self) -> list[tuple[str, Sums]]:
        return sorted(self._words.items(), key=lambda item: (-item[1].count, item[0]))

    def by_class(self) -> list[Figures]:
        """Words by rank of frequency, numbers, separators, ends: together all tokens, and all of the gain."""
        classes = {name: Sums() for _, name in _BANDS} | {name: Sums() for name in self._others}
        for name, sums in self._others.items():
            classes[name].add(sums)
        for rank, (_, sums) in enumerate(self._ranked(), start=1):
            classes[next((name for last, name in _BANDS if rank <= last), _RARER)].add(sums)
        total = sum(sums.gain for sums in classes.values())
        return [
            {
                "name": name,
                "count": sums.count,
                "tokens": sums.tokens,
                "mean": sums.gain / sums.count,
                "mean_of_tokens": sums.gain / sums.tokens,
                "above_zero": sums.above / sums.count,
                "share_of_gain": sums.gain / total if total else 0.0,
            }
            for name, sums in classes.items()
            if sums.count
        ]

    def num_words(self) -> int:
        """How many different words are held."""
        return len(self._words)

    def extremes(self, min_count: int, limit: int) -> tuple[list[Figures], list[Figures]]:
        """The words of the largest and of the smallest mean gain, no word in both."""
        found: list[Figures] = [
            {
                "word": word,
                "count": sums.count,
                "mean": sums.gain / sums.count,
                "above_zero": sums.above / sums.count,
            }
            for word, sums in self._words.items()
            if sums.count >= min_count
        ]
        found.sort(key=lambda figures: (-figures["mean"], figures["word"]))
        least = found[max(len(found) - limit, (len(found) + 1) // 2) :]
        return found[: min(limit, (len(found) + 1) // 2)], least[::-1]


def _is_number(word: str) -> bool:
    return any(unicodedata.category(character) == "Nd" for character in word)


class TokenHistogram:
    """Gains of any number of tokens: mean and share above 0 exactly, the rest by bins."""

    def __init__(self) -> None:
        self._counts = np.zeros(2 * _ZERO, dtype=np.int64)
        self.num, self._total, self._above = 0, 0.0, 0

    def add(self, gains: Sequence[float] | Floats) -> None:
        """Count tokens; those beyond the outer edges are in the outer bins.

        Raises:
            ValueError: a gain is not finite.
        """
        values = np.asarray(gains, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError("a gain is not finite: the scorer's weights or its dtype are at fault")
        places = np.floor(values / _BIN_NATS).astype(np.int64).clip(-_ZERO, _ZERO - 1) + _ZERO
        self._counts += np.bincount(places, minlength=2 * _ZERO)
        self.num += len(values)
        self._total += float(values.sum())
        self._above += int((values > 0).sum())

    def quantile(self, share: float) -> float:
        """The middle of the bin in which the quantile is."""
        place = int(np.searchsorted(np.cumsum(self._counts), share * self.num, side="left"))
        return (min(place, len(self._counts) - 1) - _ZERO + 0.5) * _BIN_NATS

    def figures(self) -> Figures:
        """Mean, quantiles, the share above 0, and a histogram from the first to the last percent."""
        if not self.num:
            return {}
        first, last = (int(self.quantile(share) // _BIN_NATS) + _ZERO for share in (0.01, 0.99))
        width = max(1, (last - first) // NUM_BINS)
        first, last = (_ZERO + (place - _ZERO) // width * width for place in (first, last + width))  # 0 is a cut
        cuts = [first, *range(first + width, last, width), last]
        counts = [int(self._counts[max(a, 0) : max(b, 0)].sum()) for a, b in pairwise(cuts)]
        counts[0] += int(self._counts[: max(first, 0)].sum())
        counts[-1] += int(self._counts[last:].sum())
        return {
            "mean": self._total / self.num,
            **{name: self.quantile(share) for name, share in _QUANTILES.items()},
            "above_zero": self._above / self.num,
            "histogram": {"edges": [(cut - _ZERO) * _BIN_NATS for cut in cuts], "counts": counts},
        }


def spread(values_N: Floats) -> Figures:
    """Mean, quantiles and the share above 0."""
    quantiles = np.quantile(values_N, list(_QUANTILES.values())).tolist()
    return {
        "conversations": len(values_N),
        "mean": float(values_N.mean()),
        **dict(zip(_QUANTILES, quantiles, strict=True)),
        "above_zero": float((values_N > 0).mean()),
    }


def histogram(values_N: Floats, num_bins: int = NUM_BINS) -> Figures:
    """Counts by bins from the first to the last percent; what lies beyond is in the outer bins."""
    low, high = np.quantile(values_N, [0.01, 0.99])
    width = max((high - low) / num_bins, 0.01)
    first, last = np.floor(low / width), np.floor(high / width) + 1
    edges = np.arange(first, last + 1) * width  # 0 is an edge, where it is among them
    places = np.floor(values_N / width).clip(first, last - 1) - first
    counts = np.bincount(places.astype(np.int64), minlength=len(edges) - 1)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


class Distributions:
    """Gains of a stream of conversations with images, and of their tokens: 8 bytes a conversation are held."""

    def __init__(self) -> None:
        self._means: list[Floats] = []
        self._tokens = TokenHistogram()

    def add(self, means: Floats, gains: Floats) -> None:
        """Count conversations by their mean gains, and all of their tokens by theirs."""
        self._means.append(means)
        self._tokens.add(gains)

    @property
    def num_conversations(self) -> int:
        """How many were counted."""
        return sum(map(len, self._means))

    @property
    def num_tokens(self) -> int:
        """How many tokens these have."""
        return self._tokens.num

    def means(self) -> Floats:
        """The conversations' gains in the order of the stream."""
        return np.concatenate(self._means)

    def figures(self) -> Figures:
        """Both distributions, and the gain that a page colours in full; without conversations, only the counts."""
        figures: Figures = {"conversations": self.num_conversations, "tokens": self.num_tokens}
        if not self.num_tokens:
            return figures
        means_N = self.means()
        return figures | {
            "gain": {**spread(means_N), "histogram": histogram(means_N)},
            "token_gain": self._tokens.figures(),
            "color_nats": max(_LEAST_COLOR_NATS, *(round(abs(self._tokens.quantile(p)), 1) for p in (0.1, 0.9))),
        }


class GainTally:
    """Everything that is counted of a stream of conversations; `name_group` is the group that one belongs to.

    20 bytes a conversation are held, for exact medians; of tokens, sums.
    """

    def __init__(self, name_group: Callable[[Gain], str]) -> None:
        self.name_group = name_group
        self._gains = Distributions()
        self._codes: list[npt.NDArray[np.int32]] = []  # group and first word, [N, 2]
        self._numbers: tuple[dict[str, int], dict[str, int]] = ({}, {})
        self._words = WordTally()
        self._num_text_only, self._num_answers = 0, 0
        self._logp, self._blind_logp = 0.0, 0.0

    def add(self, gains: Sequence[Gain]) -> None:
        """Count conversations; of those without an image, only how many there are."""
        seen = [gain for gain in gains if gain.image_uri]
        self._num_text_only += len(gains) - len(seen)
        if not seen:
            return
        groups, first_words = self._numbers
        codes = [
            (
                groups.setdefault(self.name_group(gain), len(groups)),
                first_words.setdefault(gain.first_word, len(first_words)),
            )
            for gain in seen
        ]
        means, gains_of = [gain.mean_gain for gain in seen], [value for gain in seen for value in gain.gains]
        self._gains.add(np.array(means), np.array(gains_of))
        self._codes.append(np.array(codes, dtype=np.int32))
        for gain in seen:
            self._words.add(gain)
            self._num_answers += len(gain.turns) // 2
            self._logp += sum(gain.logp)
            self._blind_logp += sum(gain.blind_logp)

    def figures(self) -> Figures:
        """All figures of the stream; of one without images, only how many there are without."""
        figures = {**self._gains.figures(), "text_only": self._num_text_only, "answers": self._num_answers}
        num_tokens = self._gains.num_tokens
        if not num_tokens:
            return figures
        means_N, codes_N2 = self._gains.means(), np.concatenate(self._codes)
        most, least = self._words.extremes(MIN_COUNT, 20)
        return figures | {
            "perplexity": float(np.exp(-self._logp / num_tokens)),
            "blind_perplexity": float(np.exp(-self._blind_logp / num_tokens)),
            "by_group": _by_name(means_N, codes_N2[:, 0], self._numbers[0], _NUM_GROUPS),
            "by_first_word": _by_name(means_N, codes_N2[:, 1], self._numbers[1], _NUM_FIRST_WORDS),
            "by_class": self._words.by_class(),
            "different_words": self._words.num_words(),
            "forgotten_words": self._words.num_forgotten,
            "min_count": MIN_COUNT,
            "most_visual": most,
            "least_visual": least,
        }


def _by_name(means_N: Floats, codes_N: npt.NDArray[np.int32], numbers: dict[str, int], limit: int) -> list[Figures]:
    """The spread of each of the largest groups by size, and of all others together (`name` None)."""
    order = np.argsort(codes_N, kind="stable")
    parts = np.split(means_N[order], np.flatnonzero(np.diff(codes_N[order])) + 1)
    named = sorted(zip(numbers, parts, strict=True), key=lambda item: (-len(item[1]), item[0]))
    figures: list[Figures] = [{"name": name, **spread(part)} for name, part in named[:limit]]
    if len(named) > limit:
        rest = np.concatenate([part for _, part in named[limit:]])
        figures.append({"name": None, "groups": len(named) - limit, **spread(rest)})
    return figures


_CHOSEN = "chosen"  # a row's role; stages.score has it, which imports Ray
_BY_THRESHOLD = (VigSelection.__name__, GainedPairs.__name__)
SELECTED_COLUMNS = ["role", "image_id", "stratum", "mean_gain", "num_used"]


class SelectionTally:
    """What a selection of this type kept of the conversations with an image, by stratum."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._strata: dict[str, tuple[float, int, int]] = {}  # the smallest gain, conversations, trained tokens

    def add(self, rows: pa.Table) -> None:
        """Count rows of `Selected`, their SELECTED_COLUMNS."""
        rows = rows.filter(pc.not_equal(rows.column("image_id"), ""))
        gains = rows.column("mean_gain")
        if self._kind == GainedPairs.__name__:  # by the chosen answer's gain alone
            gains = pc.if_else(pc.equal(rows.column("role"), _CHOSEN), gains, pa.scalar(None, gains.type))
        rows = rows.set_column(rows.column_names.index("mean_gain"), "mean_gain", gains)
        sums = [("mean_gain", "min"), ("role", "count"), ("num_used", "sum")]
        for row in rows.group_by("stratum").aggregate(sums).to_pylist():
            low, num, tokens = self._strata.get(row["stratum"], (float("inf"), 0, 0))
            least = low if row["mean_gain_min"] is None else min(low, row["mean_gain_min"])
            self._strata[row["stratum"]] = (least, num + row["role_count"], tokens + row["num_used_sum"])

    def figures(self) -> Figures:
        """How much was kept, and of a selection by threshold each stratum's: the least gain that is kept is it."""
        strata = sorted(self._strata.items(), key=lambda item: (-item[1][1], item[0]))
        return {
            "type": self._kind,
            "conversations": sum(num for _, (_, num, _) in strata),
            "tokens": sum(tokens for _, (_, _, tokens) in strata),
            "thresholds": [
                {"stratum": name, "threshold": low, "conversations": num, "tokens": tokens}
                for name, (low, num, tokens) in strata
                if self._kind in _BY_THRESHOLD
            ],
        }
