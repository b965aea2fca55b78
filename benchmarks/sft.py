"""Bars of fine-tuning on selected tokens: side by side with TRL's SFTTrainer on the same samples and tokens.

As in the benchmark `dpo`: every leg a process of its own on all cores with the same allocator settings, whole steps,
the same adapters and losses. 30% of the answer tokens are trained; the others stay in the forward pass.
"""

import argparse
import json
import logging
import os
import random
import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from dpo import run_leg
from harness import Bar, write_results

LEGS = ("ours", "trl")
SHAPE, BATCH, STEPS = "576", 4, 5  # the first step warms up
SHARE = 0.3


def used_tokens(number: int, count: int) -> list[bool]:
    """Which of a sample's answer tokens are trained."""
    draw = random.Random(number)
    return [draw.random() < SHARE for _ in range(count)]


def run_ours(folder: Path) -> dict[str, Any]:
    """Steps as the loop takes them."""
    import torch

    from peer_setting import ANSWER, RANK, RATE, SHAPES, THREADS, Steps, make_talks, set_adapters
    from stic_ray import vlm
    from stic_ray.config import Execution, Lora, SftLoss, Training
    from stic_ray.train import loop
    from stic_ray.train.data import Item, known
    from stic_ray.train.feed import encode_parts, read_ahead
    from stic_ray.train.job import Job, SampleData
    from stic_ray.train.optimizer import rate_factor, set_rates

    torch.set_num_threads(THREADS)
    shape = SHAPES[SHAPE]
    talks = make_talks(shape, folder / "images", BATCH * STEPS)
    items = [
        Item(
            id=talk.image.name,
            image_uri=str(talk.image),
            conversations=(talk.turns(talk.chosen),),
            known=(known(used=used_tokens(number, ANSWER)),),
        )
        for number, talk in enumerate(talks)
    ]
    job = Job(
        model_uri=str(folder / "model"),
        dtype="float32",
        training=Training(
            loss=SftLoss(),
            weights=Lora(rank=RANK, lora_alpha=2 * RANK),
            lr=RATE,
            epochs=1,
            global_batch=BATCH,
            warmup_ratio=0.0,
            max_grad_norm=1e9,
        ),
        data=SampleData(samples="", infused=""),
        seed=0,
        output="",
        execution=Execution(row_tokens=BATCH * (shape.image_tokens + 32 + ANSWER)),
    )
    scorer = vlm.AnswerScorer(loop.trainable(job.model_uri, job, quantize=False))
    set_adapters(scorer)
    trainer = loop.Trainer(job, scorer, loop.Workers(rank=0, world=1), lambda: False)
    processor = vlm.load_processor(job.model_uri)
    encode = partial(encode_parts, processor=processor, job=job)
    measured = Steps()
    measured.mark()
    for batch in read_ahead(lambda step: items[step * BATCH : (step + 1) * BATCH], range(STEPS), encode=encode):
        set_rates(trainer.optimizer, rate_factor(job.training.schedule, trainer.step, STEPS, 0.0))
        trainer.log.append(trainer.take_step(batch, ids=[item.id for part in batch.parts for item in part.items]))
        measured.mark()
    return {**measured.figures(), "losses": [line["loss"] for line in trainer.log]}


def run_trl(folder: Path) -> dict[str, Any]:
    """TRL's trainer as it is, but that its collator leaves out the labels of the tokens that are not trained."""
    os.environ["TQDM_DISABLE"] = "1"
    import torch
    import trl
    from datasets import Dataset, Image, Sequence
    from peft import LoraConfig
    from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback

    from peer_setting import RANK, RATE, SHAPES, THREADS, Steps, make_talks, set_adapters

    torch.set_num_threads(THREADS)
    talks = make_talks(SHAPES[SHAPE], folder / "images", BATCH * STEPS)
    data = Dataset.from_list(
        [
            {
                "images": [str(talk.image)],
                "prompt": [{"role": "user", "content": talk.prompt}],
                "completion": [{"role": "assistant", "content": talk.chosen}],
            }
            for talk in talks
        ]
    )
    data = data.cast_column("images", Sequence(Image()))

    class Measure(TrainerCallback):  # type: ignore[misc]
        """Steps and losses."""

        def on_train_begin(self, *arguments: Any, **keywords: Any) -> None:
            self.steps, self.losses = Steps(), list[float]()
            self.steps.mark()

        def on_step_end(self, *arguments: Any, **keywords: Any) -> None:
            self.steps.mark()

        def on_log(self, arguments: Any, state: Any, control: Any, logs: Any = None, **keywords: Any) -> None:
            self.losses += [logs["loss"]] if "loss" in logs else []

    class InOrder(trl.SFTTrainer):  # type: ignore[misc]
        """Samples in their order."""

        def _get_train_sampler(self, *arguments: Any, **keywords: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    measure = Measure()
    trainer = InOrder(
        model=AutoModelForImageTextToText.from_pretrained(folder / "model", dtype=torch.float32),
        args=trl.SFTConfig(
            output_dir=str(folder / "trl"),
            per_device_train_batch_size=BATCH,
            max_steps=STEPS,
            learning_rate=RATE,
            lr_scheduler_type="cosine",
            warmup_steps=0,
            max_grad_norm=0.0,
            weight_decay=0.0,
            adam_beta2=0.98,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            max_length=None,
            logging_steps=1,
            report_to=[],
            save_strategy="no",
            remove_unused_columns=False,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=data,
        processing_class=AutoProcessor.from_pretrained(folder / "model"),
        peft_config=LoraConfig(
            r=RANK,
            lora_alpha=2 * RANK,
            lora_dropout=0.0,
            target_modules=r".*language_model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj",
        ),
        callbacks=[measure],
    )
    collate = trainer.data_collator
    seen = 0

    def masked(examples: list[Any]) -> Any:
        nonlocal seen
        batch = collate(examples)
        for row in batch["labels"]:
            places = (row != -100).nonzero()[:, 0]
            used = torch.tensor(used_tokens(seen, len(places)))
            row[places[~used]] = -100
            seen += 1
        return batch

    trainer.data_collator = masked
    set_adapters(trainer.model)
    trainer.train()
    return {**measure.steps.figures(), "losses": measure.losses}


def main() -> int:
    """Run all legs; exit status 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--leg", nargs=3, metavar=("NAME", "SHAPE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if arguments.leg:
        name, _, folder = arguments.leg
        print(json.dumps({"ours": run_ours, "trl": run_trl}[name](Path(folder))))
        return 0
    from peer_setting import SHAPES, save_model

    with tempfile.TemporaryDirectory() as work:
        save_model(SHAPES[SHAPE], Path(work) / "model")
        rounds = []
        for _ in range(arguments.repeats):
            rounds.append({leg: run_leg(__file__, leg, SHAPE, Path(work)) for leg in LEGS})
    figures: dict[str, Any] = {}
    for leg in LEGS:
        for what in ("cpu_s", "added_bytes"):
            figures[f"{leg} {what}"] = median(r[leg][what] for r in rounds)
    figures["samples/s, ours/trl"] = [r["trl"]["cpu_s"] / r["ours"]["cpu_s"] for r in rounds]
    figures["added memory, ours/trl"] = [r["ours"]["added_bytes"] / r["trl"]["added_bytes"] for r in rounds]
    losses = zip(rounds[0]["ours"]["losses"], rounds[0]["trl"]["losses"], strict=True)
    figures["largest difference of a loss"] = max(abs(a - b) for a, b in losses)
    bars = [
        Bar("ours/trl, samples/s", median(figures["samples/s, ours/trl"]), 1.2, "min"),
        Bar("largest difference of a loss", figures["largest difference of a loss"], 1e-4, "max"),
    ]
    return write_results("sft", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
