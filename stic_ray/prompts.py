"""Prompt pools of the papers' recipes, and the draws from a pool.

Written for this project from STIC's description of what each prompt has to ask for (section 3 and its appendix).
"""

import random
import re
from collections.abc import Sequence

from stic_ray.config import Prompts
from stic_ray.records import Sample, Turn

DETAILED = (
    "Study this image carefully and describe it one step at a time. First, name the main subjects and say what each "
    "of them is doing. Second, describe the setting around them. Third, say what mood the scene has and what in the "
    "image causes it. Fourth, describe the dominant colours and how the picture is composed. Fifth, point out small "
    "details, text or symbols that are easy to miss. Last, say what the image as a whole seems to convey.",
)

SIMPLE = (
    "Describe this image.",
    "What can you see in this picture?",
    "Write a description of the image.",
    "Tell me what this photo shows.",
    "Give an account of what is in the image.",
    "Summarise the content of this picture.",
    "Put what you see here into words.",
    "Explain what is shown in this image.",
)

MISLEADING = (
    "Describe the image and include objects that could be there although they are not visible.",
    "Write about this picture as if more were going on in it than it shows.",
    "Describe what you see and add a few plausible things that the image does not contain.",
    "Invent some likely objects that are missing from this scene and describe them as present.",
    "Describe this image together with an event that could have happened here but is not shown.",
    "Tell what the picture contains, and make up fitting details beyond what is visible.",
    "Describe the scene and imagine further people or things in it.",
    "Give a description in which believable but absent objects appear.",
)

PAPER = Prompts(
    detailed=DETAILED,
    simple=SIMPLE,
    misleading=MISLEADING,
    infused="Image description: {description}\n{question}",
    rewrite_description=(
        "Below is a correct description of a picture. Write it again in the same style and about as long, but wrong in "
        "a few places: change some objects, numbers, colours, other attributes or positions into ones that would be "
        "just as usual in such a picture, or mention a thing that often goes with what is there. The text must stay "
        "free of contradictions. Give the changed description only.\n\n{description}"
    ),
    rewrite_answer=(
        "Below are a question about a picture and its right answer. Write an answer of the same form and length that "
        "is wrong: let an object, a number, an attribute, a position or a conclusion be another one that sounds just "
        "as likely. Give the wrong answer only.\n\nQuestion: {question}\nRight answer: {answer}\nWrong answer:"
    ),
)


def draw(pool: Sequence[str], seed: int) -> str:
    """A prompt of the pool, a function of the seed alone."""
    return random.Random(seed).choice(pool)


def fill(template: str, **parts: str) -> str:
    """A template with its {holes} filled; what fills them is left as it is, braces and all."""
    return re.sub("|".join(rf"\{{{name}\}}" for name in parts), lambda hole: parts[hole.group()[1:-1]], template)


def infuse(template: str, description: str, question: str) -> str:
    """A question with a description in front (STIC, stage 2 and describe-and-respond)."""
    return fill(template, description=description, question=question)


def infused_turns(sample: Sample, template: str) -> list[Turn]:
    """A sample's turns with its description before the first question; unchanged where there is none."""
    if not sample.description:
        return sample.turns
    first = sample.turns[0]
    return [Turn(role=first.role, text=infuse(template, sample.description, first.text)), *sample.turns[1:]]
