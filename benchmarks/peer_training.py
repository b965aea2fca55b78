"""Steps of a training, ours and TRL's, on the same items and adapters: what the benchmarks `dpo` and `sft` measure."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from peer_setting import AHEAD, RATE, THREADS, Place, Steps, set_adapters
from stic_ray import vlm
from stic_ray.config import Execution, Lora, Loss, Training
from stic_ray.train import loop
from stic_ray.train.data import Item
from stic_ray.train.feed import encode_parts, read_ahead
from stic_ray.train.job import Job, PairData
from stic_ray.train.optimizer import rate_factor, set_rates


def train_ours(
    items: Sequence[Item], loss: Loss, folder: Path, *, place: Place, batch: int, execution: Execution
) -> dict[str, Any]:
    """Steps as the loop takes them."""
    torch.set_num_threads(THREADS)
    training = Training(
        loss=loss,
        weights=Lora(rank=place.rank, lora_alpha=2 * place.rank),
        lr=RATE,
        epochs=1,
        global_batch=batch,
        warmup_ratio=0.0,
        max_grad_norm=1e9,
    )
    job = Job(
        model_uri=str(folder / "model"),
        dtype=place.dtype,
        training=training,
        data=PairData(parts=()),
        seed=0,
        output="",
        execution=execution,
    )
    scorer = vlm.AnswerScorer(loop.trainable(job.model_uri, job, quantize=False).to(place.device))
    set_adapters(scorer)
    if execution.recompute_activations:
        loop.recompute_activations(scorer)
    trainer = loop.Trainer(job, scorer, loop.Workers(rank=0, world=1), lambda: False)
    encode = partial(encode_parts, processor=vlm.load_processor(job.model_uri), job=job)
    total = len(items) // batch
    measured, waits = Steps(place), list[float]()
    measured.mark()
    for made in read_ahead(lambda step: items[step * batch : (step + 1) * batch], range(total), encode=encode):
        set_rates(trainer.optimizer, rate_factor(training.schedule, trainer.step, total, 0.0))
        trainer.log.append(trainer.take_step(made, ids=[item.id for part in made.parts for item in part.items]))
        waits.append(made.waited_s)
        measured.mark()
    figures = measured.figures()
    share = median(waits[1:-AHEAD]) / figures["wall_s"]
    return {**figures, "data_wait_share": share, "losses": [line["loss"] for line in trainer.log]}


def train_with_trl(
    kind: str,
    rows: Sequence[dict[str, Any]],
    folder: Path,
    *,
    place: Place,
    settings: dict[str, Any],
    change_batch: Callable[[Any], Any] = lambda batch: batch,
) -> dict[str, Any]:
    """Steps of TRL's "DPO" or "SFT" trainer as it is; only the order of the rows and the first adapters are fixed.

    `settings` go to its configuration; `change_batch` sees what its collator makes.
    """
    os.environ["TQDM_DISABLE"] = "1"
    import trl
    from datasets import Dataset, Image
    from datasets import Sequence as Column
    from peft import LoraConfig
    from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback

    torch.set_num_threads(THREADS)

    class Measure(TrainerCallback):  # type: ignore[misc]
        """Steps and losses."""

        def on_train_begin(self, *arguments: Any, **keywords: Any) -> None:
            self.steps, self.losses = Steps(place), list[float]()
            self.steps.mark()

        def on_step_end(self, *arguments: Any, **keywords: Any) -> None:
            self.steps.mark()

        def on_log(self, arguments: Any, state: Any, control: Any, logs: Any = None, **keywords: Any) -> None:
            self.losses += [logs["loss"]] if "loss" in logs else []

    class InOrder(getattr(trl, f"{kind}Trainer")):  # type: ignore[misc]
        """Rows in their order."""

        def _get_train_sampler(self, *arguments: Any, **keywords: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    measure = Measure()
    trainer = InOrder(
        model=AutoModelForImageTextToText.from_pretrained(folder / "model", dtype=getattr(torch, place.dtype)),
        args=getattr(trl, f"{kind}Config")(
            output_dir=str(folder / "trl"),
            max_steps=len(rows) // settings["per_device_train_batch_size"],
            learning_rate=RATE,
            lr_scheduler_type="cosine",
            warmup_steps=0,
            max_grad_norm=0.0,
            weight_decay=0.0,
            bf16=place.dtype == "bfloat16",
            use_cpu=place.device == "cpu",
            max_length=None,
            logging_steps=1,
            report_to=[],
            save_strategy="no",
            remove_unused_columns=False,
            disable_tqdm=True,
            dataloader_pin_memory=False,
            **settings,
        ),
        train_dataset=Dataset.from_list(list(rows)).cast_column("images", Column(Image())),
        processing_class=AutoProcessor.from_pretrained(folder / "model"),
        peft_config=LoraConfig(
            r=place.rank,
            lora_alpha=2 * place.rank,
            lora_dropout=0.0,
            target_modules=r".*language_model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj",
        ),
        callbacks=[measure],
    )
    collate = trainer.data_collator
    trainer.data_collator = lambda examples: change_batch(collate(examples))
    set_adapters(trainer.model)
    trainer.train()
    return {**measure.steps.figures(), "losses": measure.losses}
