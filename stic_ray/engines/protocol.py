"""The protocol of generation: requests in, one completion for each out, in order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from stic_ray.config import Sampling


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

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion a request, in order; a request that cannot be answered has an `error`."""
        ...
