"""The loop that runs on every training worker.

Legend: P = pairs or samples of a micro-batch. Losses are shares of the global batch's loss, so that neither the
micro-batch nor the number of workers changes the gradient.
"""

import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from ray.train import Checkpoint
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)

from stic_ray import losses, storage, vlm
from stic_ray.config import DpoLoss, Lora, Training
from stic_ray.losses import Counts
from stic_ray.records import make_seed
from stic_ray.train.data import Item, batch_indices, num_steps, read_items, references_of, sequences_by_role
from stic_ray.train.job import ADAPTER, MERGED, METRICS, PROGRESS, Job

_PROGRESS_EVERY_S = 2.0


def train(job: Job) -> None:
    """Train, checkpoint, and on rank 0 export; resumes from the newest checkpoint that Ray Train hands over."""
    torch.set_num_threads(job.num_threads)
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    path = storage.local_copy(job.model_uri)
    processor = vlm.load_processor(path)
    items = read_items(job.data)
    if not items:
        raise ValueError(f"{job.data}: nothing to train on")
    model = _trainable(path, job)
    device = ray.train.torch.get_device()
    scorer = vlm.AnswerScorer(model.to(device))
    _shard(scorer, world, device)
    optimizer = _optimizer(scorer, job.training)
    state = _Trainer(scorer, optimizer)
    state.restore()
    total = job.training.steps or num_steps(
        len(items), epochs=job.training.epochs, global_batch=job.training.global_batch
    )
    written_at = 0.0
    for step in range(state.step, total):
        started = time.perf_counter()
        lr_factor = schedule(step, total, job.training.warmup_ratio)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * lr_factor
        chosen = batch_indices(step, num_items=len(items), global_batch=job.training.global_batch, seed=job.seed)
        metrics = _step(state, processor, [items[i] for i in chosen[rank::world]], job, world)
        seconds = time.perf_counter() - started
        lr = job.training.lr * lr_factor
        state.log.append({"step": step + 1, **metrics, "lr": lr, "samples_per_s": len(chosen) / seconds})
        state.step = step + 1
        if rank == 0 and time.monotonic() - written_at > _PROGRESS_EVERY_S:
            written_at = time.monotonic()
            _write_progress(job.output, state.step, total, metrics["loss"])
        if state.step % job.checkpoint_every == 0 or state.step == total:
            state.save(rank)
    _export(state, processor, path, job, rank)


def schedule(step: int, total: int, warmup_ratio: float) -> float:
    """The factor on the learning rate of a step (0-based): linear warm-up, then a cosine down to 0 after the last."""
    warmup = math.ceil(total * warmup_ratio)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def _trainable(path: str, job: Job) -> Any:
    """The model with what trains set to require gradients; adapters are initialised from the seed."""
    torch.manual_seed(make_seed(job.seed, "adapter") % 2**32)
    model = vlm.load_model(path, job.dtype)
    weights = job.training.weights
    projector = job.training.projector_lr is not None
    if isinstance(weights, Lora):
        model = vlm.add_lora(model, rank=weights.rank, lora_alpha=weights.lora_alpha, projector=projector)
    else:
        vlm.unfreeze_language_model(model, projector=projector)
    return vlm.trained_in_float32(model).train()


def _shard(scorer: vlm.AnswerScorer, world: int, device: torch.device) -> None:
    """FSDP2 by block over all workers; one worker needs none."""
    if world == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (world,))
    for unit in vlm.sharding_units(scorer.model):
        fully_shard(unit, mesh=mesh)
    fully_shard(scorer, mesh=mesh)


def _optimizer(scorer: nn.Module, training: Training) -> torch.optim.Optimizer:
    projector = {id(p) for p in vlm.projector_parameters(scorer.model)}
    trained = [p for p in scorer.parameters() if p.requires_grad]
    groups = [{"params": [p for p in trained if id(p) not in projector], "lr": training.lr}]
    if training.projector_lr is not None:
        groups.append({"params": [p for p in trained if id(p) in projector], "lr": training.projector_lr})
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=training.weight_decay)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def _step(state: "_Trainer", processor: Any, items: list[Item], job: Job, world: int) -> dict[str, float]:
    """One optimiser step on this worker's share of the global batch; metrics are the global batch's."""
    encoded = [item.encode(processor) for item in items]
    _refuse_too_long(items, encoded, job.training.max_length)
    num_tokens = _sum_over_workers(torch.tensor(float(sum(e[0].num_trained for e in encoded))), world)
    counts = Counts(num_items=job.training.global_batch, num_tokens=int(num_tokens.item()))
    sums: dict[str, Tensor] = {}
    for start in range(0, len(items), job.micro_batch):
        part = slice(start, start + job.micro_batch)
        loss, metrics = _loss(state.scorer, processor, items[part], encoded[part], job, counts)
        (loss * world).backward()  # FSDP averages over workers; the loss is already a share of the global batch
        for name, value in {"loss": loss.detach(), **metrics}.items():
            sums[name] = sums.get(name, torch.zeros(())) + value.cpu()
    parameters = [p for p in state.scorer.parameters() if p.requires_grad]
    norm = nn.utils.clip_grad_norm_(parameters, job.training.max_grad_norm)
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    values = {name: _sum_over_workers(value, world).item() for name, value in sums.items()}
    if not math.isfinite(values["loss"]) or not math.isfinite(norm.item()):
        ids = ", ".join(item.id for item in items[:4])
        raise ValueError(
            f"loss or gradient is not finite at step {state.step + 1} (ids {ids}, ...): lower the learning rate"
        )
    state.optimizer.step()
    state.optimizer.zero_grad()
    return {**values, "grad_norm": norm.item(), "num_tokens": float(counts.num_tokens)}


def _refuse_too_long(items: list[Item], encoded: list[list[vlm.Example]], limit: int) -> None:
    for item, examples in zip(items, encoded, strict=True):
        longest = max(len(example.input_ids) for example in examples)
        if longest > limit:
            raise ValueError(f"{item.id} has {longest} tokens, more than max_length {limit}: nothing is ever truncated")


def _loss(
    scorer: nn.Module, processor: Any, items: list[Item], encoded: list[list[vlm.Example]], job: Job, counts: Counts
) -> tuple[Tensor, dict[str, Tensor]]:
    device = next(scorer.parameters()).device
    batch = vlm.collate(processor, sequences_by_role(encoded))
    logp = scorer({name: value.to(device) for name, value in batch.items()}).sum(dim=1)
    if isinstance(job.training.loss, DpoLoss):
        chosen_logp_P, rejected_logp_P = logp.chunk(2)
        reference_P2 = references_of(items).to(device)
        weight_P = torch.tensor([item.weight for item in items], device=device)
        answers = losses.PairLogp(chosen_P=chosen_logp_P, rejected_P=rejected_logp_P, reference_P2=reference_P2)
        return losses.dpo(job.training.loss, answers, weight_P, counts)
    return losses.sft(logp, counts)


def _sum_over_workers(value: Tensor, world: int) -> Tensor:
    if world > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value


def _write_progress(output: str, step: int, total: int, loss: float) -> None:
    storage.write_bytes(
        storage.join(output, PROGRESS), json.dumps({"step": step, "total": total, "loss": loss}).encode()
    )


class _Trainer:
    """What a checkpoint holds: trained weights, optimiser state, the step and every step's metrics."""

    def __init__(self, scorer: vlm.AnswerScorer, optimizer: torch.optim.Optimizer) -> None:
        self.scorer = scorer
        self.optimizer = optimizer
        self.step = 0
        self.log: list[dict[str, float]] = []

    def restore(self) -> None:
        """Continue from Ray Train's newest checkpoint, if there is one."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return
        options = StateDictOptions(ignore_frozen_params=True, strict=False)
        with checkpoint.as_directory() as directory:
            model, optimizer = get_state_dict(self.scorer, self.optimizer, options=options)
            state: dict[str, Any] = {"model": model, "optimizer": optimizer}
            dcp.load(state, checkpoint_id=directory)
            set_state_dict(
                self.scorer,
                self.optimizer,
                model_state_dict=state["model"],
                optim_state_dict=state["optimizer"],
                options=options,
            )
            self.log = [json.loads(line) for line in (Path(directory) / METRICS).read_text().splitlines()]
        self.step = len(self.log)

    def save(self, rank: int) -> None:
        """Write a checkpoint and hand it to Ray Train; every worker writes its own shards."""
        options = StateDictOptions(ignore_frozen_params=True)
        model, optimizer = get_state_dict(self.scorer, self.optimizer, options=options)
        with tempfile.TemporaryDirectory() as directory:
            dcp.save({"model": model, "optimizer": optimizer}, checkpoint_id=directory)
            if rank == 0:
                (Path(directory) / METRICS).write_text(self.metrics_text())
            ray.train.report(
                {"step": self.step},
                checkpoint=Checkpoint.from_directory(directory),
                checkpoint_dir_name=f"step-{self.step:08d}",
            )

    def metrics_text(self) -> str:
        """Every step's metrics as JSON lines."""
        return "".join(json.dumps(line) + "\n" for line in self.log)


def _export(state: _Trainer, processor: Any, path: str, job: Job, rank: int) -> None:
    """Gather the trained weights and, on rank 0, write adapter (where there is one), merged model and metrics."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    weights = get_model_state_dict(state.scorer, options=options)
    if rank != 0:
        return
    model = _trainable(path, job)
    scorer = vlm.AnswerScorer(model)
    trained = {name for name, parameter in scorer.named_parameters() if parameter.requires_grad}
    unknown = scorer.load_state_dict(weights, strict=False).unexpected_keys
    if unknown or not trained <= weights.keys():
        raise RuntimeError(f"trained weights would be lost: {unknown or sorted(trained - weights.keys())}")
    model.eval()
    with tempfile.TemporaryDirectory() as directory:
        if isinstance(job.training.weights, Lora):
            for adapter in model.peft_config.values():
                adapter.base_model_name_or_path = job.model_uri  # not the copy that this worker loaded
            model.save_pretrained(str(Path(directory) / ADAPTER))
            model = model.merge_and_unload()
        model = model.to(vlm.DTYPES[job.dtype])
        vlm.save_checkpoint(model, processor, str(Path(directory) / MERGED))
        (Path(directory) / METRICS).write_text(state.metrics_text())
        storage.upload_directory(directory, job.output)
