"""What benchmarks of descriptions share: counts of named objects, and CHAIR's figures of them."""

from collections.abc import Sequence

import numpy as np

from stic_ray.evaluate.intervals import FloatArray
from stic_ray.evaluate.measures import ratio

LESS_IS_BETTER = frozenset({"chair_i", "chair_s"})
MAIN = {"chair_i": "CHAIR_i", "chair_s": "CHAIR_s", "recall": "recall", "mean_length": "mean length (tokens)"}


def counts(mentions: Sequence[str], *, num_tokens: int, objects: frozenset[str]) -> tuple[float, ...]:
    """CHAIR's counts of one caption; `mentions` and `objects` (what the image really holds) are canonical names.

    Returns mentions, hallucinated mentions, captions (1), captions with a hallucination, objects found,
    objects there, tokens.
    """
    hallucinated = sum(name not in objects for name in mentions)
    found = len(objects.intersection(mentions))
    return len(mentions), hallucinated, 1, hallucinated > 0, found, len(objects), num_tokens


def figures(sums_XS: FloatArray) -> dict[str, FloatArray]:
    """CHAIR (Rohrbach et al. 2018), recall over all objects (micro-averaged) and length, of summed counts.

    chair_i = hallucinated mentions / mentions; chair_s = captions with a hallucination / captions;
    recall = objects found / objects there; mean_length = tokens / captions. Captions that name nothing have chair_i 0.
    """
    mentions, hallucinated, captions, with_one, found, there, tokens = np.moveaxis(sums_XS, -1, 0)
    return {
        "chair_i": 100 * ratio(hallucinated, mentions),
        "chair_s": 100 * ratio(with_one, captions),
        "recall": 100 * ratio(found, there),
        "mean_length": ratio(tokens, captions),
    }


def total(each: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    """The sum of counts."""
    return tuple(map(sum, zip(*each, strict=True)))
