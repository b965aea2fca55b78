"""Exported pairs train in an unchanged `trl.DPOTrainer`."""

from collections.abc import Callable
from pathlib import Path

import pytest

from stic_ray.artifacts import Artifact
from stic_ray.exchange.export import main
from stic_ray.records import Pair, Sample

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("images", ["embedded", "reference"])
def test_exported_pairs_train_one_step_in_trl(
    pairs: list[Pair],
    artifact_of: Callable[[list[Pair] | list[Sample]], Artifact],
    tiny_llava: Path,
    tmp_path: Path,
    images: str,
) -> None:
    import trl
    from datasets import load_dataset
    from transformers import AutoModelForImageTextToText, AutoProcessor

    out = tmp_path / "x.parquet"
    assert main([artifact_of(pairs).uri, "--format", "trl", "--out", str(out), "--images", images]) == 0
    data = load_dataset("parquet", data_files=str(out), split="train", cache_dir=str(tmp_path / "cache"))
    processor = AutoProcessor.from_pretrained(tiny_llava)
    processor.tokenizer.padding_side = "left"
    trainer = trl.DPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(tiny_llava),
        args=trl.DPOConfig(
            output_dir=str(tmp_path / "trained"),
            max_steps=1,
            per_device_train_batch_size=len(pairs),
            max_length=None,
            report_to=[],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            save_strategy="no",
            logging_steps=1,
        ),
        train_dataset=data,
        processing_class=processor,
    )
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    assert trainer.state.global_step == 1
    loss = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    assert loss == pytest.approx(0.6931, abs=1e-3)  # of a model that is its own reference: ln 2
    assert any(not before[name].equal(value) for name, value in trainer.model.named_parameters())
