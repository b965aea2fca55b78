"""What makes answers worse, and how answers are drawn."""

from dataclasses import dataclass

from stic_ray.config.checks import require
from stic_ray.config.data import Instructions


@dataclass(frozen=True, kw_only=True)
class Downsize:
    """Shrink the short side to `short_side_px`, then back: the fine detail is gone."""

    short_side_px: int

    def __post_init__(self) -> None:
        require(self.short_side_px > 0, "short_side_px", self.short_side_px, "a positive number of pixels")


@dataclass(frozen=True, kw_only=True)
class ColorJitter:
    """Brightness factor drawn from 1 +- `brightness`; hue shifted either way by `min_hue` to `hue` of its circle."""

    brightness: float
    hue: float
    min_hue: float = 0.0

    def __post_init__(self) -> None:
        require(0 <= self.brightness <= 1, "brightness", self.brightness, "between 0 and 1")
        require(0 <= self.min_hue <= self.hue <= 0.5, "hue", (self.min_hue, self.hue), "0 <= min_hue <= hue <= 0.5")


Corruption = Downsize | ColorJitter


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How answers are drawn; temperature 0 is greedy."""

    temperature: float
    max_new_tokens: int
    top_p: float = 1.0

    def __post_init__(self) -> None:
        sensible = self.temperature == 0 or 1e-3 <= self.temperature <= 1e3
        require(sensible, "temperature", self.temperature, "0 (greedy), or between 0.001 and 1000")
        require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        require(self.max_new_tokens > 0, "max_new_tokens", self.max_new_tokens, "a positive number")


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Contrastive decoding (VCD, arXiv 2311.16922, as in BPO's reference code): it moves answers away from the prior.

    A token's score is (1 + strength) * its logit - strength * its logit on the image under diffusion noise of `step`,
    among the tokens that are at least `cutoff` times as likely as the likeliest.
    """

    step: int = 900
    strength: float = 1.0
    cutoff: float = 0.2

    def __post_init__(self) -> None:
        require(0 <= self.step < 1000, "step", self.step, "between 0 and 999")
        require(0 < self.strength <= 1000, "strength", self.strength, "above 0 and at most 1000")
        require(0 < self.cutoff <= 1, "cutoff", self.cutoff, "above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class _Weighted:
    """How often a kind of negative is drawn, against the other kinds' weights."""

    weight: float = 1.0

    def __post_init__(self) -> None:
        require(1e-6 <= self.weight <= 1e6, "weight", self.weight, "between 0.000001 and 1000000")


@dataclass(frozen=True, kw_only=True)
class MisleadingPrompt(_Weighted):
    """An answer to the clean image under a misleading prompt (STIC)."""


@dataclass(frozen=True, kw_only=True)
class CorruptedImage(_Weighted):
    """An answer to a corrupted image (STIC), by one of `corruptions` with equal chance."""

    corruptions: tuple[Corruption, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.corruptions), "corruptions", self.corruptions, "at least one corruption")


@dataclass(frozen=True, kw_only=True)
class NoisedImage(_Weighted):
    """An answer to an image under diffusion noise of this step of 1000 (BPO, image weakening)."""

    step: int = 900

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.step < 1000, "step", self.step, "between 0 and 999")


@dataclass(frozen=True, kw_only=True)
class ErrorInjection(_Weighted):
    """The right answer, rewritten with errors by the model's own language model, without the image (BPO).

    Answers of at least `description_words` words are rewritten as descriptions, others as answers to their question.
    """

    sampling: Sampling
    description_words: int = 12

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.description_words >= 0, "description_words", self.description_words, "0 or more")


@dataclass(frozen=True, kw_only=True)
class OtherImage(_Weighted):
    """The answer to another image: the next one by id in its file of the store, so that which one it is depends on
    `execution.rows_per_file`; the pair's `corruption` names it."""


Negative = MisleadingPrompt | CorruptedImage | NoisedImage | ErrorInjection | OtherImage


@dataclass(frozen=True, kw_only=True)
class Negatives:
    """What makes answers worse: `per_positive` dispreferred ones for each preferred one, each of a drawn kind, of
    different kinds as long as there are any."""

    kinds: tuple[Negative, ...]
    per_positive: int = 1

    def __post_init__(self) -> None:
        require(bool(self.kinds), "kinds", self.kinds, "at least one kind of negative")
        require(self.per_positive > 0, "per_positive", self.per_positive, "a positive number")


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """Preference pairs whose preferred answers are the data's own (BPO): of each sample its first question's answer.

    `sampling` is that of the dispreferred answers.
    """

    data: Instructions
    negatives: Negatives
    sampling: Sampling
