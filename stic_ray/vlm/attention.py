"""Attention in a row of segments: several conversations on one image see what they begin with, and not each other.

Legend: Q = heads, K = key and value heads, T = positions of the row, D = a head's size, G = segments of a run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv

SEGMENTED = "segmented"
_MOST_PADDING = 1.15  # positions of a run with its padding, against those without


@dataclass(frozen=True, kw_only=True)
class Segment:
    """What lies in a row together: a beginning of `prefix` positions, and after it branches that each go on from it."""

    prefix: int
    branches: tuple[int, ...]

    @property
    def length(self) -> int:
        """Positions of the row."""
        return self.prefix + sum(self.branches)

    @property
    def longest(self) -> int:
        """Positions of the longest conversation."""
        return self.prefix + max(self.branches, default=0)


def segmented_attention(
    module: torch.nn.Module,
    query_1QTD: Tensor,
    key_1KTD: Tensor,
    value_1KTD: Tensor,
    attention_mask: None,
    *,
    segments: Sequence[Segment],
    scaling: float | None = None,
    sliding_window: int | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each segment, as `transformers` asks for it: [1, T, Q, D] and no weights.

    A beginning attends to itself, a branch to its beginning and itself: no mask of T x T is ever made.

    Raises:
        ValueError: a conversation is longer than the model's sliding window.
    """
    assert attention_mask is None
    longest = max(segment.longest for segment in segments)
    if sliding_window is not None and longest > sliding_window:
        raise ValueError(f"a conversation of {longest} tokens is longer than the model's window of {sliding_window}")
    groups = module.num_key_value_groups
    # Under autocast rotary positions leave what they turn in float32, and a product is in one type.
    query_1QTD, key_1KTD = query_1QTD.to(value_1KTD.dtype), key_1KTD.to(value_1KTD.dtype)
    tensors = (query_1QTD, repeat_kv(key_1KTD, groups), repeat_kv(value_1KTD, groups))
    query_TQD, key_TQD, value_TQD = (tensor[0].transpose(0, 1) for tensor in tensors)
    found: list[Tensor] = []
    start = 0
    for run in runs_of(segments):
        found += _attend(run, start, (query_TQD, key_TQD, value_TQD), {"scale": scaling, "dropout_p": dropout})
        start += sum(segment.length for segment in run)
    return torch.cat(found)[None], None


def runs_of(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Segments that follow each other and are nearly of one shape: they are attended to at once, padded to the longest.

    Where there are branches their beginnings are equally long, so that padding stands behind all that is attended to.
    """
    runs: list[list[Segment]] = []
    for segment in segments:
        if runs and _fits(segment, runs[-1]):
            runs[-1].append(segment)
        else:
            runs.append([segment])
    return runs


def _fits(segment: Segment, run: Sequence[Segment]) -> bool:
    first = run[0]
    if len(segment.branches) != len(first.branches) or (segment.branches and segment.prefix != first.prefix):
        return False
    together = [*run, segment]
    padded = len(together) * sum(max(lengths) for lengths in zip(*map(_lengths, together), strict=True))
    return bool(padded <= _MOST_PADDING * sum(each.length for each in together))


def _lengths(segment: Segment) -> tuple[int, ...]:
    return (segment.prefix, *segment.branches)


def _attend(run: Sequence[Segment], start: int, tensors: Sequence[Tensor], settings: Mapping[str, Any]) -> list[Tensor]:
    """A run's segments, of which the first begins at `start` of query, key and value [T, Q, D]; in their order.
    `settings` are those of the product."""
    starts = list(accumulate((segment.length for segment in run), initial=start))[:-1]
    places = [list(accumulate(_lengths(segment), initial=begin)) for segment, begin in zip(run, starts, strict=True)]
    parts: list[Tensor] = []
    beginning: list[Tensor] = []
    for number in range(len(places[0]) - 1):
        slices = [slice(place[number], place[number + 1]) for place in places]
        query, key, value = (_stack([tensor[part] for part in slices]) for tensor in tensors)
        if number == 0:
            beginning = [key, value]
            parts.append(scaled_dot_product_attention(query, key, value, is_causal=True, **settings))
            continue
        key, value = (torch.cat(both, dim=2) for both in zip(beginning, (key, value), strict=True))
        mask = causal_lower_right(query.shape[2], key.shape[2])
        parts.append(scaled_dot_product_attention(query, key, value, attn_mask=mask, **settings))
    return [
        part[index, :, :length].transpose(0, 1)
        for index, segment in enumerate(run)
        for part, length in zip(parts, _lengths(segment), strict=True)
    ]


def _stack(pieces: list[Tensor]) -> Tensor:
    """Pieces [length, Q, D] as one [G, Q, longest, D], padded with zeros behind."""
    return pad_sequence(pieces, batch_first=True).transpose(1, 2)


AttentionInterface.register(SEGMENTED, segmented_attention)
