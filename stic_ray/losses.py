"""Preference and fine-tuning losses: tensors in, sums and metrics out; no state.

Legend: P = pairs of the micro-batch, logp_P = log-probability of an answer, summed over its tokens (nats).
Losses are returned as *sums to be divided by global counts*, so that neither micro-batch nor number of workers
changes the gradient: the caller divides the pair part by the global batch's pairs and the token part by its tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from stic_ray.config import DpoLoss


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What the global batch holds: pairs (or samples), and trained tokens of the chosen answers."""

    num_items: int
    num_tokens: int


@dataclass(frozen=True, kw_only=True)
class PairLogp:
    """Log-probabilities of a micro-batch's answers: the policy's, and the reference's (chosen, rejected)."""

    chosen_P: Tensor
    rejected_P: Tensor
    reference_P2: Tensor


def dpo(loss: DpoLoss, logp: PairLogp, weight_P: Tensor, counts: Counts) -> tuple[Tensor, dict[str, Tensor]]:
    """Regularised DPO (STIC, equation 1 with its regulariser; DPO: Rafailov et al. 2023, equation 7).

    margin = beta * [(log p(y_w) - log ref(y_w)) - (log p(y_l) - log ref(y_l))]
    loss   = mean_P(-weight * logsigmoid(margin)) - alpha * R, with R = mean_P(log p(y_w)) for reduction "sum" and
    R = sum_P(log p(y_w)) / (chosen tokens of the global batch) for "token_mean". Lower is better.

    Returns:
        This micro-batch's share of the loss of the global batch, and sums over P of its metrics.
    """
    rewards_P2 = loss.beta * (torch.stack([logp.chosen_P, logp.rejected_P], dim=1) - logp.reference_P2)
    margin_P = rewards_P2[:, 0] - rewards_P2[:, 1]
    preference = -(weight_P * logsigmoid(margin_P)).sum() / counts.num_items
    denominator = counts.num_items if loss.reduction == "sum" else counts.num_tokens
    regulariser = -logp.chosen_P.sum() / denominator
    total = preference + loss.alpha * regulariser
    metrics = {
        "preference": preference.detach(),
        "regulariser": regulariser.detach(),
        "margin": margin_P.detach().sum() / counts.num_items,
        "accuracy": (margin_P.detach() > 0).float().sum() / counts.num_items,
        "chosen_logp": logp.chosen_P.detach().sum() / counts.num_items,
        "rejected_logp": logp.rejected_P.detach().sum() / counts.num_items,
    }
    return total, metrics


def sft(logp_P: Tensor, counts: Counts) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy: -sum of the answers' log-probabilities / trained tokens of the global batch.

    Args:
        logp_P: shape [P], each an answer's summed log-probability.
    """
    total = -logp_P.sum() / counts.num_tokens
    return total, {"cross_entropy": total.detach()}
