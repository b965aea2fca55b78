"""Turns as the formats write them, `role` with `content` or `from` with `value`, and the place of the image in them."""

from collections.abc import Mapping, Sequence
from typing import Any

from stic_ray.exchange.items import Picture
from stic_ray.origins import is_unicode
from stic_ray.records import Turn

MARKER = "<image>"
_FIRST, _LAST = f"{MARKER}\n", f"\n{MARKER}"
_ROLES = {"human": "user", "gpt": "assistant"}
_SHAREGPT = {role: name for name, role in _ROLES.items()}


def read_text(value: Any, what: str) -> str:
    """A text of a record.

    Raises:
        ValueError: it is none, or UTF-8 cannot hold it; `what` says which.
    """
    if not isinstance(value, str):
        raise ValueError(f"{what} is {'missing' if value is None else 'no text'}")
    if not is_unicode(value):
        raise ValueError(f"{what} holds half of a character (a lone surrogate)")
    return value


def read_messages(value: Any, what: str) -> list[Turn]:
    """Turns of `role` and `content`; a content is a text, or parts of which images are told by the marker."""
    turns = []
    for entry in _entries(value, what):
        role = entry.get("role")
        if role not in ("user", "assistant"):
            raise ValueError(f"{what} holds a turn whose role is not user or assistant")
        turns.append(Turn(role=role, text=_content(entry.get("content"), what)))
    return turns


def read_sharegpt(value: Any, what: str) -> list[Turn]:
    """Turns of `from` (human or gpt) and `value`."""
    turns = []
    for entry in _entries(value, what):
        name = entry.get("from")
        if not isinstance(name, str) or name not in _ROLES:
            raise ValueError(f"{what} holds a turn that is not from human or gpt")
        turns.append(Turn(role=_ROLES[name], text=read_text(entry.get("value"), f"the value of a turn of {what}")))
    return turns


def _entries(value: Any, what: str) -> Sequence[Mapping[str, Any]]:
    entries = [value] if isinstance(value, Mapping) else value
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, Mapping) for entry in entries):
        raise ValueError(f"{what} is {'missing' if value is None else 'no list of turns'}")
    return entries


def _content(content: Any, what: str) -> str:
    if not isinstance(content, list):
        return read_text(content, f"the content of a turn of {what}")
    texts, images = [], []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "image":
            images.append(MARKER)
        elif kind == "text":
            texts.append(read_text(part.get("text"), f"a text of {what}"))
        else:
            raise ValueError(f"{what} holds a part that is neither image nor text")
    return "\n".join([*images, *texts])


def unmarked(turns: Sequence[Turn], image: Picture | None) -> list[Turn]:
    """Turns without the marker of their image, which stands before the first text anyway.

    Raises:
        ValueError: there is more than one, or one that is not in the first turn or has no image.
    """
    for number, turn in enumerate(turns):
        count = turn.text.count(MARKER)
        if count and (number > 0 or count > 1 or image is None):
            raise ValueError(f"{MARKER} must stand once, in the first turn, of a record that has an image")
    return [Turn(role=turns[0].role, text=_without_marker(turns[0].text)), *turns[1:]]


def _without_marker(text: str) -> str:
    if text.startswith(_FIRST):
        return text.removeprefix(_FIRST)
    if text.endswith(_LAST):
        return text.removesuffix(_LAST)
    if MARKER not in text:
        return text
    before, _, after = text.partition(MARKER)
    return f"{before.rstrip()} {after.lstrip()}".strip()


def check_turns(turns: Sequence[Turn]) -> None:
    """Raises ValueError unless questions and answers alternate and an answer ends."""
    if [turn.role for turn in turns] != ["user", "assistant"] * (len(turns) // 2):
        raise ValueError("turns must alternate question and answer and end with an answer")


def read_pair_turns(turns: Sequence[Turn], image: Picture | None, what: str) -> tuple[str, str]:
    """The one question and the one answer of a conversation of a pair."""
    check_turns(turns)
    if len(turns) != 2:
        raise ValueError(f"{what} has {len(turns)} turns: a pair has one question and an answer")
    question, answer = unmarked(turns, image)
    return question.text, answer.text


def only(turns: Sequence[Turn], role: str, what: str) -> str:
    """The text of what must be one turn, of that role."""
    if len(turns) != 1 or turns[0].role != role:
        raise ValueError(f"{what} has {len(turns)} turns: a pair has one question and an answer")
    return turns[0].text


def refuse_markers(texts: Sequence[str]) -> None:
    """Raises ValueError where a text that is to be written holds the marker: readers would look for an image there."""
    if any(MARKER in text for text in texts):
        raise ValueError(f"a text holds {MARKER}, which readers take for an image")


def write_messages(turns: Sequence[Turn], image: Picture | None) -> list[dict[str, str]]:
    """Turns of `role` and a text as `content`, the marker before the first."""
    return [{"role": turn.role, "content": text} for turn, text in _marked(turns, image)]


def write_sharegpt(turns: Sequence[Turn], image: Picture | None) -> list[dict[str, str]]:
    """Turns of `from` and `value`, the marker before the first."""
    return [{"from": _SHAREGPT[turn.role], "value": text} for turn, text in _marked(turns, image)]


def _marked(turns: Sequence[Turn], image: Picture | None) -> list[tuple[Turn, str]]:
    refuse_markers([turn.text for turn in turns])
    first = _FIRST if image is not None else ""
    return [(turn, turn.text if number else first + turn.text) for number, turn in enumerate(turns)]


def question(prompt: str) -> Turn:
    """A user's turn."""
    return Turn(role="user", text=prompt)


def answer(text: str) -> Turn:
    """An assistant's turn."""
    return Turn(role="assistant", text=text)
