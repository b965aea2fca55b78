"""What training minimises; the formulas stand in `losses.py`."""

from dataclasses import dataclass
from typing import Literal

from stic_ray.config.checks import require
from stic_ray.config.views import Blind


@dataclass(frozen=True, kw_only=True)
class DpoLoss:
    """Regularised DPO (STIC): -logsigmoid(margin) - alpha * log p(chosen), the latter reduced by `reduction`.

    `label_smoothing` is the share of pairs that are held to be labelled the wrong way round (conservative DPO).
    """

    beta: float
    alpha: float
    reduction: Literal["sum", "token_mean"]
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        _check_beta(self.beta)
        require(self.alpha >= 0, "alpha", self.alpha, "0 or more")
        _check_smoothing(self.label_smoothing)


@dataclass(frozen=True, kw_only=True)
class LengthNormalisedDpoLoss:
    """DPO whose margin is of the answers' mean log-probabilities a token, so that length alone counts for nothing."""

    beta: float

    def __post_init__(self) -> None:
        _check_beta(self.beta)


@dataclass(frozen=True, kw_only=True)
class RobustDpoLoss:
    """DPO without the bias of labels that are wrong in a share of `label_smoothing` (arXiv 2403.00409)."""

    beta: float
    label_smoothing: float

    def __post_init__(self) -> None:
        _check_beta(self.beta)
        _check_smoothing(self.label_smoothing)


@dataclass(frozen=True, kw_only=True)
class IpoLoss:
    """Identity preference optimisation (arXiv 2310.12036): the margin, of means a token, is drawn to 1 / (2 beta)."""

    beta: float

    def __post_init__(self) -> None:
        _check_beta(self.beta)


@dataclass(frozen=True, kw_only=True)
class HingeLoss:
    """max(0, 1 - margin) (SLiC, arXiv 2305.10425, with DPO's margin)."""

    beta: float

    def __post_init__(self) -> None:
        _check_beta(self.beta)


@dataclass(frozen=True, kw_only=True)
class SimpoLoss:
    """SimPO (arXiv 2405.14734): mean log-probabilities a token against a target margin of `gamma`; no reference."""

    beta: float
    gamma: float

    def __post_init__(self) -> None:
        _check_beta(self.beta)
        require(self.gamma >= 0, "gamma", self.gamma, "0 or more")


@dataclass(frozen=True, kw_only=True)
class OrpoLoss:
    """ORPO (arXiv 2403.07691): cross-entropy of the chosen answers plus `weight` times the odds ratio's loss; no
    reference."""

    weight: float

    def __post_init__(self) -> None:
        require(self.weight > 0, "weight", self.weight, "above 0")


@dataclass(frozen=True, kw_only=True)
class MdpoLoss:
    """mDPO (arXiv 2406.11839): DPO, and that the chosen answer is likelier with its image than with `blind` in its
    place, and likelier than under the reference by `anchor`; all three weigh the same."""

    beta: float
    blind: Blind
    anchor: float = 0.0

    def __post_init__(self) -> None:
        _check_beta(self.beta)


@dataclass(frozen=True, kw_only=True)
class SftLoss:
    """Cross-entropy, the mean over the answer tokens of the global batch; on pairs, over the chosen answers."""


PlainLoss = (
    DpoLoss | LengthNormalisedDpoLoss | RobustDpoLoss | IpoLoss | HingeLoss | SimpoLoss | OrpoLoss | MdpoLoss | SftLoss
)


@dataclass(frozen=True, kw_only=True)
class LossTerm:
    """A loss and how much it weighs in a `WeightedLosses`."""

    weight: float
    loss: PlainLoss

    def __post_init__(self) -> None:
        require(self.weight > 0, "weight", self.weight, "above 0")


@dataclass(frozen=True, kw_only=True)
class WeightedLosses:
    """A weighted sum, of losses of different types: their metrics stand apart under their names."""

    terms: tuple[LossTerm, ...]

    def __post_init__(self) -> None:
        kinds = [type(term.loss).__name__ for term in self.terms]
        distinct = len(set(kinds)) == len(kinds) > 0 and kinds != ["SftLoss"]
        require(distinct, "terms", ", ".join(kinds), "losses of different types, one of them of pairs")


Loss = PlainLoss | WeightedLosses
_WITHOUT_REFERENCE = (SimpoLoss, OrpoLoss, SftLoss)


def plain_losses(loss: Loss) -> tuple[PlainLoss, ...]:
    """The losses that a loss is made of."""
    return tuple(term.loss for term in loss.terms) if isinstance(loss, WeightedLosses) else (loss,)


def needs_reference(loss: Loss) -> bool:
    """Whether a loss asks what a reference model thinks of the answers."""
    return not all(isinstance(each, _WITHOUT_REFERENCE) for each in plain_losses(loss))


def blind_of(loss: Loss) -> Blind | None:
    """What stands for the image where a loss compares answers with and without it."""
    return next((each.blind for each in plain_losses(loss) if isinstance(each, MdpoLoss)), None)


def _check_beta(beta: float) -> None:
    require(beta > 0, "beta", beta, "above 0")


def _check_smoothing(share: float) -> None:
    require(0 <= share < 0.5, "label_smoothing", share, "at least 0 and below 0.5")
