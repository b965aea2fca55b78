"""What a training worker reads, and in which order: index-based, a function of the seed and the step alone."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, tensor

from stic_ray import artifacts, prompts, sources, vlm
from stic_ray.images import BadImageError, decode
from stic_ray.records import Pair, Reference, Sample, Turn, make_seed
from stic_ray.train.job import ChosenData, PairData, SampleData, TrainingData


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing to train on: its sequences (chosen then rejected, or one sample), read and encoded when asked for."""

    id: str
    image_uri: str
    conversations: tuple[list[Turn], ...]
    reference: tuple[float, float] | None

    def encode(self, processor: Any) -> list[vlm.Example]:
        """The sequences as token ids, the image read from where it lies."""
        try:
            image = decode(sources.read_image(self.image_uri)) if self.image_uri else None
        except BadImageError as error:
            raise ValueError(f"{self.image_uri} was an image when its stage was made, now: {error}") from None
        return [vlm.encode_example(processor, turns, image) for turns in self.conversations]


def read_items(data: TrainingData) -> list[Item]:
    """What a training reads, in an order that only the data decides."""
    if isinstance(data, SampleData):
        return _sample_items(data)
    items = _pair_items(data)
    return [_without_rejected(item) for item in items] if isinstance(data, ChosenData) else items


def _pair_items(data: PairData | ChosenData) -> list[Item]:
    """Every pair that has a reference, sorted by image: by id, a copy of the model would train in another order."""
    references = {row.id: row for row in artifacts.read(data.references, Reference)}
    return [
        Item(
            id=pair.id,
            image_uri=pair.image_uri,
            conversations=tuple(_answered(pair.prompt, text) for text in (pair.chosen, pair.rejected)),
            reference=(references[pair.id].chosen_logp, references[pair.id].rejected_logp),
        )
        for pair in sorted(artifacts.read(data.pairs, Pair), key=lambda pair: (pair.image_id, pair.id))
        if pair.id in references
    ]


def _without_rejected(item: Item) -> Item:
    return Item(id=item.id, image_uri=item.image_uri, conversations=item.conversations[:1], reference=None)


def _sample_items(data: SampleData) -> list[Item]:
    return [
        Item(
            id=sample.id,
            image_uri=sample.image_uri,
            conversations=(prompts.infused_turns(sample, data.infused) if data.infused else sample.turns,),
            reference=None,
        )
        for sample in artifacts.read(data.samples, Sample)
    ]


def _answered(prompt: str, answer: str) -> list[Turn]:
    return [Turn(role="user", text=prompt), Turn(role="assistant", text=answer)]


def num_steps(num_items: int, *, epochs: int, global_batch: int) -> int:
    """Optimiser steps: every epoch sees every item once; the last batch is filled up from the next permutation."""
    return -(-num_items * epochs // global_batch)


def batch_indices(step: int, *, num_items: int, global_batch: int, seed: int) -> list[int]:
    """The items of a step's global batch: a stream of seeded permutations, one an epoch, cut into batches."""
    positions = range(step * global_batch, (step + 1) * global_batch)
    orders: dict[int, np.ndarray] = {}
    indices = []
    for position in positions:
        epoch, offset = divmod(position, num_items)
        if epoch not in orders:
            orders[epoch] = np.random.default_rng(make_seed(seed, "epoch", epoch)).permutation(num_items)
        indices.append(int(orders[epoch][offset]))
    return indices


def references_of(items: list[Item]) -> Tensor:
    """References of pairs, [P, 2]: chosen, rejected.

    Raises:
        ValueError: an item has none.
    """
    missing = [item.id for item in items if item.reference is None]
    if missing:
        raise ValueError(f"pairs without reference: {missing[:3]}")
    return tensor([item.reference for item in items])


def sequences_by_role(encoded: list[list[vlm.Example]]) -> list[vlm.Example]:
    """All first sequences, then all second ones: [chosen..., rejected...]."""
    return [examples[role] for role in range(len(encoded[0])) for examples in encoded]
