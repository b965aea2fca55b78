"""Preference and fine-tuning losses: tensors in, a loss and metrics out; no state.

Legend: P = pairs of a row, 2 = chosen, rejected. log p of an answer is summed over its tokens (nats), its mean is that
divided by their number.

Every loss is this row's *share* of the global batch's: sums that are divided by global counts, so that neither the rows
nor the number of workers change the gradient. Lower is better.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from stic_ray.config import (
    DpoLoss,
    HingeLoss,
    IpoLoss,
    LengthNormalisedDpoLoss,
    Loss,
    MdpoLoss,
    OrpoLoss,
    RobustDpoLoss,
    SftLoss,
    SimpoLoss,
    WeightedLosses,
)

Metrics = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What the global batch holds: pairs (or samples), and trained tokens of the chosen answers."""

    num_items: int
    num_tokens: int


@dataclass(frozen=True, kw_only=True)
class PairLogp:
    """Log-probabilities of pairs, [P, 2] each: the policy's, the reference's (0 where there is none), how many tokens.

    `hidden` is of the chosen answer with something else in the image's place, the policy's and the reference's; only
    `MdpoLoss` asks for it. `weight` [P] multiplies a pair's loss.
    """

    policy: Tensor
    reference: Tensor
    num_tokens: Tensor
    weight: Tensor
    hidden: Tensor | None = None


def preference(loss: Loss, logp: PairLogp, counts: Counts) -> tuple[Tensor, Metrics]:
    """The loss of pairs, and metrics that sum up to the global batch's: its parts, and the margin that it widens, of
    several losses the first one's."""
    if isinstance(loss, WeightedLosses):
        total, metrics = torch.zeros((), device=logp.policy.device), dict[str, Tensor]()
        for term in loss.terms:
            part, found = preference(term.loss, logp, counts)
            total = total + term.weight * part
            metrics = {name: value for name, value in found.items() if name in _OF_MARGINS} | metrics
            metrics |= {f"{type(term.loss).__name__}/{name}": value for name, value in found.items()}
            metrics[type(term.loss).__name__] = part.detach()
        return total, metrics
    match loss:
        case SftLoss():
            return sft(logp.policy[:, 0], counts)
        case DpoLoss():
            return _dpo(loss, logp, counts)
        case LengthNormalisedDpoLoss():
            margin_P = _margin(loss.beta, logp, mean=True)
            return _of_pairs(-logsigmoid(margin_P), margin_P, logp, counts)
        case RobustDpoLoss():
            margin_P = _margin(loss.beta, logp)
            return _of_pairs(_robust(loss, margin_P), margin_P, logp, counts)
        case IpoLoss():
            margin_P = _margin(1.0, logp, mean=True)
            return _of_pairs((margin_P - 1 / (2 * loss.beta)).square(), margin_P, logp, counts)
        case HingeLoss():
            margin_P = _margin(loss.beta, logp)
            return _of_pairs(relu(1 - margin_P), margin_P, logp, counts)
        case SimpoLoss():
            return _simpo(loss, logp, counts)
        case OrpoLoss():
            return _orpo(loss, logp, counts)
        case MdpoLoss():
            return _mdpo(loss, logp, counts)


def sft(logp_P: Tensor, counts: Counts) -> tuple[Tensor, Metrics]:
    """Cross-entropy: -sum of the answers' log-probabilities [P] / trained tokens of the global batch."""
    total = -logp_P.sum() / counts.num_tokens
    return total, {"cross_entropy": total.detach()}


def _margin(beta: float, logp: PairLogp, *, mean: bool = False) -> Tensor:
    """margin = beta * [(log p(y_w) - log ref(y_w)) - (log p(y_l) - log ref(y_l))] (DPO, arXiv 2305.18290, equation 7),
    of sums, or of means a token."""
    gains_P2 = logp.policy - logp.reference
    if mean:
        gains_P2 = gains_P2 / logp.num_tokens
    return beta * (gains_P2[:, 0] - gains_P2[:, 1])


_OF_MARGINS = ("margin", "accuracy", "chosen_logp", "rejected_logp")


def _margins(margin_P: Tensor, logp: PairLogp, counts: Counts) -> Metrics:
    margin_P = margin_P.detach()
    chosen, rejected = logp.policy.detach().sum(dim=0) / counts.num_items
    accuracy = (margin_P > 0).float().sum() / counts.num_items
    return {
        "margin": margin_P.sum() / counts.num_items,
        "accuracy": accuracy,
        "chosen_logp": chosen,
        "rejected_logp": rejected,
    }


def _of_pairs(loss_P: Tensor, margin_P: Tensor, logp: PairLogp, counts: Counts) -> tuple[Tensor, Metrics]:
    """The mean of the pairs' losses, by weight; `margin_P` is what the loss widens."""
    total = (logp.weight * loss_P).sum() / counts.num_items
    return total, {"preference": total.detach(), **_margins(margin_P, logp, counts)}


def _dpo(loss: DpoLoss, logp: PairLogp, counts: Counts) -> tuple[Tensor, Metrics]:
    """Regularised DPO (STIC, equation 1): mean_P(-weight * logsigmoid(margin)) - alpha * R.

    R = mean_P(log p(y_w)) for reduction "sum" and sum_P(log p(y_w)) / (chosen tokens of the global batch) for
    "token_mean". With label smoothing e: -(1 - e) * logsigmoid(margin) - e * logsigmoid(-margin).
    """
    margin_P = _margin(loss.beta, logp)
    wrong = loss.label_smoothing
    loss_P = -(1 - wrong) * logsigmoid(margin_P) - (wrong * logsigmoid(-margin_P) if wrong else 0)
    total, metrics = _of_pairs(loss_P, margin_P, logp, counts)
    denominator = counts.num_items if loss.reduction == "sum" else counts.num_tokens
    regulariser = -logp.policy[:, 0].sum() / denominator
    return total + loss.alpha * regulariser, {**metrics, "regulariser": regulariser.detach()}


def _robust(loss: RobustDpoLoss, margin_P: Tensor) -> Tensor:
    """-[(1 - e) * logsigmoid(margin) - e * logsigmoid(-margin)] / (1 - 2e) (arXiv 2403.00409, equation 9)."""
    wrong = loss.label_smoothing
    return -((1 - wrong) * logsigmoid(margin_P) - wrong * logsigmoid(-margin_P)) / (1 - 2 * wrong)


def _simpo(loss: SimpoLoss, logp: PairLogp, counts: Counts) -> tuple[Tensor, Metrics]:
    """-logsigmoid(beta * [mean log p(y_w) - mean log p(y_l)] - gamma) (arXiv 2405.14734, equation 6)."""
    means_P2 = logp.policy / logp.num_tokens
    margin_P = loss.beta * (means_P2[:, 0] - means_P2[:, 1])
    return _of_pairs(-logsigmoid(margin_P - loss.gamma), margin_P, logp, counts)


def _orpo(loss: OrpoLoss, logp: PairLogp, counts: Counts) -> tuple[Tensor, Metrics]:
    """Cross-entropy of y_w - weight * mean_P(logsigmoid(log odds(y_w) - log odds(y_l))) (arXiv 2403.07691, equation 6).

    odds(y) = p / (1 - p) with p = exp(mean log p(y)).
    """
    means_P2 = logp.policy / logp.num_tokens
    odds_P2 = means_P2 - torch.log1p(-means_P2.clamp(max=-1e-6).exp())
    margin_P = odds_P2[:, 0] - odds_P2[:, 1]
    total, metrics = _of_pairs(-logsigmoid(margin_P), margin_P, logp, counts)
    supervised, more = sft(logp.policy[:, 0], counts)
    return supervised + loss.weight * total, {**metrics, **more}


def _mdpo(loss: MdpoLoss, logp: PairLogp, counts: Counts) -> tuple[Tensor, Metrics]:
    """The sum of three means (arXiv 2406.11839, equations 2 to 5): DPO's, -logsigmoid(beta * [(log p(y_w | image) -
    log ref(y_w | image)) - (log p(y_w | hidden) - log ref(y_w | hidden))]), and -logsigmoid(beta * [log p(y_w | image)
    - log ref(y_w | image)] - anchor)."""
    assert logp.hidden is not None  # the loop asks for it
    gain_P = (logp.policy - logp.reference)[:, 0]
    hidden_P = logp.hidden[:, 0] - logp.hidden[:, 1]
    margin_P = _margin(loss.beta, logp)
    parts = {
        "preference": -logsigmoid(margin_P),
        "conditional": -logsigmoid(loss.beta * (gain_P - hidden_P)),
        "anchored": -logsigmoid(loss.beta * gain_P - loss.anchor),
    }
    totals = {name: (logp.weight * loss_P).sum() / counts.num_items for name, loss_P in parts.items()}
    metrics = {name: total.detach() for name, total in totals.items()}
    return sum(totals.values(), torch.zeros(())), {**_margins(margin_P, logp, counts), **metrics}
