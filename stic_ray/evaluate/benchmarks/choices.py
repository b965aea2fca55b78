"""What benchmarks with choices share: how a question and its choices are written, and how an answer is read."""

import string
from collections.abc import Sequence

from stic_ray.evaluate.answers import read_choice
from stic_ray.records import Prediction

LETTERS = string.ascii_uppercase


def write(question: str, choices: Sequence[str], hint: str = "") -> str:
    """A question with a line a choice, as LLaVA's evaluation has it; a hint stands in front."""
    lines = [*([hint] if hint else []), question]
    return "\n".join([*lines, *(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))])


def is_correct(row: Prediction) -> bool:
    """Whether an answer chooses the gold letter; one that chooses nothing that can be read is wrong."""
    letters = dict(zip(LETTERS, row.choices, strict=False))
    return read_choice(row.text, letters) == row.answers[0]
