"""AMBER, generative part (Wang et al. 2023): what a description imagines, what it covers, and what people imagine too.

The benchmark takes nouns with a part-of-speech tagger and counts near synonyms by word vectors. Here a noun is any word
of its own lists, in the singular (one that is seldom a noun, like "can", only where it must be one), and only
the lists make synonyms: figures compare models with each other, not with published ones.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stic_ray.config import Amber
from stic_ray.evaluate.benchmarks import captions
from stic_ray.evaluate.intervals import FloatArray
from stic_ray.evaluate.measures import Item, Measure, ratio
from stic_ray.evaluate.objects import Vocabulary
from stic_ray.evaluate.rows import json_list, json_object, read_text
from stic_ray.records import Prediction

_GENERATIVE = "generative"
# Words of the lists that are mostly something else: verbs without an article or a number before them, and what another
# word follows.
_OTHER_WORDS = re.compile(
    r"(?<!\ba )(?<!\ban )(?<!\bthe )(?<!\bone )(?<!\btwo )\b(?:can|watch|leave|leaves)\b"
    r"|\b(?:hot|light|back|left|right)\b(?=\s+\w)",
    re.IGNORECASE,
)


def read(benchmark: Amber) -> Iterator[Item]:
    """The generative questions; the answers are what is there, the choices what is likely to be imagined."""
    truths = {row.key("id"): row for row in json_list(benchmark.annotations, ("id",))}
    for row in json_list(benchmark.questions, ("id",)):
        truth = truths.get(row.key("id"))
        if truth is None:
            row.fail("id", f"an entry of {benchmark.annotations}")
        if truth.text("type") != _GENERATIVE:
            continue
        hallucinated = truth.values.get("hallu")
        if not isinstance(hallucinated, list) or not all(isinstance(word, str) for word in hallucinated):
            truth.fail("hallu", "a list of words, which may be empty")
        yield Item(
            key=row.key("id"),
            text=row.text("query"),
            image=row.text("image"),
            image_uri=row.image("image", benchmark.images),
            answers=truth.texts("truth"),
            choices=hallucinated,
        )


def measure(benchmark: Amber, rows: Sequence[Prediction]) -> Measure:
    """chair = imagined nouns / nouns; cover = objects named / objects there; hal = answers that imagine / answers;
    cog = likely imaginations named / likely imaginations. In percent."""
    words = _Words.read(benchmark)

    def count(answers: Sequence[Prediction]) -> tuple[float, ...]:
        return captions.total([words.counts(row) for row in answers])

    def figures(sums_XS: FloatArray) -> dict[str, FloatArray]:
        nouns, imagined, named, there, with_one, answers, cognitive, likely = np.moveaxis(sums_XS, -1, 0)
        return {
            "chair": 100 * ratio(imagined, nouns),
            "cover": 100 * ratio(named, there),
            "hal": 100 * ratio(with_one, answers),
            "cog": 100 * ratio(cognitive, likely),
        }

    main = {"chair": "CHAIR", "cover": "Cover", "hal": "Hal", "cog": "Cog"}
    return Measure(count=count, figures=figures, main=main, less_is_better=frozenset({"chair", "hal", "cog"}))


@dataclass(frozen=True, kw_only=True)
class _Words:
    """AMBER's lists: the words that stand for a word, all of them as a vocabulary, and those that are never wrong."""

    related: Mapping[str, Sequence[str]]
    vocabulary: Vocabulary
    safe: frozenset[str]

    @classmethod
    def read(cls, benchmark: Amber) -> "_Words":
        related = {}
        for word, words in json_object(benchmark.relations).items():
            if not isinstance(words, list) or not all(isinstance(each, str) for each in words):
                raise ValueError(f"{benchmark.relations}: {word!r} holds no list of words: copy the file again")
            related[word] = words
        every = sorted({*related, *(each for words in related.values() for each in words)})
        return cls(
            related=related,
            vocabulary=Vocabulary({word.lower(): word for word in every}),
            safe=frozenset(line.strip() for line in read_text(benchmark.safe_words).split("\n")),
        )

    def counts(self, row: Prediction) -> tuple[float, ...]:
        """Of one answer, in the order of the figures' docstring."""
        nouns = self.vocabulary.mentions(_OTHER_WORDS.sub("", row.text))
        imagined = 0
        named, cognitive = set[str](), set[str]()
        for noun in nouns:
            if noun in self.safe:
                continue
            if there := self._stands_for(noun, row.answers):
                named.add(there)
                continue
            imagined += 1
            if likely := self._stands_for(noun, row.choices):
                cognitive.add(likely)
        truths, likely_ones = len(row.answers), len(row.choices)
        return len(nouns), imagined, len(named), truths, imagined > 0, 1, len(cognitive), likely_ones

    def _stands_for(self, noun: str, words: Sequence[str]) -> str:
        """The first of the words that the noun is related to, or itself is; "" for none."""
        related = (word for word in words if noun in self.related.get(word, ()))
        return next(related, noun if noun in words else "")
