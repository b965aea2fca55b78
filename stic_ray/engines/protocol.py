"""The protocols of generation and scoring: requests in, one answer for each out, in order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from stic_ray.config import Sampling
from stic_ray.records import Turn


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt on one image (None: text only). `seed` alone decides what is drawn, whatever the batch."""

    prompt: str
    image: Image.Image | None
    sampling: Sampling
    seed: int


@dataclass(frozen=True, kw_only=True)
class Completion:
    """An answer without its end token. `finish_reason` is "stop" (end token), "length", or "" with an `error`."""

    text: str
    num_prompt_tokens: int
    num_tokens: int
    finish_reason: str
    error: str = ""


class Engine(Protocol):
    """Anything that answers requests."""

    def figures(self) -> dict[str, float]:
        """Sums since the start."""
        ...

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion a request, in order; a request that cannot be answered has an `error`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A conversation with its answers, to be scored or counted."""

    turns: Sequence[Turn]
    image: Image.Image | None


@dataclass(frozen=True, kw_only=True)
class Score:
    """Log-probability (nats, summed) of a conversation's answers with their end tokens, and token counts."""

    logp: float
    num_answer_tokens: int
    num_tokens: int
    error: str = ""


class Scorer(Protocol):
    """Anything that scores given answers."""

    def figures(self) -> dict[str, float]:
        """Sums since the start: `scored_tokens`."""
        ...

    def score(self, conversations: Sequence[Conversation], max_length: int) -> list[Score]:
        """One score a conversation, in order, with an `error` where there is none, as above `max_length` tokens."""
        ...


class TokenCounter(Protocol):
    """Anything that knows how long a conversation is to a model; it needs no weights."""

    def count_tokens(self, conversation: Conversation) -> int:
        """How many tokens a conversation has when it is trained on, image tokens included.

        Raises:
            ValueError: it cannot be trained on.
        """
        ...
