"""Batches read, encoded and packed into rows ahead of the steps that train on them."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stic_ray import vlm
from stic_ray.train.data import Item
from stic_ray.train.job import Job

_AHEAD = 2  # steps


@dataclass(frozen=True, kw_only=True)
class Part:
    """Items of a batch as a row: `num_conversations` of each item lie in it one after another.

    `reference` [N] is the reference's log-probability of each answer token, None where no stage knows it.
    """

    items: tuple[Item, ...]
    row: vlm.Row
    num_conversations: int
    reference: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A worker's share of a step's batch; `waited_s` is how long the step waited for it."""

    parts: tuple[Part, ...]
    waited_s: float


def read_ahead(
    choose: Callable[[int], Sequence[Item]], steps: range, *, encode: Callable[[Sequence[Item]], list[Part]]
) -> Iterator[Batch]:
    """The batches of `steps` in order, each made while those before are trained on."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="feed") as pool:
        ahead: list[Future[list[Part]]] = []
        upcoming = iter(steps)

        def fill() -> None:
            while len(ahead) < _AHEAD and (step := next(upcoming, None)) is not None:
                ahead.append(pool.submit(encode, choose(step)))

        try:
            fill()
            while ahead:
                begin = time.perf_counter()
                parts = ahead.pop(0).result()
                waited = time.perf_counter() - begin
                fill()
                yield Batch(parts=tuple(parts), waited_s=waited)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def encode_parts(items: Sequence[Item], *, processor: Any, job: Job) -> list[Part]:
    """Items as rows of at most `execution.row_tokens` tokens, or of one item.

    Raises:
        ValueError: an item's image is none any more, or it is longer than `max_length`: nothing is ever truncated.
    """
    max_length = job.training.max_length
    encoded = [item.encode(processor) for item in items]
    for item, groups in zip(items, encoded, strict=True):
        longest = max(len(example.input_ids) for group in groups for example in group)
        if longest > max_length:
            raise ValueError(
                f"{item.id} has {longest} tokens, more than max_length {max_length}: nothing is ever truncated"
            )
    rows = vlm.fill_rows(encoded, job.execution.row_tokens)
    return [_part([items[index] for index in row], [encoded[index] for index in row]) for row in rows]


def _part(items: Sequence[Item], encoded: Sequence[Sequence[vlm.Group]]) -> Part:
    row = vlm.pack([group for groups in encoded for group in groups])
    known = [known for item in items for known in item.known]
    reference = None
    if all(len(each.logp) for each in known):
        reference = torch.from_numpy(np.concatenate([each.reference() for each in known]))
        assert len(reference) == len(row.targets)
    return Part(items=tuple(items), row=row, num_conversations=len(items[0].known), reference=reference)
