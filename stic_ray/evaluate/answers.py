"""How benchmarks read an answer: VQA accuracy, relaxed accuracy, ANLS, and choices; pure functions of texts.

Each follows its benchmark's own rule, quirks included, since figures are compared with published ones.
"""

import math
import re
from collections.abc import Mapping, Sequence

_NUMBERS = ("none", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(max(0, value - 1)) for value, word in enumerate(_NUMBERS)}
_ARTICLES = {"a", "an", "the"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")
# Contractions as people type them, without the apostrophes; each stands for itself with them. The benchmark's own list
# has "Im" and "Ive" with a capital, which no lower-case word meets.
_WITH_APOSTROPHE = (
    "ain't aren't can't couldn't could've didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's "
    "isn't it'd it'll let's ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't she'd "
    "she's shouldn't should've somebody'd somebody'll somebody's someone'd someone'll someone's something'd "
    "something'll that'd that's there'd there're there's they'd they'll they're they've 'twas wasn't we've weren't "
    "what'll what're what's what've when's where'd where's where've who'd who'll who's who've why'll why're why's "
    "won't would've wouldn't y'all you'd you'll you're you've"
)
_WITH_TWO = "couldn't've he'd've shouldn't've wouldn't've who'd've you'd've"  # one of them may be there
_CONTRACTIONS = {word.replace("'", ""): word for word in _WITH_APOSTROPHE.split()}
for _word in _WITH_TWO.split():
    _CONTRACTIONS[_word.replace("'", "", 1)] = _word
    _CONTRACTIONS["".join(_word.rsplit("'", 1))] = _word


def normalise_vqa(text: str) -> str:
    """An answer as VQA's evaluation compares it: lower case, without articles and most punctuation, digits for words.

    (Antol et al. 2015, as used by TextVQA: commas and question marks go first, "'s" stands by itself.)
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    words = [_DIGITS.get(word, word) for word in _without_punctuation(text).split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _without_punctuation(text: str) -> str:
    """A mark beside a space goes, one between two characters becomes a space; periods go but before digits."""
    found = text
    for mark in _PUNCTUATION:
        beside = f"{mark} " in text or f" {mark}" in text
        found = found.replace(mark, "" if beside else " ")
    return _PERIOD.sub("", found)


def vqa_accuracy(text: str, answers: Sequence[str]) -> float:
    """VQA accuracy of an answer against ten people's, 0 to 1: the mean over people of min(1, agreeing others / 3)."""
    given, gold = normalise_vqa(text), [normalise_vqa(answer) for answer in answers]
    scores = []
    for person in range(len(gold)):
        agreeing = sum(answer == given for other, answer in enumerate(gold) if other != person)
        scores.append(min(1.0, agreeing / 3))
    return sum(scores) / len(scores) if scores else 0.0


def relaxed_match(text: str, answer: str, tolerance: float = 0.05) -> bool:
    """ChartQA's relaxed accuracy (Masry et al. 2022): numbers within 5% of the answer, other texts equal in any case.

    A percentage is its share of 100; a gold answer of 0 is compared as a text.
    """
    given, gold = _number(text), _number(answer)
    if given is not None and gold:
        return abs(given - gold) / abs(gold) <= tolerance
    return text.strip().lower() == answer.strip().lower()


def _number(text: str) -> float | None:
    text = text.strip()
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        return None
    return value / 100 if text.endswith("%") else value


def anls(text: str, answers: Sequence[str], threshold: float = 0.5) -> float:
    """Average normalised Levenshtein similarity of one answer (Biten et al. 2019): the best over the gold answers of
    1 - distance / longer length, 0 below the threshold; case and repeated spaces do not count."""
    given = " ".join(text.lower().split())
    best = 0.0
    for answer in answers:
        gold = " ".join(answer.lower().split())
        longer = max(len(given), len(gold))
        best = max(best, 1 - edit_distance(given, gold) / longer if longer else 0.0)
    return best if best >= threshold else 0.0


def edit_distance(one: str, other: str) -> int:
    """Levenshtein's: the fewest characters put in, left out or replaced that make one text the other."""
    row = list(range(len(other) + 1))
    for number, mine in enumerate(one, start=1):
        diagonal, row[0] = row[0], number
        for place, theirs in enumerate(other, start=1):
            diagonal, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, diagonal + (mine != theirs))
    return row[-1]


# Choices


_SEPARATORS = re.compile(r"[.()\[\],:;!*#{}]")
_FIRST = re.compile(r"\(?([A-Z])(?:\)?[.):,]?(?:\s*\n|\s*\Z)|\)?[.):,]\s|\)\s)")
_SAID = re.compile(r"answer is:? \(?([A-Z])\b")
_MOST_BEHIND = 5  # words from a letter to an answer's end: further away it is part of a sentence
_FEWEST_WITH_ARTICLE = 4  # words of a text whose "A" may be an article


def read_choice(text: str, choices: Mapping[str, str]) -> str:
    """The letter that an answer chooses among `choices` (letter to text), "" where none can be read off.

    First "A", "A. ..." and "The answer is A" (ScienceQA as LLaVA reads it), a choice's whole text, then MMBench's
    heuristics (Liu et al. 2024, section 4.3): a single letter near the end, or the only choice whose text stands in the
    answer. The benchmark asks a language model what these leave open; here that is wrong.
    """
    stripped = text.strip()
    first = _FIRST.match(stripped)
    if first and first[1] in choices:
        return first[1]
    same = [letter for letter, choice in choices.items() if choice.strip().lower() == stripped.rstrip(".").lower()]
    if len(same) == 1:
        return same[0]
    said: set[str] = {letter for letter in _SAID.findall(stripped) if letter in choices}
    if len(said) == 1:
        return said.pop()
    return _single_letter(stripped, choices) or _only_text(stripped, choices)


def _single_letter(text: str, choices: Mapping[str, str]) -> str:
    words = _SEPARATORS.sub(" ", text).split()
    found = list(dict.fromkeys(word for word in words if word in choices))
    if len(found) != 1 or (found == ["A"] and len(words) >= _FEWEST_WITH_ARTICLE):
        return ""
    return found[0] if words.index(found[0]) > len(words) - _MOST_BEHIND else ""


def _only_text(text: str, choices: Mapping[str, str]) -> str:
    lower = text.lower()
    if len(lower) > 2 * sum(map(len, choices.values())):
        return ""
    found = [letter for letter, choice in choices.items() if choice.lower() in lower]
    return found[0] if len(found) == 1 else ""


# MathVista


_QUOTED = re.compile(r'[Tt]he answer is "(.*)"\.?')
_LETTER = re.compile(r"\(([A-Za-z])\)")
_NUMERAL = re.compile(r"-?\d[\d,]*\.?\d*|-?\.\d+")


def read_math_answer(text: str, *, kind: str, choices: Sequence[str] = (), precision: int | None = None) -> str:
    """What MathVista (Lu et al. 2024) compares with the gold answer, "" where nothing can be read off.

    `kind` is "choice" (of `choices`), "integer", "float" (with `precision` digits behind the point), "list" or "text".
    The benchmark has a language model find the answer in free text; here it is what is quoted after "the answer is",
    a letter in parentheses or a choice's own text, and of numbers the last one.
    """
    stripped = text.strip()
    quoted = _QUOTED.search(stripped)
    found = quoted[1] if quoted else stripped
    if kind == "choice":
        return _nearest_choice(found, choices)
    if kind in ("integer", "float"):
        return _math_number(found, None if kind == "integer" else precision)
    return found


def _nearest_choice(text: str, choices: Sequence[str]) -> str:
    if not text or not choices:
        return ""
    letters = {chr(ord("A") + number): choice for number, choice in enumerate(choices)}
    in_parentheses = _LETTER.findall(text)
    letter = in_parentheses[0].upper() if in_parentheses else read_choice(text, letters)
    if letter in letters:
        return letters[letter]
    return min(choices, key=lambda choice: edit_distance(text, choice))


def _math_number(text: str, precision: int | None) -> str:
    numerals = _NUMERAL.findall(text)
    if not numerals:
        return ""
    value = float(numerals[-1].replace(",", ""))
    if not math.isfinite(value):
        return ""
    return str(int(value)) if precision is None else str(round(value, precision))
