"""What a training worker reads, and in which order: index-based, a function of the seed and the step alone."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, tensor

from stic_ray import artifacts, prompts, sources, vlm
from stic_ray.images import BadImageError, decode
from stic_ray.records import Sample, Score, Selected, Turn, make_seed
from stic_ray.train.job import ChosenData, SampleData, ScoredPairs, TrainingData


@dataclass(frozen=True, kw_only=True)
class Known:
    """What earlier stages know of the tokens of a conversation's answers; a list is empty where they know nothing.

    Their ids, their log-probabilities under the reference (nats), and whether they are used.
    """

    token_ids: list[int]
    logp: list[float]
    used: list[bool]

    def reference(self) -> float:
        """The reference's log-probability of the used tokens, summed."""
        used = self.used or [True] * len(self.logp)
        return math.fsum(value for value, is_used in zip(self.logp, used, strict=True) if is_used)


_OTHER_TOKENS = (
    "its answer has other tokens here than when it was scored: score it (vig.scorer too) with the tokenizer and the "
    "chat template of the model that is trained"
)
_NOTHING = Known(token_ids=[], logp=[], used=[])


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing to train on: its sequences (chosen then rejected, or one sample), read and encoded when asked for."""

    id: str
    image_uri: str
    conversations: tuple[list[Turn], ...]
    known: tuple[Known, ...]
    weight: float = 1.0

    def encode(self, processor: Any) -> list[vlm.Example]:
        """The sequences as token ids, the image read from where it lies; tokens that are not used are not trained."""
        try:
            image = decode(sources.read_image(self.image_uri)) if self.image_uri else None
        except BadImageError as error:
            raise ValueError(f"{self.image_uri} was an image when its stage was made, now: {error}") from None
        return [
            self._checked(vlm.encode_example(processor, turns, image), known)
            for turns, known in zip(self.conversations, self.known, strict=True)
        ]

    def _checked(self, example: vlm.Example, known: Known) -> vlm.Example:
        if known.token_ids and known.token_ids != example.answer_ids:
            raise ValueError(f"{self.id}: {_OTHER_TOKENS}")
        if not known.used:
            return example
        used = iter(known.used)
        return replace(example, trained=[trained and next(used) for trained in example.trained])


def read_items(data: TrainingData) -> list[Item]:
    """What a training reads, in an order that only the data decides."""
    if isinstance(data, SampleData):
        return _sample_items(data)
    items = [item for part in data.parts for item in _pair_items(part)]
    return [_without_rejected(item) for item in items] if isinstance(data, ChosenData) else items


def _pair_items(data: ScoredPairs) -> list[Item]:
    """Every scored pair that is selected, sorted by image: by id, a copy of the model would train in another order."""
    scores: dict[str, dict[str, Score]] = {}
    for row in sorted(artifacts.read(data.scores, Score), key=lambda row: (row.image_id, row.item_id)):
        scores.setdefault(row.item_id, {})[row.role] = row
    selected = _selected(data.selection)
    items = []
    for key, by_role in scores.items():
        roles = [by_role["chosen"], by_role["rejected"]]
        chosen = [selected.get((key, row.role)) if data.selection else None for row in roles]
        if data.selection and None in chosen:
            continue
        masks = [(row, found) for row, found in zip(roles, chosen, strict=True) if found and found.used]
        if any(found.token_ids != row.token_ids for row, found in masks):
            raise ValueError(f"{key}: {_OTHER_TOKENS}")
        items.append(
            Item(
                id=key,
                image_uri=roles[0].image_uri,
                conversations=tuple(row.turns for row in roles),
                known=tuple(
                    Known(token_ids=row.token_ids, logp=row.logp, used=found.used if found else [])
                    for row, found in zip(roles, chosen, strict=True)
                ),
                weight=chosen[0].weight if chosen[0] else 1.0,
            )
        )
    return items


def _selected(uri: str) -> dict[tuple[str, str], Selected]:
    return {(row.item_id, row.role): row for row in artifacts.read(uri, Selected)} if uri else {}


def _without_rejected(item: Item) -> Item:
    return replace(item, conversations=item.conversations[:1], known=item.known[:1])


def _sample_items(data: SampleData) -> list[Item]:
    selected = _selected(data.selection)
    items = []
    for sample in artifacts.read(data.samples, Sample):
        found = selected.get((sample.id, "answer"))
        if data.selection and found is None:
            continue
        known = Known(token_ids=found.token_ids, logp=[], used=found.used) if found else _NOTHING
        turns = prompts.infused_turns(sample, data.infused) if data.infused else sample.turns
        items.append(Item(id=sample.id, image_uri=sample.image_uri, conversations=(turns,), known=(known,)))
    return items


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
    """References of pairs, [P, 2]: chosen, rejected, each summed over the tokens that are used."""
    return tensor([[known.reference() for known in item.known] for item in items])


def sequences_by_role(encoded: list[list[vlm.Example]]) -> list[vlm.Example]:
    """All first sequences, then all second ones: [chosen..., rejected...]."""
    return [examples[role] for role in range(len(encoded[0])) for examples in encoded]
