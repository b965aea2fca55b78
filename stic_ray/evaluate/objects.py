"""Which objects a text names, by the word rules of CHAIR (Rohrbach et al. 2018)."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

# A compound with hyphens is one word ("man-made" names no man), and so is what follows an apostrophe ("'s", "'clock").
_TOKEN = re.compile(r"[^\W_]+(?:-[^\W_]+)*|(?<=\w)['\u2019][^\W_]+|[^\w\s]")
_IRREGULAR = {"children": "child", "feet": "foot", "geese": "goose", "mice": "mouse", "oxen": "ox", "teeth": "tooth"}

_ANIMALS = "animal bear bird cat cow cub dog elephant giraffe horse sheep zebra"
# Pairs of words that mean another object than their words do, or none: the name that they stand for, "" for no object.
_PAIRS = {
    **{f"{age} {animal}": animal for age in ("baby", "adult") for animal in _ANIMALS.split()},
    "passenger jet": "jet",
    "passenger train": "train",
    "bow tie": "tie",
    "toilet seat": "toilet",
    "train track": "",
    "home plate": "",
}


@dataclass(frozen=True)
class Vocabulary:
    """The objects that CHAIR knows: every name, in lower case and with one space between its words, with the object
    that it stands for, "" where it stands for none ("train track" is no train)."""

    names: Mapping[str, str] = field(default_factory=dict)

    def mentions(self, text: str) -> list[str]:
        """The objects that a text names, once per occurrence, in order.

        The longest name wins ("hot dog" is no dog) and punctuation ends a name; a name's last word may be plural. In a
        text with the word "toilet" a "seat" is no object.
        """
        words = _words(text)
        found = []
        start = 0
        while start < len(words):
            for end in range(min(start + self._longest, len(words)), start, -1):
                name = self._look_up(words[start:end])
                if name is not None:
                    found.append(name)
                    start = end
                    break
            else:
                start += 1
        if {"toilet", "toilet seat"}.intersection(found):
            found = [name for name in found if name != "seat"]
        return [self.names[name] for name in found if self.names[name]]

    def canonical(self, name: str) -> str | None:
        """The object that a name stands for, None where the vocabulary lacks it."""
        found = self._look_up(_words(name))
        return (self.names[found] or None) if found else None

    @cached_property
    def _longest(self) -> int:
        """The most words that a name has."""
        return max((name.count(" ") + 1 for name in self.names), default=0)

    def _look_up(self, words: Sequence[str]) -> str | None:
        """The name that these words are."""
        head, space, last = _join(words).rpartition(" ")
        candidates = (f"{head}{space}{word}" for word in (last, *singulars(last)))
        return next((name for name in candidates if name in self.names), None)


def make_vocabulary(lines: Iterable[Sequence[str]]) -> Vocabulary:
    """A vocabulary of lines of synonyms; each line's names stand for its first one, a line without names for nothing.

    CHAIR's special pairs ("baby elephant", "toilet seat") are names too, where one of their words is and no line has
    them.

    Raises:
        ValueError: a name has no word in it, or stands for two objects; the message numbers the line, from 1.
    """
    objects: dict[str, str] = {}
    for number, names in enumerate(lines, start=1):
        for given in names:
            name = _join(_words(given))
            if not any(map(str.isalnum, name)):
                raise ValueError(f"line {number}: the name {given!r} has no word in it: remove it")
            if objects.setdefault(name, names[0]) != names[0]:
                raise ValueError(
                    f"line {number}: the name {given!r} stands for {objects[name]!r} and for {names[0]!r}: keep one"
                )
    pairs = {
        pair: objects.get(meant, "") for pair, meant in _PAIRS.items() if not objects.keys().isdisjoint(pair.split())
    }
    return Vocabulary(pairs | objects)


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
    if word.endswith(("ses", "xes", "zes", "ches", "shes", "oes")):  # after others "es" is no ending: "manes"
        return (word[:-1], word[:-2])
    return (word[:-1],)


def _words(text: str) -> tuple[str, ...]:
    return tuple(_TOKEN.findall(text.lower()))


def _join(words: Sequence[str]) -> str:
    return " ".join(words).replace("-", " ")
