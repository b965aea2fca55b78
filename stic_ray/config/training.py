"""How models are trained, and on what of the data."""

from dataclasses import dataclass, field
from typing import Literal

from stic_ray.config.checks import require
from stic_ray.config.data import Model
from stic_ray.config.losses import Loss, blind_of, needs_reference
from stic_ray.config.views import Blind

MAX_LENGTH = 4096  # tokens of a conversation with its image, unless a training says otherwise


@dataclass(frozen=True, kw_only=True)
class Vig:
    """Visual information gain (VIG, arXiv 2602.17186): what stands for "without the image", and who scores.

    `scorer` is the checkpoint after alignment and before instruction tuning; null for the base, `model`, or in a later
    round of stage 1 for the model that the round starts from.
    """

    blind: Blind
    scorer: Model | None = None


@dataclass(frozen=True, kw_only=True)
class AllTokens:
    """Every token of a selected answer is trained."""


@dataclass(frozen=True, kw_only=True)
class ThresholdTokens:
    """Tokens whose gain reaches `min_gain` (nats), null for the threshold of their sample's stratum, which is the
    paper's rule (VIG, section 3.3)."""

    min_gain: float | None = None


@dataclass(frozen=True, kw_only=True)
class PhraseTokens:
    """Words whose gain reaches `min_gain` (as in `ThresholdTokens`), and the structure around them.

    A word is what stands between spaces and separators (tokens without a letter or a digit); its gain is its tokens'
    largest. Ends of answers are always trained, a separator where the mean gain of the words of the phrase that it
    opens reaches `min_gain`, too, or where none follows: whether to go on is learnt from what is there.
    """

    min_gain: float | None = None


TokenRule = AllTokens | ThresholdTokens | PhraseTokens


@dataclass(frozen=True, kw_only=True)
class VigSelection:
    """The top `keep_share` of the samples with an image by their gain (VIG, section 3.2), and which of their tokens.

    Each stratum, samples that are alike in all of `strata`, has its own threshold; those of fewer than `min_stratum`
    samples are taken together. Samples without an image stay, and all their tokens.
    """

    keep_share: float
    tokens: TokenRule
    strata: tuple[Literal["category", "first_word"], ...] = ()
    min_stratum: int = 20

    def __post_init__(self) -> None:
        require(0 < self.keep_share <= 1, "keep_share", self.keep_share, "above 0 and at most 1")
        require(self.min_stratum > 0, "min_stratum", self.min_stratum, "a positive number")


@dataclass(frozen=True, kw_only=True)
class RandomSelection:
    """The control of a `VigSelection`: samples drawn, each as a whole, until they have as many trained tokens as that
    selection has. Samples without an image stay, as there."""

    like: VigSelection


@dataclass(frozen=True, kw_only=True)
class GainedPairs:
    """Pairs whose chosen answer is among the top `keep_share` by its gain, of each source of pairs for itself."""

    keep_share: float

    def __post_init__(self) -> None:
        require(0 < self.keep_share <= 1, "keep_share", self.keep_share, "above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class WeightedPairs:
    """Each pair weighs sigmoid((gain of chosen - gain of rejected) / temperature), divided by the mean of all.

    Of each source of pairs for itself.
    """

    temperature: float

    def __post_init__(self) -> None:
        require(self.temperature > 0, "temperature", self.temperature, "above 0")


@dataclass(frozen=True, kw_only=True)
class MaskedPairs:
    """Of both answers only the tokens that `PhraseTokens` of this `min_gain` keeps, in the reference too."""

    min_gain: float


SampleSelection = VigSelection | RandomSelection
PairSelection = GainedPairs | WeightedPairs | MaskedPairs
Selection = VigSelection | RandomSelection | GainedPairs | WeightedPairs | MaskedPairs


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters on the linear layers of the language model's blocks; fields as peft names them.

    `quantize` keeps the weights that the adapters stand on in 4 bits (bitsandbytes, NF4; GPUs only).
    """

    rank: int
    lora_alpha: int
    lora_dropout: float = 0.0
    use_rslora: bool = False
    use_dora: bool = False
    quantize: bool = False

    def __post_init__(self) -> None:
        for name in ("rank", "lora_alpha"):
            require(getattr(self, name) > 0, name, getattr(self, name), "a positive number")
        require(0 <= self.lora_dropout < 1, "lora_dropout", self.lora_dropout, "at least 0 and below 1")


@dataclass(frozen=True, kw_only=True)
class FullFinetune:
    """Every weight of the language model and its embeddings; the vision tower stays frozen.

    `frozen` are names, or dotted parts of them, of weights that stay frozen too, like `embed_tokens` or `layers.0`.
    """

    frozen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(all(self.frozen), "frozen", "", "names that are not empty")


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """After the warm-up the rate follows half a cosine down to 0 after the last step."""


@dataclass(frozen=True, kw_only=True)
class Linear:
    """After the warm-up the rate falls by the same amount a step, to 0 after the last."""


Schedule = Cosine | Linear


@dataclass(frozen=True, kw_only=True)
class ScoredReference:
    """The reference's log-probabilities come from the scores of the pairs by the very model that training starts from:
    no reference model is held, and no forward is made for it."""


@dataclass(frozen=True, kw_only=True)
class AdapterOff:
    """The reference is the model with its adapters switched off, asked in every step: nothing but they may train."""


Reference = ScoredReference | AdapterOff


@dataclass(frozen=True, kw_only=True)
class Validation:
    """A `share` of the images is held out with all that is on them: its loss is measured every `every` steps and at the
    end, and the model is the one of the least loss."""

    share: float
    every: int

    def __post_init__(self) -> None:
        require(0 < self.share < 1, "share", self.share, "above 0 and below 1")
        require(self.every > 0, "every", self.every, "a positive number of steps")


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training stage. `projector_lr` None freezes the projector; a schedule begins with a linear warm-up.

    `steps` is the number of optimiser steps, null for as many as `epochs` take. `max_skipped` steps whose loss or
    gradient is not finite are left out; one more ends the training.
    Without `validation` all items are trained on, and the model is the one after the last step.
    `selection` says which of its samples or pairs, and which of their tokens, are trained on; null for all.
    """

    loss: Loss
    weights: Lora | FullFinetune
    lr: float
    epochs: int
    global_batch: int
    projector_lr: float | None = None
    schedule: Schedule = field(default_factory=Cosine)
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    adam_beta2: float = 0.999
    max_grad_norm: float = 1.0
    max_length: int = MAX_LENGTH
    steps: int | None = None
    max_skipped: int = 0
    validation: Validation | None = None
    reference: Reference = field(default_factory=ScoredReference)
    selection: Selection | None = None

    def __post_init__(self) -> None:
        for name in ("lr", "epochs", "global_batch", "max_grad_norm", "max_length"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        require(
            self.projector_lr is None or self.projector_lr > 0, "projector_lr", self.projector_lr, "above 0, or null"
        )
        require(self.steps is None or self.steps > 0, "steps", self.steps, "above 0, or null")
        require(self.max_skipped >= 0, "max_skipped", self.max_skipped, "0 or more")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        require(0 <= self.adam_beta2 < 1, "adam_beta2", self.adam_beta2, "at least 0 and below 1")
        require(0 <= self.warmup_ratio < 1, "warmup_ratio", self.warmup_ratio, "at least 0 and below 1")
        self._check_reference()

    def _check_reference(self) -> None:
        """An adapter switched off is the reference only if nothing outside it trains."""
        off = isinstance(self.reference, AdapterOff)
        wanted = "ScoredReference: without adapters there is nothing to switch off"
        require(not off or isinstance(self.weights, Lora), "reference.type", "AdapterOff", wanted)
        wanted = "ScoredReference, or projector_lr null: a projector that trains stays changed when adapters are off"
        require(not off or self.projector_lr is None, "reference.type", "AdapterOff", wanted)
        quantized = isinstance(self.weights, Lora) and self.weights.quantize
        compares = blind_of(self.loss) is not None
        wanted = "false: the loss needs scores, and those are by weights that are not quantized"
        require(not quantized or not compares, "weights.quantize", True, wanted)
        wanted = "ScoredReference: only scores know the chosen answers without their image"
        require(not off or not compares, "reference.type", "AdapterOff", wanted)
        wanted = "AdapterOff: the scores are by weights that are not quantized"
        fits = not quantized or off or not needs_reference(self.loss)
        require(fits, "reference.type", type(self.reference).__name__, wanted)
