"""What a training worker reads, and in which order: index-based, a function of the seed and the step alone."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from stic_ray import artifacts, prompts, sources, vlm
from stic_ray.config import Blind, NoImage
from stic_ray.images import BadImageError, blind, decode
from stic_ray.records import Gain, Sample, Score, Selected, Turn, make_seed
from stic_ray.train.job import ChosenData, PairData, SampleData, ScoredPairs, TrainingData

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Known:
    """What earlier stages know of the tokens of a conversation's answers, an array each; empty where they know nothing.

    Their ids, their log-probabilities under the reference (nats), and whether they are used.
    """

    token_ids: "np.ndarray[Any, Any]"
    logp: "np.ndarray[Any, Any]"
    used: "np.ndarray[Any, Any]"

    def reference(self) -> "np.ndarray[Any, Any]":
        """The reference's log-probabilities of the used tokens."""
        return self.logp[self.used] if len(self.used) else self.logp


def known(token_ids: Sequence[int] = (), logp: Sequence[float] = (), used: Sequence[bool] = ()) -> Known:
    """As arrays of 9 bytes a token: lists take 80, and every worker holds all of them."""
    return Known(
        token_ids=np.array(token_ids, np.int32), logp=np.array(logp, np.float32), used=np.array(used, np.bool_)
    )


_OTHER_TOKENS = (
    "its answer has other tokens here than when it was scored: score it (vig.scorer too) with the tokenizer and the "
    "chat template of the model that is trained"
)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing to train on: its sequences (chosen then rejected, or one sample), read and encoded when asked for.

    With `hidden`, the first sequence comes again at the end with that in the image's place.
    """

    id: str
    image_uri: str
    conversations: tuple[list[Turn], ...]
    known: tuple[Known, ...]
    weight: float = 1.0
    hidden: Blind | None = None

    def encode(self, processor: Any) -> list[list[vlm.Example]]:
        """The sequences as token ids, those on one image together; tokens that are not used are not trained."""
        try:
            image = decode(sources.read_image(self.image_uri)) if self.image_uri else None
        except BadImageError as error:
            raise ValueError(f"{self.image_uri} was an image when its stage was made, now: {error}") from None
        groups = [vlm.encode_group(processor, self.conversations, image)]
        if self.hidden is not None:
            groups.append(vlm.encode_group(processor, self.conversations[:1], _hide(image, self.hidden)))
        numbers = iter(range(len(self.known)))
        return [[self._checked(example, self.known[next(numbers)]) for example in group] for group in groups]

    def _checked(self, example: vlm.Example, known: Known) -> vlm.Example:
        if len(known.token_ids) and known.token_ids.tolist() != example.answer_ids:
            raise ValueError(f"{self.id}: {_OTHER_TOKENS}")
        if not len(known.used):
            return example
        used = iter(known.used.tolist())
        return replace(example, trained=[trained and next(used) for trained in example.trained])


def _hide(image: Image.Image | None, view: Blind) -> Image.Image | None:
    return None if image is None or isinstance(view, NoImage) else blind(image, view)


def read_items(data: TrainingData) -> list[Item]:
    """What a training reads, in an order that only the data decides."""
    if isinstance(data, SampleData):
        return _sample_items(data)
    hidden = data.hidden if isinstance(data, PairData) else None
    found = [item for part in data.parts for item in _pair_items(part, hidden)]
    items = list({item.id: item for item in reversed(found)}.values())[::-1]
    if len(items) < len(found):  # a run's own pairs that were exported and imported again
        logger.warning("%d pairs come from two sources: they are trained on once", len(found) - len(items))
    return [_without_rejected(item) for item in items] if isinstance(data, ChosenData) else items


def _pair_items(data: ScoredPairs, hidden: Blind | None) -> list[Item]:
    """Every scored pair that is selected, sorted by image: by id, a copy of the model would train in another order."""
    scores: dict[str, dict[str, Score]] = {}
    for row in sorted(artifacts.read(data.scores, Score), key=lambda row: (row.image_id, row.item_id)):
        scores.setdefault(row.item_id, {})[row.role] = row
    gains = {row.item_id: row for row in artifacts.read(data.gains, Gain) if row.role == "chosen"} if hidden else {}
    selected = _selected(data.selection)
    items = []
    for key, by_role in scores.items():
        roles = [by_role["chosen"], by_role["rejected"]]
        chosen = [selected.get((key, row.role)) if data.selection else None for row in roles]
        if (data.selection and None in chosen) or (hidden and key not in gains):
            continue
        masks = [(row, found) for row, found in zip(roles, chosen, strict=True) if found and found.used]
        if any(found.token_ids != row.token_ids for row, found in masks):
            raise ValueError(f"{key}: {_OTHER_TOKENS}")
        found = [
            known(row.token_ids, row.logp, one.used if one else ()) for row, one in zip(roles, chosen, strict=True)
        ]
        if hidden:
            found.append(known(roles[0].token_ids, gains[key].blind_logp, chosen[0].used if chosen[0] else ()))
        items.append(
            Item(
                id=key,
                image_uri=roles[0].image_uri,
                conversations=tuple(row.turns for row in roles),
                known=tuple(found),
                weight=chosen[0].weight if chosen[0] else 1.0,
                hidden=hidden,
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
        of_tokens = known(found.token_ids, used=found.used) if found else known()
        turns = prompts.infused_turns(sample, data.infused) if data.infused else sample.turns
        items.append(Item(id=sample.id, image_uri=sample.image_uri, conversations=(turns,), known=(of_tokens,)))
    return items


def split_items(items: Sequence[Item], share: float) -> tuple[list[Item], list[Item]]:
    """Items to train on, and those on a share of the images, which are held out; a text-only item counts as an image.

    Which they are depends on the images alone. Neither is empty where there are two images or more.
    """
    images = sorted({item.image_uri or item.id for item in items}, key=lambda image: make_seed(0, image, "validation"))
    held_out = set(images[: min(max(1, round(share * len(images))), len(images) - 1)])
    is_held_out = [(item.image_uri or item.id) in held_out for item in items]
    trained = [item for item, out in zip(items, is_held_out, strict=True) if not out]
    return trained, [item for item, out in zip(items, is_held_out, strict=True) if out]


def num_steps(num_items: int, *, epochs: int, global_batch: int) -> int:
    """Optimiser steps: every epoch sees every item once; the last batch is filled up from the next permutation."""
    return -(-num_items * epochs // global_batch)


def batch_indices(step: int, *, num_items: int, global_batch: int, seed: int) -> list[int]:
    """The items of a step's global batch: a stream of seeded permutations, one an epoch, cut into batches."""
    positions = range(step * global_batch, (step + 1) * global_batch)
    orders: dict[int, np.ndarray[Any, Any]] = {}
    indices = []
    for position in positions:
        epoch, offset = divmod(position, num_items)
        if epoch not in orders:
            orders[epoch] = np.random.default_rng(make_seed(seed, "epoch", epoch)).permutation(num_items)
        indices.append(int(orders[epoch][offset]))
    return indices
