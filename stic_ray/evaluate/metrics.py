"""Metrics as pure functions: one answer becomes counts, summed counts become figures in percent.

The two halves of a metric are apart (`*_counts`, `*_figures`) so that the bootstrap can sum resampled images' counts.
Shape legend: S counts (sufficient statistics); X any leading axes, none for one value.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from stic_ray.evaluate.intervals import Figures, FloatArray
from stic_ray.records import Prediction

_TOKEN = re.compile(r"[^\W_]+|[^\w\s-]")
_IRREGULAR = {"children": "child", "feet": "foot", "geese": "goose", "mice": "mouse", "oxen": "ox", "teeth": "tooth"}
_EDGE_PUNCTUATION = ".,;:!?\"'`()[]{}*_\u201c\u201d\u2018\u2019\u2026"


@dataclass(frozen=True)
class Vocabulary:
    """The objects that CHAIR knows: every name, as its words, with the object that it stands for."""

    objects: Mapping[tuple[str, ...], str] = field(default_factory=dict)

    def mentions(self, text: str) -> list[str]:
        """The objects that a text names, once per occurrence, in order.

        The longest name wins ("hot dog" is no dog) and punctuation ends a name; a name's last word may be plural.
        """
        words = _words(text)
        longest = max(map(len, self.objects), default=0)
        found = []
        start = 0
        while start < len(words):
            for end in range(min(start + longest, len(words)), start, -1):
                name = self._look_up(words[start:end])
                if name is not None:
                    found.append(name)
                    start = end
                    break
            else:
                start += 1
        return found

    def canonical(self, name: str) -> str | None:
        """The object that a name stands for, None where the vocabulary lacks it."""
        return self._look_up(_words(name))

    def _look_up(self, words: tuple[str, ...]) -> str | None:
        if not words:
            return None
        for last in (words[-1], *singulars(words[-1])):
            found = self.objects.get((*words[:-1], last))
            if found is not None:
                return found
        return None


def make_vocabulary(lines: Iterable[Sequence[str]]) -> Vocabulary:
    """A vocabulary of lines of synonyms; each line's names stand for its first one, a line without names for nothing.

    Raises:
        ValueError: a name has no word in it, or stands for two objects; the message numbers the line, from 1.
    """
    objects: dict[tuple[str, ...], str] = {}
    for number, names in enumerate(lines, start=1):
        for name in names:
            words = _words(name)
            if not words:
                raise ValueError(f"line {number}: the name {name!r} has no word in it: remove it")
            if objects.setdefault(words, names[0]) != names[0]:
                raise ValueError(
                    f"line {number}: the name {name!r} stands for {objects[words]!r} and for {names[0]!r}: keep one"
                )
    return Vocabulary(objects)


def singulars(word: str) -> tuple[str, ...]:
    """What a lower-case word may be the plural of, likeliest first; () where it is no regular plural.

    The candidates are only looked up, so one that is no word does no harm.
    """
    if word in _IRREGULAR:
        return (_IRREGULAR[word],)
    if word.endswith("men"):
        return (f"{word[:-3]}man",)
    if word.endswith("ss") or not word.endswith("s") or len(word) < 3:
        return ()
    if word.endswith("ies"):
        return (f"{word[:-3]}y", word[:-1])
    if word.endswith("ves"):
        return (word[:-1], f"{word[:-3]}f", f"{word[:-3]}fe")
    if word.endswith("es"):
        return (word[:-1], word[:-2])
    return (word[:-1],)


def caption_counts(text: str, *, num_tokens: int, objects: frozenset[str], vocabulary: Vocabulary) -> tuple[float, ...]:
    """CHAIR's counts of one caption; `objects` are what the image really holds, by their canonical names.

    Returns mentions, hallucinated mentions, captions (1), captions with a hallucination, objects found,
    objects there, tokens.
    """
    mentions = vocabulary.mentions(text)
    hallucinated = sum(name not in objects for name in mentions)
    found = len(objects.intersection(mentions))
    return len(mentions), hallucinated, 1, hallucinated > 0, found, len(objects), num_tokens


def caption_figures(sums_XS: FloatArray) -> dict[str, FloatArray]:
    """CHAIR (Rohrbach et al. 2018), recall over all objects (micro-averaged) and length, of summed counts.

    chair_i = hallucinated mentions / mentions; chair_s = captions with a hallucination / captions;
    recall = objects found / objects there; mean_length = tokens / captions. Captions that name nothing have chair_i 0.
    """
    mentions, hallucinated, captions, with_one, found, there, tokens = np.moveaxis(sums_XS, -1, 0)
    return {
        "chair_i": 100 * _ratio(hallucinated, mentions),
        "chair_s": 100 * _ratio(with_one, captions),
        "recall": 100 * _ratio(found, there),
        "mean_length": _ratio(tokens, captions),
    }


def pope_says_yes(text: str) -> bool:
    """POPE's reading of an answer: "no" when its first sentence holds the word No, no or not, else "yes".

    As in the benchmark's own script an answer without any of them, an empty one too, is a yes, and the case counts.
    """
    first_sentence = re.split(r"[.!?\n]", text.strip(), maxsplit=1)[0]
    return not {"No", "no", "not"}.intersection(word.strip(_EDGE_PUNCTUATION) for word in first_sentence.split())


def pope_counts(text: str, label: str) -> tuple[float, ...]:
    """One POPE answer's counts: true positives, false positives, true negatives, false negatives; yes is positive."""
    says_yes, is_yes = pope_says_yes(text), label == "yes"
    return says_yes and is_yes, says_yes and not is_yes, not says_yes and not is_yes, not says_yes and is_yes


def pope_figures(sums_XS: FloatArray) -> dict[str, FloatArray]:
    """POPE's figures of summed counts; a ratio without cases (precision of a model that never says yes) is 0."""
    true_yes, false_yes, true_no, false_no = np.moveaxis(sums_XS, -1, 0)
    asked = true_yes + false_yes + true_no + false_no
    return {
        "accuracy": 100 * _ratio(true_yes + true_no, asked),
        "precision": 100 * _ratio(true_yes, true_yes + false_yes),
        "recall": 100 * _ratio(true_yes, true_yes + false_no),
        "f1": 100 * _ratio(2 * true_yes, 2 * true_yes + false_yes + false_no),
        "yes_ratio": 100 * _ratio(true_yes + false_yes, asked),
    }


@lru_cache(maxsize=65536)  # an answer is counted once a figure and a comparison, and short ones repeat
def normalise_answer(text: str) -> str:
    """Lower case, one space between words, no punctuation around them (inside they keep it: 3.5, top-left)."""
    words = (word.strip(_EDGE_PUNCTUATION) for word in text.lower().split())
    return " ".join(word for word in words if word)


def answer_is_correct(text: str, answer: str) -> bool:
    """Whether a short answer is the gold one once both are normalised; a yes or no is read off the first word."""
    given, gold = normalise_answer(text), normalise_answer(answer)
    if gold in ("yes", "no"):
        return given.split(" ")[0] == gold
    return given == gold


def question_counts(prediction: Prediction, categories: Sequence[str]) -> tuple[float, ...]:
    """One short answer's counts: whether it is correct, by category, then that it was asked, by category."""
    asked = [float(prediction.category == category) for category in categories]
    correct = answer_is_correct(prediction.text, prediction.answer)
    return (*(one * correct for one in asked), *asked)


def question_figures(categories: Sequence[str]) -> Figures:
    """Question accuracy of summed counts: one figure a category and `accuracy`, their plain mean.

    A category without questions has no figure (nan) and is left out of the mean.
    """

    def figures(sums_XS: FloatArray) -> dict[str, FloatArray]:
        correct_XC, asked_XC = np.split(sums_XS, 2, axis=-1)
        shares_XC = 100 * _ratio(correct_XC, asked_XC, empty=np.nan)
        num_asked_X = (asked_XC > 0).sum(-1).astype(np.float64)
        mean_X = _ratio(np.nansum(shares_XC, axis=-1), num_asked_X, empty=np.nan)
        return {"accuracy": mean_X, **dict(zip(categories, np.moveaxis(shares_XC, -1, 0), strict=True))}

    return figures


def most_frequent_answer_rates(predictions: Iterable[Prediction]) -> dict[str, float]:
    """The share, in percent, of each category's most frequent gold answer: what a model that never looks can reach."""
    answers: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for prediction in predictions:
        answers[prediction.category][normalise_answer(prediction.answer)] += 1
    return {name: 100 * max(counts.values()) / counts.total() for name, counts in sorted(answers.items())}


def _words(text: str) -> tuple[str, ...]:
    return tuple(_TOKEN.findall(text.lower()))


def _ratio(part_X: FloatArray, whole_X: FloatArray, empty: float = 0.0) -> FloatArray:
    part_X, whole_X = np.asarray(part_X, dtype=np.float64), np.asarray(whole_X, dtype=np.float64)
    return np.divide(part_X, whole_X, out=np.full_like(whole_X, empty), where=whole_X > 0)
