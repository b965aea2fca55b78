"""Losses against figures worked out by hand and against the formula written again, slowly."""

import math

import pytest
import torch
from torch import Tensor

from stic_ray.config import (
    Blur,
    DpoLoss,
    HingeLoss,
    IpoLoss,
    LengthNormalisedDpoLoss,
    Loss,
    LossTerm,
    MdpoLoss,
    OrpoLoss,
    RobustDpoLoss,
    SftLoss,
    SimpoLoss,
    WeightedLosses,
)
from stic_ray.losses import Counts, PairLogp, preference, sft


def _tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def _logp(chosen: Tensor, rejected: Tensor, reference: Tensor, weight: Tensor | None = None) -> PairLogp:
    """Chosen answers of 2 tokens, rejected ones of 4."""
    return PairLogp(
        policy=torch.stack([chosen, rejected], dim=1),
        reference=reference,
        num_tokens=torch.tensor([[2, 4]] * len(chosen)),
        weight=torch.ones(len(chosen)) if weight is None else weight,
    )


_CHOSEN = (-3.0, -5.0)
_REJECTED = (-4.0, -2.0)
_REFERENCE = torch.tensor([[-3.5, -3.0], [-6.0, -2.5]], dtype=torch.float64)
# beta 0.5: margins 0.5 * [(0.5) - (-1.0)] = 0.75 and 0.5 * [(1.0) - (0.5)] = 0.25
_PREFERENCE = (math.log1p(math.exp(-0.75)) + math.log1p(math.exp(-0.25))) / 2


@pytest.mark.parametrize(("reduction", "regulariser"), [("sum", 8.0 / 2), ("token_mean", 8.0 / 5)])
def test_dpo_equals_the_figure_worked_out_by_hand(reduction: str, regulariser: float) -> None:
    loss = DpoLoss(beta=0.5, alpha=0.25, reduction="sum" if reduction == "sum" else "token_mean")
    counts = Counts(num_items=2, num_tokens=5)
    total, metrics = preference(loss, _logp(_tensor(*_CHOSEN), _tensor(*_REJECTED), _REFERENCE), counts)
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
    _, metrics = preference(loss, _logp(_tensor(-1, -1, -2, -3), _tensor(-2, -1, -1, -9), reference), counts)
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
    total, _ = preference(loss, _logp(inputs[0], inputs[1], reference), Counts(num_items=5, num_tokens=37))
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
    whole, metrics = preference(loss, _logp(_tensor(*_CHOSEN), _tensor(*_REJECTED), _REFERENCE), counts)
    parts = [
        preference(loss, _logp(_tensor(_CHOSEN[i]), _tensor(_REJECTED[i]), _REFERENCE[i : i + 1]), counts)
        for i in range(2)
    ]
    assert sum(part.item() for part, _ in parts) == pytest.approx(whole.item(), abs=1e-12)
    for name, value in metrics.items():
        assert sum(part[name].item() for _, part in parts) == pytest.approx(value.item(), abs=1e-12)


def test_dpo_weights_the_preference_of_each_pair_alone() -> None:
    loss = DpoLoss(beta=0.5, alpha=0.25, reduction="sum")
    logp = _logp(_tensor(*_CHOSEN), _tensor(*_REJECTED), _REFERENCE, torch.tensor([1.5, 0.5]))
    total, _ = preference(loss, logp, Counts(num_items=2, num_tokens=5))
    expected = (1.5 * math.log1p(math.exp(-0.75)) + 0.5 * math.log1p(math.exp(-0.25))) / 2
    assert total.item() == pytest.approx(expected + 0.25 * 4.0, abs=1e-7)


def test_dpo_far_off_margins_stay_finite() -> None:
    loss = DpoLoss(beta=1.0, alpha=0.0, reduction="sum")
    chosen = _tensor(-2000.0)
    logp = _logp(chosen, _tensor(0.0), torch.zeros(1, 2, dtype=torch.float64))
    total, _ = preference(loss, logp, Counts(num_items=1, num_tokens=1))
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


# The other losses, by hand: the first pair of the figures above, with answers of 2 and 4 tokens. Its gains over the
# reference are 0.5 and -1.0, of means 0.25 and -0.25; means a token are -1.5 and -1.0.


def _log_sigmoid(value: float) -> float:
    return -math.log1p(math.exp(-value))


def _odds(mean: float) -> float:
    return math.log(math.exp(mean) / (1 - math.exp(mean)))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (
            DpoLoss(beta=0.5, alpha=0.0, reduction="sum", label_smoothing=0.1),
            -0.9 * _log_sigmoid(0.75) - 0.1 * _log_sigmoid(-0.75),
        ),
        (LengthNormalisedDpoLoss(beta=2.0), -_log_sigmoid(2.0 * 0.5)),
        (
            RobustDpoLoss(beta=0.5, label_smoothing=0.1),
            (-0.9 * _log_sigmoid(0.75) + 0.1 * _log_sigmoid(-0.75)) / 0.8,
        ),
        (IpoLoss(beta=0.25), (0.5 - 2.0) ** 2),
        (HingeLoss(beta=0.5), 0.25),
        (HingeLoss(beta=1.0), 0.0),
        (SimpoLoss(beta=2.0, gamma=0.5), -_log_sigmoid(2.0 * (-1.5 + 1.0) - 0.5)),
        (OrpoLoss(weight=0.5), 3.0 / 2 - 0.5 * _log_sigmoid(_odds(-1.5) - _odds(-1.0))),
        (SftLoss(), 3.0 / 2),
        (
            WeightedLosses(
                terms=(LossTerm(weight=2.0, loss=HingeLoss(beta=0.5)), LossTerm(weight=3.0, loss=SftLoss()))
            ),
            2.0 * 0.25 + 3.0 * 1.5,
        ),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, float) else "",
)
def test_loss_equals_the_figure_worked_out_by_hand(loss: Loss, expected: float) -> None:
    total, metrics = preference(
        loss, _logp(_tensor(-3.0), _tensor(-4.0), _REFERENCE[:1]), Counts(num_items=1, num_tokens=2)
    )
    assert total.item() == pytest.approx(expected, abs=1e-9)
    assert not any(value.requires_grad for value in metrics.values())


def test_robust_loss_without_wrong_labels_is_dpo() -> None:
    logp, counts = _logp(_tensor(*_CHOSEN), _tensor(*_REJECTED), _REFERENCE), Counts(num_items=2, num_tokens=4)
    plain, _ = preference(DpoLoss(beta=0.5, alpha=0.0, reduction="sum"), logp, counts)
    robust, _ = preference(RobustDpoLoss(beta=0.5, label_smoothing=0.0), logp, counts)
    assert robust.item() == pytest.approx(plain.item(), abs=1e-12)


def test_mdpo_is_the_sum_of_its_three_parts() -> None:
    """The chosen answer without its image: -6 under the policy, -5 under the reference; so it gained 0.5 - (-1) = 1.5
    more with its image than without."""
    logp = _logp(_tensor(-3.0), _tensor(-4.0), _REFERENCE[:1])
    hidden = torch.tensor([[-6.0, -5.0]], dtype=torch.float64)
    logp = PairLogp(**{**vars(logp), "hidden": hidden})
    loss = MdpoLoss(beta=0.5, blind=Blur(radius=0.2), anchor=0.1)
    total, metrics = preference(loss, logp, Counts(num_items=1, num_tokens=2))
    parts = {
        "preference": -_log_sigmoid(0.75),
        "conditional": -_log_sigmoid(0.5 * 1.5),
        "anchored": -_log_sigmoid(0.5 * 0.5 - 0.1),
    }
    assert total.item() == pytest.approx(sum(parts.values()), abs=1e-7)
    assert {name: metrics[name].item() for name in parts} == pytest.approx(parts, abs=1e-9)


def test_weighted_losses_keep_the_metrics_of_each_apart() -> None:
    terms = (
        LossTerm(weight=1.0, loss=DpoLoss(beta=0.5, alpha=0.25, reduction="sum")),
        LossTerm(weight=1.0, loss=SftLoss()),
    )
    logp, counts = _logp(_tensor(*_CHOSEN), _tensor(*_REJECTED), _REFERENCE), Counts(num_items=2, num_tokens=4)
    _, metrics = preference(WeightedLosses(terms=terms), logp, counts)
    assert metrics["DpoLoss/regulariser"].item() == pytest.approx(4.0)
    assert metrics["SftLoss"].item() == metrics["SftLoss/cross_entropy"].item() == pytest.approx(2.0)
    assert {"margin", "accuracy", "chosen_logp", "rejected_logp"} <= metrics.keys()


def test_margin_is_what_the_loss_widens() -> None:
    """Chosen answers of 2 tokens, rejected ones of 4: means are -1.5, -2.5 and -1, -0.5."""
    logp, counts = _logp(_tensor(*_CHOSEN), _tensor(*_REJECTED), torch.zeros(2, 2)), Counts(num_items=2, num_tokens=4)
    margins = (-1.5 - -1.0, -2.5 - -0.5)
    for loss, factor in ((SimpoLoss(beta=2.0, gamma=0.5), 2.0), (IpoLoss(beta=0.5), 1.0)):
        _, metrics = preference(loss, logp, counts)
        assert metrics["margin"].item() == pytest.approx(factor * sum(margins) / 2)
        assert metrics["accuracy"].item() == 0.0
    both = WeightedLosses(
        terms=(LossTerm(weight=1.0, loss=SftLoss()), LossTerm(weight=1.0, loss=SimpoLoss(beta=2.0, gamma=0.0)))
    )
    _, metrics = preference(both, logp, counts)
    assert metrics["margin"] == metrics["SimpoLoss/margin"]
