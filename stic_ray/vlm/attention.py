"""Attention in a row of segments: several conversations on one image see what they begin with, and not each other.

Legend: Q = heads, K = key and value heads, T = positions of the row, D = a head's size, G = segments of a run,
P = positions of a run with its padding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
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
    runs = runs_of(segments)
    lengths = [sum(segment.length for segment in run) for run in runs]
    pieces = zip(*(tensor[0].split(lengths, dim=1) for tensor in tensors), strict=True)
    settings = {"scale": scaling, "dropout_p": dropout}
    found = [_attend(run, piece, settings) for run, piece in zip(runs, pieces, strict=True)]
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


def _attend(run: Sequence[Segment], tensors: Sequence[Tensor], settings: Mapping[str, Any]) -> Tensor:
    """A run's own positions of query, key and value [Q, T, D] attended to, [T, Q, D]; `settings` are the product's.

    Few and large operations: a step on a GPU waits for those who start them sooner than for the work itself.
    """
    lengths = [max(found) for found in zip(*map(_lengths, run), strict=True)]
    places = None if len(run) * sum(lengths) == tensors[0].shape[1] else _padding(tuple(run), tensors[0].device)
    whole = tensors if places is None else [tensor.index_select(1, places.padded_P) for tensor in tensors]
    stacked = [tensor.unflatten(1, (len(run), -1)).transpose(0, 1).split(lengths, dim=2) for tensor in whole]
    parts: list[Tensor] = []
    beginning: list[Tensor] = []
    for query, key, value in zip(*stacked, strict=True):  # [G, Q, length, D]
        if not beginning:
            beginning = [key, value]
            parts.append(scaled_dot_product_attention(query, key, value, is_causal=True, **settings))
            continue
        key, value = (torch.cat(both, dim=2) for both in zip(beginning, (key, value), strict=True))
        mask = causal_lower_right(query.shape[2], key.shape[2])
        parts.append(scaled_dot_product_attention(query, key, value, attn_mask=mask, **settings))
    found_TQD = torch.cat([part.transpose(1, 2) for part in parts], dim=1).flatten(0, 1)
    return found_TQD if places is None else found_TQD.index_select(0, places.real_T)


@dataclass(frozen=True)
class _Places:
    """Where the positions of a run with padding come from in the row, and where those without padding went."""

    padded_P: Tensor
    real_T: Tensor


@lru_cache(maxsize=64)  # of a row's runs: all layers ask for the same
def _padding(run: tuple[Segment, ...], device: torch.device) -> _Places:
    """Every part of every segment at the longest's length. What stands for nothing repeats a position of its part: it
    stands behind all that is attended to, and its own result is dropped, so that its gradient is 0."""
    longest = [max(found) for found in zip(*map(_lengths, run), strict=True)]
    padded: list[int] = []
    real: list[int] = []
    start = 0
    for segment in run:
        for length, most in zip(_lengths(segment), longest, strict=True):
            real += range(len(padded), len(padded) + length)
            padded += (start + min(number, max(length, 1) - 1) for number in range(most))
            start += length
    last = start - 1
    with torch.inference_mode(False):  # it may be asked for with gradients later
        return _Places(
            torch.tensor([min(place, last) for place in padded], device=device), torch.tensor(real, device=device)
        )


AttentionInterface.register(SEGMENTED, segmented_attention)
