"""Rows: several conversations as one sequence without padding, those on one image with their beginning written once.

Legend: T = positions of a row, N = answer tokens of a row.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stic_ray.vlm.attention import Segment
from stic_ray.vlm.examples import Example

Group = Sequence[Example]  # conversations on the same image, or on none


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a forward takes: token ids [1, T], the position of each in its conversation [1, T], the images' tensors.

    Of each answer token, in the order of the groups and of their conversations: the position in the row whose hidden
    state predicts it, its id, [N] each, and the number of its conversation. `num_tokens` says how many each has.
    """

    input_ids: Tensor
    positions: Tensor
    segments: tuple[Segment, ...]
    images: dict[str, Tensor]
    predictors: Tensor
    targets: Tensor
    owners: Tensor
    num_tokens: tuple[int, ...]

    def to(self, device: torch.device | str) -> "Row":
        """The row there."""
        names = ("input_ids", "positions", "predictors", "targets", "owners")
        moved = {name: getattr(self, name).to(device) for name in names}
        return replace(self, images={name: value.to(device) for name, value in self.images.items()}, **moved)

    def sums(self, values_N: Tensor) -> Tensor:
        """The sum of the tokens' values of each conversation."""
        return values_N.new_zeros(len(self.num_tokens)).index_add(0, self.owners, values_N)


def shape_of(group: Group) -> Segment:
    """How a group lies in a row: what all its conversations begin with stands there once."""
    first, *others = [example.input_ids for example in group]
    if not others:
        return Segment(prefix=len(first), branches=())
    prefix = min(_common(first, other) for other in others)
    return Segment(prefix=prefix, branches=tuple(len(ids) - prefix for ids in (first, *others)))


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(first), len(second)))


def fill_rows(items: Sequence[Sequence[Group]], max_tokens: int) -> list[list[int]]:
    """The numbers of the items of each row, of at most `max_tokens` tokens; a longer item has a row of its own.

    Items of one shape lie together, so that they are attended to at once.
    """
    shapes = [[shape_of(group) for group in groups] for groups in items]
    keys = [[(shape.prefix, shape.branches) for shape in each] for each in shapes]
    rows: list[list[int]] = []
    left = 0
    for index in sorted(range(len(items)), key=lambda index: (keys[index], index)):
        length = sum(shape.length for shape in shapes[index])
        if not rows or length > left:
            rows.append([])
            left = max_tokens
        rows[-1].append(index)
        left -= length
    return rows


def pack(groups: Sequence[Group]) -> Row:
    """Groups as one row, in their order."""
    segments = tuple(shape_of(group) for group in groups)
    ids: list[int] = []
    positions: list[int] = []
    predictors: list[int] = []
    targets: list[int] = []
    num_tokens: list[int] = []
    for group, segment in zip(groups, segments, strict=True):
        start, prefix = len(ids), segment.prefix
        ids += group[0].input_ids[:prefix]
        positions += range(prefix)
        for example, length in zip(group, segment.branches or (0,), strict=True):
            branch = len(ids)
            ids += example.input_ids[prefix:]
            positions += range(prefix, prefix + length)
            scored = [index for index, trained in enumerate(example.trained) if trained]
            assert not scored or scored[0] > 0  # something stands before every answer
            predictors += [start + i - 1 if i <= prefix else branch + i - 1 - prefix for i in scored]
            targets += [example.input_ids[i] for i in scored]
            num_tokens.append(len(scored))
    return Row(
        input_ids=torch.tensor([ids]),
        positions=torch.tensor([positions]),
        segments=segments,
        images=_join(group[0].image_inputs for group in groups),
        predictors=torch.tensor(predictors, dtype=torch.long),
        targets=torch.tensor(targets, dtype=torch.long),
        owners=torch.arange(len(num_tokens)).repeat_interleave(torch.tensor(num_tokens)),
        num_tokens=tuple(num_tokens),
    )


def _join(images: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The image tensors of a row, one image after another."""
    found: dict[str, list[Tensor]] = {}
    for inputs in images:
        for name, value in inputs.items():
            found.setdefault(name, []).append(value)
    return {name: _concatenate(values) for name, values in sorted(found.items())}


def _concatenate(tensors: list[Tensor]) -> Tensor:
    """Image tensors as one; an image of fewer tiles [1, tiles, ...] gets empty ones, which the model drops."""
    if len({tensor.shape[1:] for tensor in tensors}) > 1:
        tiles = max(tensor.shape[1] for tensor in tensors)
        tensors = [torch.cat([t, t.new_zeros(1, tiles - t.shape[1], *t.shape[2:])], dim=1) for t in tensors]
    return torch.cat(tensors)
