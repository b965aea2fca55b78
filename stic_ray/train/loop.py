"""The loop that runs on every training worker.

Legend: P = pairs or samples of a row, C = conversations of each, N = answer tokens of a row. Losses are shares of the
global batch's loss, so that neither the rows nor the number of workers change the gradient.
"""

import json
import math
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn

from stic_ray import losses, storage, vlm
from stic_ray.config import AdapterOff, Lora, needs_reference
from stic_ray.losses import Counts, PairLogp
from stic_ray.records import make_seed
from stic_ray.train import checkpoints
from stic_ray.train.data import Item, batch_indices, num_steps, read_items, split_items
from stic_ray.train.export import export
from stic_ray.train.feed import Batch, Part, encode_parts, read_ahead
from stic_ray.train.job import ATTEMPTS, CHECKPOINTS, NOT_FINITE, Job
from stic_ray.train.optimizer import make_optimizer, rate_factor, set_rates
from stic_ray.train.throughput import Meter, peak_memory_bytes
from stic_ray.train.trackers import Trackers

_MEASURED_AT_ONCE = 64  # held-out items, whose images are in memory together
_DESTROYED = 2  # steps at the end that were left out: one may be an item's fault
_ASK_EVERY_S = 2.0  # whether a node is about to go


def train(job: Job) -> None:
    """Train, checkpoint, and on rank 0 export; goes on from the newest whole checkpoint."""
    torch.set_num_threads(max(1, int(job.execution.train_cpus)))
    context = ray.train.get_context()
    workers = Workers(rank=context.get_world_rank(), world=context.get_world_size())
    path = storage.local_copy(job.model_uri)
    processor = vlm.load_processor(path)
    items, held_out = _read(job)
    items[0].encode(processor)  # before any weight is loaded: references may be of another template's tokens
    device = ray.train.torch.get_device()
    training = job.training
    quantize = isinstance(training.weights, Lora) and training.weights.quantize
    scorer = vlm.AnswerScorer(trainable(path, job, quantize=quantize).to(device))
    if job.execution.recompute_activations:
        recompute_activations(scorer)
    meter = Meter(scorer, device, workers.world)
    shard(scorer, workers.world, device)
    trainer = Trainer(job, scorer, workers, PreemptionNotices())
    trainer.resume()
    total = training.steps or num_steps(len(items), epochs=training.epochs, global_batch=training.global_batch)
    choose, encode = partial(_batch, items, job), partial(encode_parts, processor=processor, job=job)
    trackers = Trackers(job, trainer.step, total, is_heard=workers.rank == 0)
    for batch in read_ahead(lambda step: _mine(choose(step), workers), range(trainer.step, total), encode=encode):
        started = time.perf_counter()
        factor = rate_factor(training.schedule, trainer.step, total, training.warmup_ratio)
        set_rates(trainer.optimizer, factor)
        metrics = trainer.take_step(batch, ids=[item.id for item in choose(trainer.step)])
        seconds = time.perf_counter() - started + batch.waited_s
        trainer.log.append(
            {
                "step": trainer.step + 1,
                **metrics,
                "lr": training.lr * factor,
                **meter.speeds(metrics["row_tokens"], training.global_batch, seconds),
                "data_wait_share": batch.waited_s / seconds,
                "peak_memory_gb": peak_memory_bytes(device) / 1e9,
            }
        )
        is_last, validation = trainer.step == total, training.validation
        measures = validation is not None and (is_last or trainer.step % validation.every == 0)
        if measures:
            trainer.log[-1] |= trainer.measure(held_out, lambda chunk: encode(_mine(chunk, workers)))
        trackers.log(trainer.step, trainer.log[-1])
        if measures or is_last or trainer.is_preempted or trainer.step % job.execution.checkpoint_every == 0:
            trainer.save()
    trainer.close()
    trackers.close()
    start = partial(trainable, path, job, quantize=False)
    exported = trainer.log[trainer.exported_step - 1]
    export(job, trainer.scorer, trainer.metrics_text(), exported, processor=processor, start=start, rank=workers.rank)


def _read(job: Job) -> tuple[list[Item], list[Item]]:
    """What is trained on, and what is held out."""
    items = read_items(job.data)
    if not items:
        raise ValueError(f"{job.data}: nothing to train on")
    validation = job.training.validation
    if validation is None:
        return items, []
    items, held_out = split_items(items, validation.share)
    if not held_out:
        raise ValueError("validation holds images out, and there is one only: set it to null, or give more")
    return items, held_out


def _batch(items: list[Item], job: Job, step: int) -> list[Item]:
    """A step's global batch."""
    batch = job.training.global_batch
    return [items[i] for i in batch_indices(step, num_items=len(items), global_batch=batch, seed=job.seed)]


def _mine(items: Sequence[Item], workers: "Workers") -> Sequence[Item]:
    """A worker's part; one that counts for nothing where there are more workers than items."""
    return items[workers.rank :: workers.world] or items[:1]


def trainable(path: str, job: Job, *, quantize: bool) -> Any:
    """The model with what trains set to require gradients; adapters are initialised from the seed."""
    torch.manual_seed(make_seed(job.seed, "adapter") % 2**32)
    weights = job.training.weights
    model = vlm.load_model(path, job.dtype, quantize=quantize)
    projector = job.training.projector_lr is not None
    if isinstance(weights, Lora):
        model = vlm.add_lora(model, weights, projector=projector)
    else:
        vlm.unfreeze_language_model(model, projector=projector, frozen=weights.frozen)
    return vlm.trained_in_float32(model).train()


def recompute_activations(scorer: vlm.AnswerScorer) -> None:
    """Let the blocks make their activations again in the backward pass instead of holding them."""
    scorer.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def shard(scorer: vlm.AnswerScorer, world: int, device: torch.device) -> None:
    """FSDP2 by block over all workers; one worker needs none."""
    if world == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (world,))
    for unit in vlm.sharding_units(scorer.model):
        fully_shard(unit, mesh=mesh)
    fully_shard(scorer, mesh=mesh)


@dataclass(frozen=True, kw_only=True)
class Workers:
    """This worker among all."""

    rank: int
    world: int

    def gather(self, values: list[float]) -> Tensor:
        """Every worker's numbers, float64 [workers, values]."""
        mine = torch.tensor(values, dtype=torch.float64)
        if self.world == 1:
            return mine[None]
        found = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(found, mine)
        return torch.stack(found)

    def agree(self, value: Any) -> Any:
        """Rank 0's value, on all."""
        held = [value]
        if self.world > 1:
            dist.broadcast_object_list(held)
        return held[0]


class PreemptionNotices:
    """Whether a node of the training has just been told to go, as a spot instance is before it ends."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def __call__(self) -> bool:
        """Whether there is a notice that was not there before; all workers ask at once."""
        notice = ray.train.get_preemption_info()
        if notice is None or str(notice) in self._known:
            return False
        self._known.add(str(notice))
        return True


class Trainer:
    """What a checkpoint holds: trained weights, optimizer state, the step and every step's metrics."""

    def __init__(
        self, job: Job, scorer: vlm.AnswerScorer, workers: Workers, has_new_notice: Callable[[], bool]
    ) -> None:
        self.scorer = scorer
        self.optimizer = make_optimizer(scorer, job.training)
        self.log: list[dict[str, float]] = []
        self.is_preempted = False
        self.exported_step = 0
        self._job = job
        self._workers = workers
        self._home = storage.join(job.output, CHECKPOINTS)
        self._writer: checkpoints.Writer | None = None
        self._has_new_notice = has_new_notice
        self._asked_at = 0.0
        self._measured: tuple[Counts, list[int], dict[str, float]] | None = None

    @property
    def step(self) -> int:
        """Steps taken."""
        return len(self.log)

    def resume(self) -> None:
        """Go on from the newest checkpoint, if there is a whole one; what is half-written is removed."""
        found = None
        if self._workers.rank == 0:
            checkpoints.sweep(self._home)
            found = checkpoints.find_newest(self._home)
        found, token = self._workers.agree((found, secrets.token_hex(4)))
        checkpoints.start_moments(self.scorer, self.optimizer)
        if found is not None:
            self.log = checkpoints.load(found, self.scorer, self.optimizer)
            if len(self.log) != found.step:
                raise RuntimeError(f"{found.uri} is of step {found.step} and has metrics of {len(self.log)}")
        if self._workers.rank == 0:
            self._note_attempt()
        self._writer = checkpoints.Writer(
            self._home,
            rank=self._workers.rank,
            world=self._workers.world,
            token=token,
            keep=self._job.execution.keep_checkpoints,
        )

    def _note_attempt(self) -> None:
        """Where this attempt goes on, and with how many workers, beside those before."""
        uri = storage.join(self._job.output, ATTEMPTS)
        before = storage.read_bytes(uri) if storage.exists(uri) else b""
        line = json.dumps({"step": self.step, "workers": self._workers.world, "at": round(time.time(), 1)})
        storage.write_bytes(uri, before + line.encode() + b"\n")

    def save(self) -> None:
        """Write a checkpoint; until it is committed where the job waits for that, or the node is about to go."""
        assert self._writer is not None
        measured = self.log[-1].get("validation_loss")
        score = measured if measured is not None and math.isfinite(measured) else None
        header = checkpoints.Header(step=self.step, metrics=self.metrics_text(), score=score)
        self._writer.save(header, self.scorer, self.optimizer)
        if self._job.execution.wait_for_checkpoints or self.is_preempted:
            self._writer.wait()
            self._workers.gather([0.0])  # rank 0 has written the record
        self.is_preempted = False
        ray.train.report({"step": self.step, "loss": self.log[-1]["loss"]})

    def close(self) -> None:
        """Until all is written; where items were held out, the state is then the best one on them.

        Raises:
            ValueError: the last steps, or all, were not finite: the model is destroyed.
        """
        assert self._writer is not None
        self._writer.close()
        if len(self.log) >= _DESTROYED and all(line["skipped"] for line in self.log[-_DESTROYED:]):
            raise ValueError(
                f"the last {_DESTROYED} steps were not finite, so the model is destroyed and not delivered (their ids "
                f"are in {storage.join(self._job.output, NOT_FINITE)}): lower the learning rate"
            )
        self._workers.gather([0.0])  # rank 0 has written the records
        self.exported_step = self.step
        if self._job.training.validation is not None:
            best = self._workers.agree(checkpoints.find_best(self._home) if self._workers.rank == 0 else None)
            if best is not None and best.step != self.step:
                log, self.log = self.log, checkpoints.load(best, self.scorer, self.optimizer)
                self.log = log  # of all steps, whichever model is kept
                self.exported_step = best.step

    def metrics_text(self) -> str:
        """Every step's metrics as JSON lines."""
        return checkpoints.write_metrics(self.log)

    def take_step(self, batch: Batch, *, ids: list[str]) -> dict[str, float]:
        """One optimizer step on this worker's share of the global batch; metrics are the global batch's.

        Raises:
            ValueError: loss or gradient are not finite, and no more steps may be skipped.
        """
        counts, num_rows, sizes = self._count(batch.parts, len(ids))
        sums: dict[str, Tensor] = {}
        for number, (part, share) in enumerate(self._padded(batch.parts, num_rows, ids)):
            torch.manual_seed(make_seed(self._job.seed, "dropout", self.step, self._workers.rank, number) % 2**32)
            loss, metrics = self._loss(part, counts, sizes)
            (loss * share * self._workers.world).backward()  # FSDP averages; the loss is a share of the batch's already
            _add(sums, {"loss": loss.detach(), **metrics}, share)
        return self._update(sums, sizes, ids)

    @torch.no_grad()
    def measure(self, items: Sequence[Item], encode: Callable[[Sequence[Item]], Sequence[Part]]) -> dict[str, float]:
        """Loss and metrics of items that are not trained on, some at a time; `encode` gives this worker's share."""
        chunks = [items[start : start + _MEASURED_AT_ONCE] for start in range(0, len(items), _MEASURED_AT_ONCE)]
        if self._measured is None:  # all counts, which are the same each time, before the first loss
            found = [self._count(encode(chunk), len(chunk)) for chunk in chunks]
            sizes = {name: sum(sizes[name] for _, _, sizes in found) for name in found[0][2]}
            counts = Counts(num_items=len(items), num_tokens=sum(each.num_tokens for each, _, _ in found))
            self._measured = counts, [num_rows for _, num_rows, _ in found], sizes
        counts, rows, sizes = self._measured
        sums: dict[str, Tensor] = {}
        self.scorer.eval()
        for chunk, num_rows in zip(chunks, rows, strict=True):
            for part, share in self._padded(encode(chunk), num_rows, [item.id for item in chunk]):
                loss, metrics = self._loss(part, counts, sizes)
                _add(sums, {"loss": loss, **metrics}, share)
        self.scorer.train()
        return {f"validation_{name}": value for name, value in self._summed(sums).items()}

    def _padded(self, parts: Sequence[Part], num_rows: int, ids: list[str]) -> Iterator[tuple[Part, float]]:
        """This worker's rows and how they count: sharded workers go through the same number of rows, so that one that
        has fewer repeats a row for nothing."""
        for number in range(num_rows):
            counts = number < len(parts) and self._has_items(ids)
            yield parts[min(number, len(parts) - 1)], 1.0 if counts else 0.0

    def _has_items(self, ids: list[str]) -> bool:
        return self._workers.rank < len(ids)

    def _count(self, parts: Sequence[Part], num_items: int) -> tuple[Counts, int, dict[str, float]]:
        """The global batch's counts, how many rows a worker goes through, and token counts."""
        mine = [0.0, 0.0, 0.0]
        if self._workers.rank < num_items:
            chosen = sum(sum(part.row.num_tokens[:: part.num_conversations]) for part in parts)
            answers = sum(sum(part.row.num_tokens) for part in parts)
            mine = [chosen, answers, sum(part.row.input_ids.numel() for part in parts)]
        asks = self._workers.rank == 0 and time.monotonic() - self._asked_at > _ASK_EVERY_S
        found = self._workers.gather([*mine, len(parts), float(asks)])
        if found[:, 4].any():
            self._asked_at = time.monotonic()
            self.is_preempted |= self._has_new_notice()
        chosen, answers, tokens = found[:, :3].sum(dim=0).tolist()
        counts = Counts(num_items=num_items, num_tokens=int(chosen))
        return counts, int(found[:, 3].max()), {"num_tokens": chosen, "answer_tokens": answers, "row_tokens": tokens}

    def _loss(self, part: Part, counts: Counts, sizes: dict[str, float]) -> tuple[Tensor, dict[str, Tensor]]:
        device = next(self.scorer.parameters()).device
        row = part.row.to(device)
        logp_N = self.scorer(row)
        sums_PC = row.sums(logp_N).view(-1, part.num_conversations)
        if part.num_conversations == 1:
            return losses.sft(sums_PC[:, 0], counts)
        loss = self._job.training.loss
        reference_PC = torch.zeros_like(sums_PC)
        metrics = {}
        if needs_reference(loss):
            reference_N = self._reference(part, row)
            reference_PC = row.sums(reference_N).view_as(sums_PC)
            metrics["kl"] = _kl(logp_N.detach(), reference_N).sum() / sizes["answer_tokens"]
        hidden = torch.stack([sums_PC[:, 2], reference_PC[:, 2]], dim=1) if part.num_conversations == 3 else None
        lengths_PC = torch.tensor(row.num_tokens, device=device).view_as(sums_PC)
        logp = PairLogp(
            policy=sums_PC[:, :2],
            reference=reference_PC[:, :2],
            num_tokens=lengths_PC[:, :2],
            weight=torch.tensor([item.weight for item in part.items], device=device),
            hidden=hidden,
        )
        total, found = losses.preference(loss, logp, counts)
        return total, {**found, **metrics}

    def _reference(self, part: Part, row: vlm.Row) -> Tensor:
        """The reference's log-probability of each answer token [N]."""
        if isinstance(self._job.training.reference, AdapterOff):
            with torch.no_grad(), self.scorer.model.disable_adapter():
                found: Tensor = self.scorer(row)
            return found
        if part.reference is None:
            raise ValueError(f"{part.items[0].id}: its answers are not scored: score the pairs, or drop those without")
        return part.reference.to(row.input_ids.device)

    def _summed(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Over all workers."""
        found = self._workers.gather(torch.stack(list(sums.values())).tolist()).sum(dim=0)
        return dict(zip(sums, found.tolist(), strict=True))

    def _update(self, sums: Mapping[str, Tensor], sizes: dict[str, float], ids: list[str]) -> dict[str, float]:
        values = self._summed(sums)
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm = nn.utils.clip_grad_norm_(trained, self._job.training.max_grad_norm)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        values |= {"grad_norm": norm.item(), **sizes, "skipped": 0.0}
        if math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"]):
            self.optimizer.step()
        else:
            self._skip(values, ids)
        self.optimizer.zero_grad()
        return values

    def _skip(self, values: dict[str, float], ids: list[str]) -> None:
        """Leave the step out, or end the training where too many were."""
        uri = storage.join(self._job.output, NOT_FINITE)
        told = {"step": self.step + 1, "loss": str(values["loss"]), "grad_norm": str(values["grad_norm"]), "ids": ids}
        if self._workers.rank == 0:
            storage.write_bytes(uri, json.dumps(told, indent=1).encode())
        skipped = sum(line["skipped"] for line in self.log) + 1
        if skipped > self._job.training.max_skipped:
            raise ValueError(
                f"loss or gradient is not finite at step {self.step + 1} (ids {', '.join(ids[:4])}, ...; all are in "
                f"{uri}): lower the learning rate, look at these items, or let max_skipped steps be left out"
            )
        values |= {"skipped": 1.0}


def _add(sums: dict[str, Tensor], values: Mapping[str, Tensor], share: float) -> None:
    """Where the values are: a GPU that had to give them up after every row would wait for the next one's operations."""
    for name, value in values.items():
        sums[name] = sums.get(name, 0.0) + share * value


def _kl(logp_N: Tensor, reference_N: Tensor) -> Tensor:
    """An estimate of the KL divergence from the reference at each token that is never below 0: exp(r) - 1 - r with r =
    log ref - log p (Schulman's k3), on the answers of the data, which neither model wrote as such."""
    ratio_N = reference_N - logp_N
    return ratio_N.exp() - 1 - ratio_N
