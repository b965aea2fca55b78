"""The loop: its schedule, gradients that no execution setting changes, and what it exports."""

import json
import math
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from small_training import score_pairs
from stic_ray import storage, vlm
from stic_ray.config import (
    AdapterOff,
    Blur,
    Cosine,
    DpoLoss,
    Execution,
    FullFinetune,
    Linear,
    Lora,
    Loss,
    LossTerm,
    MdpoLoss,
    SftLoss,
    Training,
    Wandb,
    WeightedLosses,
)
from stic_ray.images import blind, encode
from stic_ray.records import Turn
from stic_ray.report.markdown import escape
from stic_ray.train import loop
from stic_ray.train.data import Item, known
from stic_ray.train.export import export
from stic_ray.train.feed import Batch, encode_parts
from stic_ray.train.job import (
    ADAPTER,
    CARD,
    MERGED,
    METRICS,
    NOT_FINITE,
    REFUSED,
    Job,
    PairData,
    train_worker,
)
from stic_ray.train.optimizer import make_optimizer, rate_factor
from stic_ray.train.trackers import Trackers

_DPO = DpoLoss(beta=0.5, alpha=0.25, reduction="token_mean")


# The schedule


def test_schedule_warms_up_linearly_then_follows_the_cosine() -> None:
    factors = [rate_factor(Cosine(), step, 110, 10 / 110) for step in range(110)]
    assert factors[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert factors[10] == 1.0
    assert factors[60] == pytest.approx(0.5)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0 < factors[-1] < 0.001
    assert rate_factor(Cosine(), 110, 110, 10 / 110) == pytest.approx(0.0)


@pytest.mark.parametrize("total", [1, 2, 3])
@pytest.mark.parametrize("ratio", [0.0, 0.03, 0.9])
def test_schedule_of_a_short_run_trains_in_every_step(total: int, ratio: float) -> None:
    factors = [rate_factor(Cosine(), step, total, ratio) for step in range(total)]
    assert all(0 < factor <= 1 for factor in factors)
    assert max(factors) == 1.0


def test_linear_schedule_falls_by_the_same_amount_a_step() -> None:
    factors = [rate_factor(Linear(), step, 110, 10 / 110) for step in range(111)]
    assert factors[9:11] == [1.0, 1.0]
    assert factors[60] == pytest.approx(0.5) and factors[110] == pytest.approx(0.0)
    assert np.diff(factors[10:]) == pytest.approx(np.full(100, -0.01))


# A step


@pytest.fixture(scope="module")
def items(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
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
        uri = "" if number == 2 else str(path)
        item = Item(id=f"id-{number}", image_uri=uri, conversations=conversations, known=(known(), known()))
        counts = [
            example.num_trained for (group) in item.encode(vlm.load_processor(str(tiny_llava))) for example in group
        ]
        logp = tuple(known(logp=[value / n] * n) for value, n in zip(reference, counts, strict=True))
        made.append(replace(item, known=logp))
    return made


def _chosen(items: list[Item]) -> list[Item]:
    return [replace(item, conversations=item.conversations[:1], known=item.known[:1]) for item in items]


def _job(model: Path, loss: Loss, *, row_tokens: int = 10_000, **training: Any) -> Job:
    settings: dict[str, Any] = {"weights": FullFinetune(), "lr": 1.0, "max_grad_norm": 1e9, **training}
    return Job(
        model_uri=str(model),
        dtype="float32",
        training=Training(loss=loss, epochs=1, global_batch=4, **settings),
        data=PairData(parts=()),
        seed=0,
        output="",
        execution=Execution(row_tokens=row_tokens),
    )


def _trainer(job: Job) -> loop.Trainer:
    """A trainer whose step moves every weight by its gradient: plain descent with rate 1."""
    scorer = vlm.AnswerScorer(loop.trainable(job.model_uri, job, quantize=False))
    trainer = loop.Trainer(job, scorer, loop.Workers(rank=0, world=1), lambda: False)
    trained = [parameter for parameter in scorer.parameters() if parameter.requires_grad]
    trainer.optimizer = torch.optim.SGD(trained, lr=1.0)
    return trainer


def _batch(job: Job, items: list[Item]) -> Batch:
    processor = vlm.load_processor(job.model_uri)
    parts = encode_parts(items, processor=processor, job=job)
    return Batch(parts=tuple(parts), waited_s=0.0)


def _take(trainer: loop.Trainer, job: Job, items: list[Item]) -> dict[str, float]:
    return trainer.take_step(_batch(job, items), ids=[item.id for item in items])


def _gradient(job: Job, items: list[Item]) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    trainer = _trainer(job)
    before = {name: p.detach().clone() for name, p in trainer.scorer.named_parameters() if p.requires_grad}
    metrics = _take(trainer, job, items)
    after = dict(trainer.scorer.named_parameters())
    assert all(p.grad is None or not p.grad.any() for p in after.values())
    return {name: value - after[name].detach() for name, value in before.items()}, metrics


def _relative_error(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    difference = sum(float((found[name].double() - expected[name].double()).square().sum()) for name in expected)
    size = sum(float(value.double().square().sum()) for value in expected.values())
    return math.sqrt(difference / size)


@pytest.mark.parametrize("loss", [_DPO, replace(_DPO, reduction="sum"), SftLoss()], ids=["token_mean", "sum", "sft"])
def test_step_does_not_depend_on_the_rows(tiny_llava: Path, items: list[Item], loss: Loss) -> None:
    """Tolerance 1e-4 relative on gradients (read off float32 weights), 1e-5 on metrics."""
    given = _chosen(items) if isinstance(loss, SftLoss) else items
    whole, metrics = _gradient(_job(tiny_llava, loss), given)
    for row_tokens, num_rows in ((1, 4), (100, 2)):
        job = _job(tiny_llava, loss, row_tokens=row_tokens)
        assert len(_batch(job, given).parts) == num_rows
        parts, part_metrics = _gradient(job, given)
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
    encoded = [group for item in items for group in item.encode(processor)]
    num_tokens = sum(sum(chosen.trained) for chosen, _ in encoded)
    for item, (chosen, rejected) in zip(items, encoded, strict=True):
        ref_w, ref_l = (float(each.reference().sum()) for each in item.known)
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
    encoded = [example for item in _chosen(items) for (example,) in item.encode(processor)]
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


def test_step_that_is_not_finite_names_ids_and_remedy(tiny_llava: Path, items: list[Item], tmp_path: Path) -> None:
    broken = [_broken(items[0]), *items[1:]]
    job = replace(_job(tiny_llava, _DPO), output=str(tmp_path))
    with pytest.raises(ValueError, match=r"not finite at step 1 .*id-0.*lower the learning rate"):
        _gradient(job, broken)
    told = json.loads((tmp_path / NOT_FINITE).read_text())
    assert (told["step"], told["loss"], told["ids"]) == (1, "nan", [item.id for item in items])


def _broken(item: Item) -> Item:
    chosen = item.known[0]
    return replace(item, known=(known(logp=[float("nan")] * len(chosen.logp)), item.known[1]))


def test_steps_that_are_not_finite_are_left_out_as_long_as_they_may(
    tiny_llava: Path, items: list[Item], tmp_path: Path
) -> None:
    job = replace(_job(tiny_llava, _DPO, max_skipped=1), output=str(tmp_path))
    trainer = _trainer(job)
    before = {name: p.detach().clone() for name, p in trainer.scorer.named_parameters()}
    trainer.log.append(_take(trainer, job, [_broken(items[0]), *items[1:]]))
    assert trainer.log[0]["skipped"] == 1.0
    assert all(torch.equal(p, before[name]) for name, p in trainer.scorer.named_parameters())
    trainer.log.append(_take(trainer, job, items))
    assert trainer.log[1]["skipped"] == 0.0
    assert not all(torch.equal(p, before[name]) for name, p in trainer.scorer.named_parameters())
    with pytest.raises(ValueError, match="not finite at step 3"):
        _take(trainer, job, [_broken(items[0]), *items[1:]])


def test_training_whose_last_steps_are_not_finite_delivers_nothing(
    tiny_llava: Path, items: list[Item], tmp_path: Path
) -> None:
    job = replace(_job(tiny_llava, _DPO, max_skipped=9), output=str(tmp_path))
    broken = [_broken(items[0]), *items[1:]]
    once, twice = _trainer(job), _trainer(job)
    for trainer, batches in ((once, (items, broken)), (twice, (items, broken, broken))):
        trainer.resume()
        trainer.log += [_take(trainer, job, batch) for batch in batches]
    once.close()  # one step may be its items' fault
    with pytest.raises(ValueError, match=r"last 2 steps were not finite.*lower the learning rate"):
        twice.close()


@pytest.mark.parametrize("weights", [Lora(rank=2, lora_alpha=4), FullFinetune()], ids=["lora", "full"])
def test_step_in_bfloat16_is_near_that_in_float32(
    tiny_llava: Path, items: list[Item], weights: Lora | FullFinetune
) -> None:
    """The first loss to 1%; the gradient's length to 10%."""
    found = [
        _gradient(replace(_job(tiny_llava, _DPO, weights=weights), dtype=dtype), items)[1]
        for dtype in ("float32", "bfloat16")
    ]
    assert found[1]["loss"] == pytest.approx(found[0]["loss"], rel=0.01)
    assert found[1]["grad_norm"] == pytest.approx(found[0]["grad_norm"], rel=0.1)


def test_full_finetune_that_freezes_everything_is_refused(tiny_llava: Path) -> None:
    job = _job(tiny_llava, _DPO, weights=FullFinetune(frozen=("language_model", "lm_head")))
    with pytest.raises(ValueError, match=r"weights\.frozen \(language_model, lm_head\) leaves nothing to train"):
        _trainer(job)


def test_models_own_attention_dropout_is_drawn_while_training_only(
    tiny_llava: Path, items: list[Item], tmp_path: Path
) -> None:
    shutil.copytree(tiny_llava, tmp_path / "model")
    settings = json.loads((tmp_path / "model" / "config.json").read_text())
    settings["text_config"]["attention_dropout"] = 0.3
    (tmp_path / "model" / "config.json").write_text(json.dumps(settings))
    plain, dropped = (_gradient(_job(path, _DPO), items)[1] for path in (tiny_llava, tmp_path / "model"))
    assert dropped["chosen_logp"] != pytest.approx(plain["chosen_logp"], rel=1e-4)
    processor = vlm.load_processor(str(tiny_llava))
    row = vlm.pack([group for item in items for group in item.encode(processor)])
    with torch.inference_mode():
        scores = [
            vlm.AnswerScorer(vlm.load_model(str(path), "float32"))(row) for path in (tiny_llava, tmp_path / "model")
        ]
    assert torch.equal(*scores)


def test_tracker_that_does_not_start_is_one_line(
    tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb.py").write_text(
        "class Error(Exception):\n    pass\n\n\ndef init(**_):\n    raise Error('api_key not\\nconfigured')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)  # what a test before may have imported
    job = replace(_job(tiny_llava, _DPO), output=str(tmp_path / "out"))
    job = replace(job, execution=replace(job.execution, trackers=(Wandb(project="p"),)))
    with pytest.raises(ValueError, match=r"^execution\.trackers: Wandb does not start: api_key not configured$"):
        Trackers(job, 0, 4, is_heard=True)


def test_step_too_long_is_refused_by_id_never_truncated(tiny_llava: Path, items: list[Item]) -> None:
    with pytest.raises(ValueError, match=r"id-\d has \d+ tokens, more than max_length 12: nothing is ever truncated"):
        _gradient(_job(tiny_llava, _DPO, max_length=12), items)


def test_measure_is_the_loss_of_a_step_and_changes_nothing(
    tiny_llava: Path, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where not all items are measured at once."""
    job = _job(tiny_llava, _DPO, row_tokens=100)
    _, expected = _gradient(job, items)
    trainer = _trainer(job)
    before = {name: p.detach().clone() for name, p in trainer.scorer.named_parameters()}
    monkeypatch.setattr(loop, "_MEASURED_AT_ONCE", 3)
    processor = vlm.load_processor(str(tiny_llava))
    found = trainer.measure(items, lambda chunk: encode_parts(chunk, processor=processor, job=job))
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in trainer.scorer.named_parameters())
    assert {"validation_loss", "validation_accuracy", "validation_kl"} <= found.keys()
    assert found["validation_loss"] == pytest.approx(expected["loss"], rel=1e-6)


# Where the reference comes from


def test_adapters_switched_off_are_the_reference(tiny_llava: Path, items: list[Item]) -> None:
    """A new adapter changes nothing: every margin is 0; scores that say the same give the same gradient."""
    lora = Lora(rank=2, lora_alpha=4)
    off = _job(tiny_llava, _DPO, weights=lora, reference=AdapterOff())
    gradient, metrics = _gradient(off, items)
    assert metrics["margin"] == pytest.approx(0.0, abs=1e-4) and metrics["kl"] == pytest.approx(0.0, abs=1e-6)
    scored = score_pairs(tiny_llava, items)
    expected, _ = _gradient(_job(tiny_llava, _DPO, weights=lora), scored)
    assert _relative_error(gradient, expected) < 1e-4


def test_pairs_that_are_not_scored_are_refused(tiny_llava: Path, items: list[Item]) -> None:
    bare = [replace(item, known=(known(), known())) for item in items]
    with pytest.raises(ValueError, match=r"id-\d: its answers are not scored"):
        _gradient(_job(tiny_llava, _DPO), bare)


def test_mdpo_sees_the_chosen_answer_again_with_its_image_hidden(tiny_llava: Path, items: list[Item]) -> None:
    """Tolerance 1e-4 relative on the loss, against single sequences from all logits in float64."""
    loss = MdpoLoss(beta=0.5, blind=Blur(radius=0.5), anchor=0.1)
    given = [
        replace(
            item,
            hidden=loss.blind,
            known=(*item.known, known(logp=[value - 1 for value in item.known[0].logp.tolist()])),
        )
        for item in items
        if item.image_uri
    ]
    processor = vlm.load_processor(str(tiny_llava))
    model = vlm.load_model(str(tiny_llava), "float32").double()
    total = 0.0
    for item in given:
        image = Image.open(item.image_uri).convert("RGB")
        sequences = [(item.conversations[0], image), (item.conversations[1], image)]
        sequences.append((item.conversations[0], blind(image, Blur(radius=0.5))))
        gains = []
        for (turns, seen), each in zip(sequences, item.known, strict=True):
            with torch.inference_mode():
                logp = _slow_logp(model, vlm.encode_example(processor, turns, seen)).item()
            gains.append(logp - float(each.reference().sum()))
        margins = (0.5 * (gains[0] - gains[1]), 0.5 * (gains[0] - gains[2]), 0.5 * gains[0] - 0.1)
        total += sum(float(np.logaddexp(0, -margin)) for margin in margins) / len(given)
    _, metrics = _gradient(_job(tiny_llava, loss), given)
    assert metrics["loss"] == pytest.approx(total, rel=1e-4)


def test_weighted_losses_add_up_their_gradients(tiny_llava: Path, items: list[Item]) -> None:
    """DPO with STIC's regulariser is DPO without it plus cross-entropy of the chosen answers; 1e-4 relative."""
    plain = DpoLoss(beta=0.5, alpha=0.0, reduction="token_mean")
    terms = (LossTerm(weight=1.0, loss=plain), LossTerm(weight=0.25, loss=SftLoss()))
    found, metrics = _gradient(_job(tiny_llava, WeightedLosses(terms=terms)), items)
    expected, expected_metrics = _gradient(_job(tiny_llava, _DPO), items)
    assert _relative_error(found, expected) < 1e-4
    assert metrics["loss"] == pytest.approx(expected_metrics["loss"], rel=1e-5)


def test_recomputed_activations_change_nothing(tiny_llava: Path, items: list[Item]) -> None:
    job = _job(tiny_llava, _DPO, weights=Lora(rank=2, lora_alpha=4))
    expected, _ = _gradient(job, items)
    trainer = _trainer(job)
    loop.recompute_activations(trainer.scorer)
    before = {name: p.detach().clone() for name, p in trainer.scorer.named_parameters() if p.requires_grad}
    _take(trainer, job, items)
    after = dict(trainer.scorer.named_parameters())
    found = {name: value - after[name].detach() for name, value in before.items()}
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# What trains


def test_trainable_adapters_are_a_function_of_the_seed(tiny_llava: Path) -> None:
    job = _job(tiny_llava, _DPO, weights=Lora(rank=2, lora_alpha=4))

    def adapters(seed: int) -> dict[str, torch.Tensor]:
        model = loop.trainable(str(tiny_llava), replace(job, seed=seed), quantize=False)
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
        scorer = vlm.AnswerScorer(loop.trainable(str(tiny_llava), job, quantize=False))
        groups = make_optimizer(scorer, job.training).param_groups
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
    job = _job(tiny_llava, _DPO, weights=weights, projector_lr=0.1)
    job = replace(job, output=str(tmp_path), origin={"artifact": "stage1-x"})
    trainer, processor = _trainer(job), vlm.load_processor(str(tiny_llava))
    for group in trainer.optimizer.param_groups:
        group["lr"] = 0.05
    for _ in range(3):
        trainer.log.append(_take(trainer, job, items))
    _export(job, trainer, rank=0)
    assert (tmp_path / METRICS).read_text() == trainer.metrics_text()
    assert (tmp_path / ADAPTER / "adapter_model.safetensors").exists() is isinstance(weights, Lora)
    card = (tmp_path / MERGED / CARD).read_text()
    assert f"- trained from: {escape(str(tiny_llava))}" in card and "base_model:" not in card
    assert '"type": "DpoLoss"' in card and "- artifact: stage1-x" in card
    row = vlm.pack([group for item in items for group in item.encode(processor)])
    with torch.inference_mode():
        trained = trainer.scorer.eval()(row)
        base = vlm.AnswerScorer(vlm.load_model(str(tiny_llava), "float32"))(row)
        merged = vlm.AnswerScorer(vlm.load_model(str(tmp_path / MERGED), "float32"))(row)
    torch.testing.assert_close(merged, trained, rtol=1e-4, atol=1e-5)
    assert (trained - base).abs().max() > 0.1


def _export(job: Job, trainer: loop.Trainer, *, rank: int) -> None:
    processor = vlm.load_processor(job.model_uri)
    start = partial(loop.trainable, job.model_uri, job, quantize=False)
    last = trainer.log[-1] if trainer.log else {}
    export(job, trainer.scorer, trainer.metrics_text(), last, processor=processor, start=start, rank=rank)


def test_export_of_other_ranks_writes_nothing(tiny_llava: Path, tmp_path: Path) -> None:
    job = replace(_job(tiny_llava, _DPO), output=str(tmp_path))
    _export(job, _trainer(job), rank=1)
    assert list(tmp_path.iterdir()) == []


def test_what_training_refuses_is_not_tried_again_and_a_failure_elsewhere_is(
    tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = replace(_job(tiny_llava, _DPO), output=str(tmp_path))
    monkeypatch.setattr(loop, "train", lambda job: storage.join_inside("/a", "../b"))
    with pytest.raises(ValueError):
        train_worker({"job": job})
    assert not (tmp_path / REFUSED).exists()
    monkeypatch.setattr(loop, "train", loop._read)
    with pytest.raises(ValueError, match="nothing to train on"):
        train_worker({"job": job})
    assert "nothing to train on" in (tmp_path / REFUSED).read_text()
    train_worker({"job": job})
