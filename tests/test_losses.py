"""Losses against figures worked out by hand and against the formula written again, slowly."""

import math

import pytest
import torch
from torch import Tensor

from stic_ray.config import DpoLoss
from stic_ray.losses import Counts, PairLogp, dpo, sft


def _tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def _logp(chosen: Tensor, rejected: Tensor, reference: Tensor) -> PairLogp:
    return PairLogp(chosen_P=chosen, rejected_P=rejected, reference_P2=reference)


_ONES = torch.ones(2)
_CHOSEN = (-3.0, -5.0)
_REJECTED = (-4.0, -2.0)
_REFERENCE = torch.tensor([[-3.5, -3.0], [-6.0, -2.5]], dtype=torch.float64)
# beta 0.5: margins 0.5 * [(0.5) - (-1.0)] = 0.75 and 0.5 * [(1.0) - (0.5)] = 0.25
_PREFERENCE = (math.log1p(math.exp(-0.75)) + math.log1p(math.exp(-0.25))) / 2


@pytest.mark.parametrize(("reduction", "regulariser"), [("sum", 8.0 / 2), ("token_mean", 8.0 / 5)])
def test_dpo_equals_the_figure_worked_out_by_hand(reduction: str, regulariser: float) -> None:
    loss = DpoLoss(beta=0.5, alpha=0.25, reduction="sum" if reduction == "sum" else "token_mean")
    counts = Counts(num_items=2, num_tokens=5)
    total, metrics = dpo(loss, _logp(_tensor(*_CHOSEN), _tensor(*_REJECTED), _REFERENCE), _ONES, counts)
    assert total.item() == pytest.approx(_PREFERENCE + 0.25 * regulariser, abs=1e-12)
    found = {name: value.item() for name, value in metrics.items()}
    assert found == pytest.approx(
        {
            "preference": _PREFERENCE,
            "regulariser": regulariser,
            "margin": 0.5,
            "accuracy": 1.0,
            "chosen_logp": -4.0,
            "rejected_logp": -3.0,
        },
        abs=1e-12,
    )


def test_dpo_accuracy_counts_positive_margins_alone() -> None:
    loss = DpoLoss(beta=1.0, alpha=0.0, reduction="sum")
    reference = torch.zeros(4, 2, dtype=torch.float64)
    counts = Counts(num_items=4, num_tokens=1)
    _, metrics = dpo(loss, _logp(_tensor(-1, -1, -2, -3), _tensor(-2, -1, -1, -9), reference), torch.ones(4), counts)
    assert metrics["accuracy"].item() == 0.5


def _slow_dpo(
    loss: DpoLoss, chosen: list[float], rejected: list[float], reference: list[list[float]], num_tokens: int
) -> float:
    """The formula as the paper writes it, in Python's own floats."""
    total = 0.0
    for p_w, p_l, (ref_w, ref_l) in zip(chosen, rejected, reference, strict=True):
        ratio = (math.exp(p_w) / math.exp(ref_w)) / (math.exp(p_l) / math.exp(ref_l))
        sigmoid = 1 / (1 + ratio**-loss.beta)
        total += -math.log(sigmoid) / len(chosen)
    divisor = len(chosen) if loss.reduction == "sum" else num_tokens
    return total - loss.alpha * sum(chosen) / divisor


@pytest.mark.parametrize(
    "loss", [DpoLoss(beta=0.1, alpha=1 / 1024, reduction="sum"), DpoLoss(beta=2.0, alpha=3.0, reduction="token_mean")]
)
def test_dpo_value_and_gradient_equal_the_slow_formula(loss: DpoLoss) -> None:
    """Tolerance 1e-10 on the value, 1e-6 on the gradient (central differences, step 1e-5)."""
    generator = torch.Generator().manual_seed(0)
    chosen, rejected = (torch.randn(5, generator=generator, dtype=torch.float64) * 4 - 8 for _ in range(2))
    reference = torch.randn(5, 2, generator=generator, dtype=torch.float64) * 4 - 8
    inputs = [chosen.clone().requires_grad_(), rejected.clone().requires_grad_()]
    total, _ = dpo(loss, _logp(inputs[0], inputs[1], reference), torch.ones(5), Counts(num_items=5, num_tokens=37))
    total.backward()
    lists = [chosen.tolist(), rejected.tolist()]
    assert total.item() == pytest.approx(_slow_dpo(loss, lists[0], lists[1], reference.tolist(), 37), abs=1e-10)
    for which, tensor in enumerate(inputs):
        assert tensor.grad is not None
        for index in range(5):
            slopes = []
            for step in (1e-5, -1e-5):
                moved = [list(values) for values in lists]
                moved[which][index] += step
                slopes.append(_slow_dpo(loss, moved[0], moved[1], reference.tolist(), 37))
            assert tensor.grad[index].item() == pytest.approx((slopes[0] - slopes[1]) / 2e-5, abs=1e-6)


@pytest.mark.parametrize("reduction", ["sum", "token_mean"])
def test_dpo_parts_of_a_batch_add_up_to_the_whole(reduction: str) -> None:
    loss = DpoLoss(beta=0.5, alpha=0.25, reduction="sum" if reduction == "sum" else "token_mean")
    counts = Counts(num_items=2, num_tokens=5)
    whole, metrics = dpo(loss, _logp(_tensor(*_CHOSEN), _tensor(*_REJECTED), _REFERENCE), _ONES, counts)
    parts = [
        dpo(loss, _logp(_tensor(_CHOSEN[i]), _tensor(_REJECTED[i]), _REFERENCE[i : i + 1]), torch.ones(1), counts)
        for i in range(2)
    ]
    assert sum(part.item() for part, _ in parts) == pytest.approx(whole.item(), abs=1e-12)
    for name, value in metrics.items():
        assert sum(part[name].item() for _, part in parts) == pytest.approx(value.item(), abs=1e-12)


def test_dpo_weights_the_preference_of_each_pair_alone() -> None:
    loss = DpoLoss(beta=0.5, alpha=0.25, reduction="sum")
    logp = _logp(_tensor(*_CHOSEN), _tensor(*_REJECTED), _REFERENCE)
    total, _ = dpo(loss, logp, torch.tensor([1.5, 0.5]), Counts(num_items=2, num_tokens=5))
    preference = (1.5 * math.log1p(math.exp(-0.75)) + 0.5 * math.log1p(math.exp(-0.25))) / 2
    assert total.item() == pytest.approx(preference + 0.25 * 4.0, abs=1e-7)


def test_dpo_far_off_margins_stay_finite() -> None:
    loss = DpoLoss(beta=1.0, alpha=0.0, reduction="sum")
    chosen = _tensor(-2000.0)
    logp = _logp(chosen, _tensor(0.0), torch.zeros(1, 2, dtype=torch.float64))
    total, _ = dpo(loss, logp, torch.ones(1), Counts(num_items=1, num_tokens=1))
    total.backward()
    assert total.item() == pytest.approx(2000.0)
    assert chosen.grad is not None and chosen.grad.item() == pytest.approx(-1.0)


def test_sft_is_the_mean_over_the_tokens_of_the_global_batch() -> None:
    logp = _tensor(-3.0, -4.5)
    total, metrics = sft(logp, Counts(num_items=4, num_tokens=30))
    total.backward()
    assert total.item() == metrics["cross_entropy"].item() == pytest.approx(0.25, abs=1e-12)
    assert logp.grad is not None and logp.grad.tolist() == pytest.approx([-1 / 30, -1 / 30])
    assert not metrics["cross_entropy"].requires_grad
