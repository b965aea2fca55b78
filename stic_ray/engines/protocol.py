"""The protocols of generation and scoring: requests in, one answer for each out, in order."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from PIL import Image

from stic_ray.config import Sampling
from stic_ray.noise import Noise
from stic_ray.records import Turn, make_seed


@dataclass(frozen=True, kw_only=True)
class Contrasted:
    """Contrastive decoding against the image under this noise: see `config.Contrast`."""

    noise: Noise
    strength: float
    cutoff: float


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt on one image (None: text only). `seed` alone decides what is drawn, whatever the batch.

    `adapter` is the URI of a directory with a LoRA adapter of peft for the model; "" asks the model as it is.
    `image_hash` is that of the image's pixels (`images.hash_pixels`), "" where nobody has taken it yet. `noise` is
    added to what the image processor makes of the image. `contrast` needs an image.
    """

    prompt: str
    image: Image.Image | None
    sampling: Sampling
    seed: int
    adapter: str = ""
    image_hash: str = ""
    noise: Noise | None = None
    contrast: Contrasted | None = None


def draws(request: Request, number: int) -> list[Request]:
    """Requests for so many independent answers to one: each has a seed of its own, that no batch can change."""
    return [replace(request, seed=make_seed(request.seed, index)) for index in range(number)]


@dataclass(frozen=True, kw_only=True)
class Completion:
    """An answer without its end token. `finish_reason` is "stop" (end token), "length", or "" with an `error`.

    `num_cached_tokens` of the prompt came from the engine's prefix cache.
    """

    text: str
    num_prompt_tokens: int
    num_tokens: int
    finish_reason: str
    error: str = ""
    num_cached_tokens: int = 0


def refused(reason: str, num_prompt_tokens: int = 0) -> Completion:
    """The completion of a request that an engine does not answer."""
    return Completion(text="", num_prompt_tokens=num_prompt_tokens, num_tokens=0, finish_reason="", error=reason)


class Engine(Protocol):
    """Anything that answers requests, of several threads at once."""

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion a request, in order; a request that cannot be answered has an `error`.

        Raises:
            ValueError: an adapter is not there or does not fit the model.
        """
        ...

    def figures(self) -> dict[str, float]:
        """Counts since the start: `requests`, `refused`, `prompt_tokens`, `cached_tokens`, `new_tokens`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A conversation with its answers, to be scored or counted; `noise` is as in `Request`."""

    turns: Sequence[Turn]
    image: Image.Image | None
    noise: Noise | None = None


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Log-probabilities (nats) of the tokens of a conversation's answers, end tokens included.

    The lists are of the answers' tokens in order: ids, the number of the answer that each is of, the characters of that
    answer (stripped) that it stands for, log-probabilities. `num_tokens` is the whole conversation's.
    """

    token_ids: list[int]
    answers: list[int]
    starts: list[int]
    stops: list[int]
    logp: list[float]
    num_tokens: int
    error: str = ""


class Scorer(Protocol):
    """Anything that scores given answers, or only says what their tokens are: `logp` is empty then."""

    def figures(self) -> dict[str, float]:
        """Sums since the start: `scored_tokens`, of one that scores."""
        ...

    def score(self, conversations: Sequence[Conversation], max_length: int) -> list[Scored]:
        """One score a conversation, in order, with an `error` where there is none, as above `max_length` tokens."""
        ...


class Embedder(Protocol):
    """Anything that makes a vector of an image."""

    def figures(self) -> dict[str, float]:
        """Sums since the start: `embedded_images`."""
        ...

    def embed(self, images: Sequence[Image.Image]) -> list[list[float]]:
        """One vector an image, in order, all of one length."""
        ...
