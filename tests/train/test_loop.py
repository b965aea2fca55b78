"""The loop: its schedule, gradients that no execution setting changes, and what it exports."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stic_ray import vlm
from stic_ray.config import DpoLoss, FullFinetune, Lora, Loss, SftLoss, Training
from stic_ray.images import encode
from stic_ray.records import Turn
from stic_ray.train import loop
from stic_ray.train.data import Item, Known
from stic_ray.train.job import ADAPTER, MERGED, METRICS, Job, PairData
from stic_ray.train.loop import schedule

_DPO = DpoLoss(beta=0.5, alpha=0.25, reduction="token_mean")


# The schedule


def test_schedule_warms_up_linearly_then_follows_the_cosine() -> None:
    factors = [schedule(step, 110, 10 / 110) for step in range(110)]
    assert factors[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert factors[10] == 1.0
    assert factors[60] == pytest.approx(0.5)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0 < factors[-1] < 0.001
    assert schedule(110, 110, 10 / 110) == pytest.approx(0.0)


@pytest.mark.parametrize("total", [1, 2, 3])
@pytest.mark.parametrize("ratio", [0.0, 0.03, 0.9])
def test_schedule_of_a_short_run_trains_in_every_step(total: int, ratio: float) -> None:
    factors = [schedule(step, total, ratio) for step in range(total)]
    assert all(0 < factor <= 1 for factor in factors)
    assert max(factors) == 1.0


# A step


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    """Pairs of unequal lengths on images of their own, one without an image."""
    folder = tmp_path_factory.mktemp("images")
    made = []
    for number in range(4):
        path = folder / f"{number}.png"
        pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        path.write_bytes(encode(Image.fromarray(pixels)))
        answers = (" ".join(["a dog"] * (number + 1)), "two people walk along the beach"[: 8 + 5 * number])
        conversations = tuple(
            [Turn(role="user", text=f"what {number} ?"), Turn(role="assistant", text=answer)] for answer in answers
        )
        reference = (-20.0 - number, -30.0 + 2 * number)
        known = tuple(Known(token_ids=[], logp=[value], used=[]) for value in reference)
        uri = "" if number == 2 else str(path)
        made.append(Item(id=f"id-{number}", image_uri=uri, conversations=conversations, known=known))
    return made


def _chosen(items: list[Item]) -> list[Item]:
    return [replace(item, conversations=item.conversations[:1], known=item.known[:1]) for item in items]


def _job(model: Path, loss: Loss, *, micro_batch: int = 4, **training: Any) -> Job:
    settings: dict[str, Any] = {"weights": FullFinetune(), "lr": 1.0, "max_grad_norm": 1e9, **training}
    return Job(
        model_uri=str(model),
        dtype="float32",
        training=Training(loss=loss, epochs=1, global_batch=4, **settings),
        data=PairData(parts=()),
        seed=0,
        output="",
        micro_batch=micro_batch,
        checkpoint_every=1,
        num_threads=1,
    )


def _state(job: Job) -> loop._Trainer:
    """A trainer whose step moves every weight by its gradient: plain descent with rate 1."""
    scorer = vlm.AnswerScorer(loop._trainable(job.model_uri, job))
    trained = [parameter for parameter in scorer.parameters() if parameter.requires_grad]
    return loop._Trainer(scorer, torch.optim.SGD(trained, lr=1.0))


def _gradient(job: Job, items: list[Item]) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    state = _state(job)
    before = {name: p.detach().clone() for name, p in state.scorer.named_parameters() if p.requires_grad}
    metrics = loop._step(state, vlm.load_processor(job.model_uri), items, job, world=1)
    after = dict(state.scorer.named_parameters())
    assert all(p.grad is None or not p.grad.any() for p in after.values())
    return {name: value - after[name].detach() for name, value in before.items()}, metrics


def _relative_error(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    difference = sum(float((found[name].double() - expected[name].double()).square().sum()) for name in expected)
    size = sum(float(value.double().square().sum()) for value in expected.values())
    return math.sqrt(difference / size)


@pytest.mark.parametrize("loss", [_DPO, replace(_DPO, reduction="sum"), SftLoss()], ids=["token_mean", "sum", "sft"])
def test_step_does_not_depend_on_the_micro_batch(tiny_llava: Path, items: list[Item], loss: Loss) -> None:
    """Tolerance 1e-4 relative on gradients (read off float32 weights), 1e-5 on metrics."""
    given = _chosen(items) if isinstance(loss, SftLoss) else items
    whole, metrics = _gradient(_job(tiny_llava, loss, micro_batch=4), given)
    for micro_batch in (1, 3):
        parts, part_metrics = _gradient(_job(tiny_llava, loss, micro_batch=micro_batch), given)
        assert _relative_error(parts, whole) < 1e-4
        assert part_metrics == pytest.approx(metrics, rel=1e-5, abs=1e-6)


def _slow_logp(model: Any, example: vlm.Example) -> torch.Tensor:
    images = {name: value.double() for name, value in example.image_inputs.items()}
    logits_TV = model(input_ids=torch.tensor([example.input_ids]), **images).logits[0]
    total = torch.zeros((), dtype=torch.float64)
    for position, trained in enumerate(example.trained):
        if trained:
            row_V = logits_TV[position - 1]
            total = total + row_V[example.input_ids[position]] - row_V.exp().sum().log()
    return total


@pytest.mark.parametrize("reduction", ["sum", "token_mean"])
def test_dpo_step_equals_the_slow_float64_reference(tiny_llava: Path, items: list[Item], reduction: str) -> None:
    """The formula over single sequences from all logits; tolerance 1e-4 relative on the gradient, 1e-5 on the loss."""
    processor = vlm.load_processor(str(tiny_llava))
    model = vlm.load_model(str(tiny_llava), "float32").double()
    vlm.unfreeze_language_model(model, projector=False)
    total = torch.zeros((), dtype=torch.float64)
    encoded = [item.encode(processor) for item in items]
    num_tokens = sum(sum(chosen.trained) for chosen, _ in encoded)
    for item, (chosen, rejected) in zip(items, encoded, strict=True):
        ref_w, ref_l = (known.reference() for known in item.known)
        log_w, log_l = _slow_logp(model, chosen), _slow_logp(model, rejected)
        margin = 0.5 * ((log_w - ref_w) - (log_l - ref_l))
        total = total + (1 + (-margin).exp()).log() / len(items)
        total = total - 0.25 * log_w / (len(items) if reduction == "sum" else num_tokens)
    total.backward()
    expected = {f"model.{name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    loss = replace(_DPO, reduction="sum" if reduction == "sum" else "token_mean")
    found, metrics = _gradient(_job(tiny_llava, loss), items)
    assert metrics["loss"] == pytest.approx(total.item(), rel=1e-5)
    assert metrics["num_tokens"] == num_tokens
    assert found.keys() == expected.keys()
    assert _relative_error(found, expected) < 1e-4


def test_sft_loss_is_the_mean_over_all_answer_tokens(tiny_llava: Path, items: list[Item]) -> None:
    processor = vlm.load_processor(str(tiny_llava))
    model = vlm.load_model(str(tiny_llava), "float32").double()
    encoded = [item.encode(processor)[0] for item in _chosen(items)]
    with torch.inference_mode():
        expected = -sum(_slow_logp(model, example).item() for example in encoded)
    expected /= sum(example.num_trained for example in encoded)
    _, metrics = _gradient(_job(tiny_llava, SftLoss()), _chosen(items))
    assert metrics["loss"] == metrics["cross_entropy"] == pytest.approx(expected, rel=1e-5)


def test_step_clips_the_gradient_and_reports_its_length_before(tiny_llava: Path, items: list[Item]) -> None:
    free, metrics = _gradient(_job(tiny_llava, _DPO), items)
    length = sum(float(value.square().sum()) for value in free.values()) ** 0.5
    assert metrics["grad_norm"] == pytest.approx(length, rel=1e-3)
    clipped, clipped_metrics = _gradient(_job(tiny_llava, _DPO, max_grad_norm=length / 4), items)
    assert clipped_metrics["grad_norm"] == pytest.approx(metrics["grad_norm"])
    assert sum(float(v.square().sum()) for v in clipped.values()) ** 0.5 == pytest.approx(length / 4, rel=1e-3)


def test_step_that_is_not_finite_names_ids_and_remedy(tiny_llava: Path, items: list[Item]) -> None:
    broken = [replace(items[0], known=(replace(items[0].known[0], logp=[float("nan")]), items[0].known[1])), *items[1:]]
    with pytest.raises(ValueError, match=r"not finite at step 1 .*id-0.*lower the learning rate"):
        _gradient(_job(tiny_llava, _DPO), broken)


def test_step_too_long_is_refused_by_id_never_truncated(tiny_llava: Path, items: list[Item]) -> None:
    with pytest.raises(ValueError, match=r"id-\d has \d+ tokens, more than max_length 12: nothing is ever truncated"):
        _gradient(_job(tiny_llava, _DPO, max_length=12), items)


# What trains


def test_trainable_adapters_are_a_function_of_the_seed(tiny_llava: Path) -> None:
    job = _job(tiny_llava, _DPO, weights=Lora(rank=2, lora_alpha=4))

    def adapters(seed: int) -> dict[str, torch.Tensor]:
        model = loop._trainable(str(tiny_llava), replace(job, seed=seed))
        return {name: p for name, p in model.named_parameters() if p.requires_grad}

    first, torch_state = adapters(0), torch.manual_seed(99)
    assert torch_state is not None
    again, other = adapters(0), adapters(1)
    assert first and all("lora_" in name for name in first)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("weights", [Lora(rank=2, lora_alpha=4), FullFinetune()], ids=["lora", "full"])
def test_projector_trains_at_its_own_rate_or_not_at_all(tiny_llava: Path, weights: Lora | FullFinetune) -> None:
    for rate in (None, 0.5):
        job = _job(tiny_llava, _DPO, weights=weights, projector_lr=rate, lr=0.25, weight_decay=0.125)
        scorer = vlm.AnswerScorer(loop._trainable(str(tiny_llava), job))
        groups = loop._optimizer(scorer, job.training).param_groups
        assert [group["lr"] for group in groups] == ([0.25] if rate is None else [0.25, 0.5])
        assert {group["weight_decay"] for group in groups} == {0.125}
        projector = {id(parameter) for parameter in vlm.projector_parameters(scorer.model)}
        assert not projector & {id(parameter) for parameter in groups[0]["params"]}
        if rate is not None:
            assert {id(parameter) for parameter in groups[1]["params"]} == projector
        trained = {id(p) for p in scorer.parameters() if p.requires_grad}
        assert trained == {id(parameter) for group in groups for parameter in group["params"]}
        assert not any("vision_tower" in name for name, p in scorer.named_parameters() if p.requires_grad)


# What is exported


@pytest.mark.parametrize("weights", [Lora(rank=2, lora_alpha=4), FullFinetune()], ids=["lora", "full"])
def test_export_is_the_trained_model_merged(
    tiny_llava: Path, items: list[Item], tmp_path: Path, weights: Lora | FullFinetune
) -> None:
    """Scores of the merged checkpoint equal those of the trained one to 1e-4 relative (merging rounds in float32)."""
    job = replace(_job(tiny_llava, _DPO, weights=weights, projector_lr=0.1), output=str(tmp_path))
    state, processor = _state(job), vlm.load_processor(str(tiny_llava))
    for group in state.optimizer.param_groups:
        group["lr"] = 0.05
    for _ in range(3):
        state.log.append(loop._step(state, processor, items, job, world=1))
    loop._export(state, processor, str(tiny_llava), job, rank=0)
    assert (tmp_path / METRICS).read_text() == state.metrics_text()
    assert (tmp_path / ADAPTER / "adapter_model.safetensors").exists() is isinstance(weights, Lora)
    batch = vlm.collate(processor, [example for item in items for example in item.encode(processor)])
    with torch.inference_mode():
        trained = state.scorer.eval()(batch)
        base = vlm.AnswerScorer(vlm.load_model(str(tiny_llava), "float32"))(batch)
        merged = vlm.AnswerScorer(vlm.load_model(str(tmp_path / MERGED), "float32"))(batch)
    torch.testing.assert_close(merged, trained, rtol=1e-4, atol=1e-5)
    assert (trained - base).abs().max() > 0.1


def test_export_of_other_ranks_writes_nothing(tiny_llava: Path, tmp_path: Path) -> None:
    job = replace(_job(tiny_llava, _DPO), output=str(tmp_path))
    loop._export(_state(job), vlm.load_processor(str(tiny_llava)), str(tiny_llava), job, rank=1)
    assert list(tmp_path.iterdir()) == []
