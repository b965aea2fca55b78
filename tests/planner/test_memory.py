"""What is planned of a process's memory, against models that are made and peaks that were measured."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stic_ray import vlm
from stic_ray.config import (
    AdapterOff,
    DpoLoss,
    Execution,
    FullFinetune,
    Lora,
    SftLoss,
    Training,
    Transformers,
    Vllm,
)
from stic_ray.planner.memory import (
    Asked,
    Held,
    Row,
    Work,
    is_vllm,
    pair_row,
    sample_row,
    scoring_memory,
    training_memory,
    transformers_memory,
    vllm_memory,
)

_GIB = 2.0**30
_MEASURED = Path(__file__).parents[2] / "benchmarks" / "results" / "dpo_gpu.json"
_LORA = Lora(rank=128, lora_alpha=256)
_LLAVA_7B = {
    "architectures": ["LlavaForConditionalGeneration"],
    "model_type": "llava",
    "image_token_index": 32000,
    "text_config": {"model_type": "llama", "vocab_size": 32064, "max_position_embeddings": 4096},
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
    },
}


@pytest.fixture(scope="module")
def llava_7b(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory with the config.json of LLaVA-1.5-7B and nothing else."""
    folder = tmp_path_factory.mktemp("llava-7b")
    (folder / "config.json").write_text(json.dumps(_LLAVA_7B))
    return str(folder)


def _training(weights: Lora | FullFinetune = _LORA, *, batch: int = 4) -> Training:
    loss = SftLoss() if isinstance(weights, FullFinetune) else DpoLoss(beta=0.1, alpha=0.0, reduction="sum")
    return Training(loss=loss, weights=weights, lr=1e-5, epochs=1, global_batch=batch)


def _work(training: Training, execution: Execution) -> Work:
    row = pair_row(4 * (608 + 256), 608, 128)
    return Work(row=row, items=4, dtype="bfloat16", execution=execution, training=training)


@pytest.mark.parametrize("weights", [Lora(rank=4, lora_alpha=8), FullFinetune(), None])
@pytest.mark.parametrize("projector_lr", [None, 1e-4])
def test_sizes_are_those_of_the_loaded_model(
    tiny_llava: Path, weights: Lora | FullFinetune | None, projector_lr: float | None
) -> None:
    training = replace(_training(weights), projector_lr=projector_lr) if weights else None
    sizes = vlm.read_sizes(str(tiny_llava), training)
    model = vlm.load_model(str(tiny_llava), "float32")
    assert sizes.weights == sum(parameter.numel() for parameter in model.parameters())
    if isinstance(weights, Lora):
        model = vlm.add_lora(model, weights, projector=projector_lr is not None)
    elif weights is not None:
        vlm.unfreeze_language_model(model, projector=projector_lr is not None)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert sizes.trained == (trained if weights else 0)
    assert sizes.block == sum(parameter.numel() for parameter in vlm.sharding_units(model)[0].parameters())


def test_sizes_need_no_weights(llava_7b: str) -> None:
    sizes = vlm.read_sizes(llava_7b, _training())
    assert sizes.weights == pytest.approx(7.06e9, rel=0.01)
    assert (sizes.layers, sizes.hidden, sizes.mlp, sizes.vocabulary) == (32, 4096, 11008, 32064)
    assert sizes.trained == 32 * 128 * (8 * 4096 + 3 * (4096 + 11008))


@pytest.mark.parametrize(("leg", "recompute"), [("ours", False), ("ours-recompute", True)])
def test_training_of_a_7b_model_holds_what_a_gpu_measured(llava_7b: str, leg: str, recompute: bool) -> None:
    """benchmarks/dpo.py --gpu: what four pairs a step added on an H100 to the loaded model with its adapters."""
    measured = json.loads(_MEASURED.read_text())["figures"]["576"][f"{leg} added_bytes"]
    execution = Execution(train_gpus=1.0, recompute_activations=recompute)
    held = training_memory("stage1", vlm.read_sizes(llava_7b, _training()), _work(_training(), execution), None)
    added = held.total - held.parts["weights"] - held.parts["images"]
    assert added == pytest.approx(measured, rel=0.2)


def test_training_that_does_not_fit_names_settings_that_make_it_fit(llava_7b: str) -> None:
    execution, training = Execution(train_gpus=1.0), _training()
    sizes = vlm.read_sizes(llava_7b, training)
    held = training_memory("stage1", sizes, _work(training, execution), 24 * _GIB)
    assert not held.fits
    assert "execution.recompute_activations=true" in held.remedies
    changed = replace(execution, recompute_activations=True)
    assert training_memory("stage1", sizes, _work(training, changed), 24 * _GIB).fits


def test_all_weights_of_a_7b_model_need_several_gpus(llava_7b: str) -> None:
    training = _training(FullFinetune(), batch=64)
    sizes = vlm.read_sizes(llava_7b, training)
    row = sample_row(4096, 608, 128)
    execution = Execution(train_gpus=1.0, recompute_activations=True)
    work = Work(row=row, items=64, dtype="bfloat16", execution=execution, training=training)
    alone = training_memory("stage2", sizes, work, 80 * _GIB)
    assert alone.total > 16 * sizes.trained  # weights, gradients and two moments in float32
    workers = next(remedy for remedy in alone.remedies if "num_train_workers" in remedy)
    number = int(workers.partition("=")[2].partition(" ")[0])
    together = replace(work, execution=replace(execution, num_train_workers=number), items=64 // number)
    assert training_memory("stage2", sizes, together, 80 * _GIB).fits
    half = replace(work, execution=replace(execution, num_train_workers=number // 2), items=128 // number)
    assert not training_memory("stage2", sizes, half, 80 * _GIB).fits


def test_four_bits_hold_a_fraction_of_the_weights(llava_7b: str) -> None:
    execution = Execution(train_gpus=1.0)
    plain = _training()
    low = replace(plain, weights=replace(_LORA, quantize=True), reference=AdapterOff())
    parts = [
        training_memory("", vlm.read_sizes(llava_7b, plain), _work(each, execution), None).parts["weights"]
        for each in (plain, low)
    ]
    assert parts[1] < 0.45 * parts[0]


def test_pairs_hold_the_keys_of_their_beginning_again() -> None:
    assert pair_row(2 * (600 + 200), 600, 100) == Row(tokens=1600, branch_keys=2800, scored=400, images=2)
    assert sample_row(1400, 600, 100) == Row(tokens=1400, branch_keys=0, scored=200, images=2)
    assert pair_row(100, 600, 100).images == 1  # a longer item has a row of its own


def test_vllm_gives_its_cache_what_weights_leave(llava_7b: str) -> None:
    sizes, asked = vlm.read_sizes(llava_7b), Asked(prompt=650, answer=150)
    held = vllm_memory("answers", sizes, asked, ("bfloat16", Vllm()), 80 * _GIB)
    assert held.fits and held.total == pytest.approx(0.9 * 80 * _GIB)
    token = 2 * 32 * 4096 * 2
    assert held.note == f"{min(256, held.parts['KV cache'] / token / 800):.0f} answers of 800 tokens at once"


def test_vllm_without_room_for_one_answer_says_what_would_give_it(llava_7b: str) -> None:
    sizes, asked = vlm.read_sizes(llava_7b), Asked(prompt=650, answer=150)
    tight = vllm_memory("answers", sizes, asked, ("bfloat16", Vllm()), 17 * _GIB)
    assert not tight.fits
    length, parallel = tight.remedies
    shorter = Vllm(max_model_len=int(length.partition("=")[2]))
    assert vllm_memory("answers", sizes, asked, ("bfloat16", shorter), 17 * _GIB).fits
    assert "tensor_parallel=2" in parallel
    assert vllm_memory("answers", sizes, asked, ("bfloat16", Vllm(tensor_parallel=2)), 17 * _GIB).fits
    none = vllm_memory("answers", sizes, asked, ("bfloat16", Vllm()), 8 * _GIB)
    assert [remedy.partition("=")[0] for remedy in none.remedies] == ["engine.tensor_parallel"]


def test_transformers_batch_that_does_not_fit_gets_smaller(llava_7b: str) -> None:
    sizes, asked = vlm.read_sizes(llava_7b), Asked(prompt=650, answer=150)
    held = transformers_memory("answers", sizes, asked, ("bfloat16", 64), 24 * _GIB)
    assert not held.fits
    batch = int(held.remedies[0].partition("=")[2])
    assert 0 < batch < 64
    assert transformers_memory("answers", sizes, asked, ("bfloat16", batch), 24 * _GIB).fits


def test_scores_grow_with_their_row(llava_7b: str) -> None:
    sizes = vlm.read_sizes(llava_7b)
    small, large = (scoring_memory("", sizes, sample_row(n, 608, 128), "bfloat16", None).total for n in (4096, 16384))
    assert large > small > 2 * sizes.weights


def test_nobody_knows_whether_it_fits_without_room() -> None:
    assert Held(what="", parts={"weights": 1e15}).fits


@pytest.mark.parametrize(
    ("engine", "served", "expected"), [(Vllm(), False, True), (Transformers(), True, False), (object(), True, True)]
)
def test_auto_is_vllm_where_the_model_is_served(engine: object, served: bool, expected: bool) -> None:
    assert is_vllm(engine, served) is expected
