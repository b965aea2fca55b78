"""How sets of images lie to each other in a space of embeddings: the overlap of two, and a map of all.

Legend: N, M = images of a set, P = images of several, D = features, K = neighbours, C = coordinates.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

NEIGHBORS = 10
MIN_IMAGES = 2 * NEIGHBORS  # of a set: of fewer, ten neighbours are most
_MAP_DIMENSIONS = 50  # that t-SNE starts from
_PERPLEXITY = 30.0
_MIN_MAPPED = 4  # images: of fewer, t-SNE has no neighbourhoods
_RESAMPLES = 1000
_ROWS_AT_ONCE = 512  # whose distances to all are held


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """How far two sets are one: 1 where they cannot be told apart, 0 where they lie apart, with a 95% interval.

    `num_images` of each set were compared.
    """

    value: float
    low: float
    high: float
    num_images: int


def overlap(one_ND: FloatArray, other_MD: FloatArray, *, seed: int) -> Overlap:
    """The overlap of two sets of vectors, by nearest neighbours (Schilling, JASA 81, 1986; Henze, Ann. Stat. 16, 1988).

    A sample of equal size n is drawn of each. Of the `NEIGHBORS` nearest (Euclidean) of each vector of either sample,
    among both samples without itself, a share is of the other set; the value is the mean share, divided by
    n / (2n - 1), its expectation where both sets are of one distribution. Of densities f and g it estimates the
    integral of 2 f g / (f + g), which is 1 minus Le Cam's distance, from 0 to 1 and the same both ways. By chance, and
    where an image is in both sets, it is a little above 1. Equally far neighbours are taken by lot.

    Neighbours of one set's vectors alone estimate the same with four times the spread, in 64 dimensions and 200
    images: there, which set has more of the vectors that are near to all others is chance.

    The interval is of a bootstrap of the vectors: a pair of neighbours counts as often as both were drawn. It is
    cautious: of Gaussian sets in 2 to 64 dimensions it held the expectation in 97 to 100 of 100.

    Raises:
        ValueError: a set has fewer than `MIN_IMAGES` vectors.
    """
    num = min(len(one_ND), len(other_MD))
    if num < MIN_IMAGES:
        raise ValueError(f"an overlap needs {MIN_IMAGES} images of each set, and one has {num}")
    rng = np.random.default_rng(seed)
    drawn = np.concatenate([vectors[rng.permutation(len(vectors))[:num]] for vectors in (one_ND, other_MD)])
    order_P = rng.permutation(2 * num)  # so that no set comes first where several are equally far
    is_one_P = order_P < num
    neighbors_PK = _neighbors(drawn[order_P].astype(np.float64))
    is_mixed_PK = is_one_P[:, None] != is_one_P[neighbors_PK]
    expected = num / (2 * num - 1)
    draws = np.empty(_RESAMPLES)
    for number in range(_RESAMPLES):
        counts_P = np.empty(2 * num)
        for side in (is_one_P, ~is_one_P):
            counts_P[side] = np.bincount(rng.integers(num, size=num), minlength=num)
        weights_PK = counts_P[:, None] * counts_P[neighbors_PK]
        draws[number] = weights_PK[is_mixed_PK].sum() / weights_PK.sum() / expected
    low, high = np.percentile(draws, [2.5, 97.5])
    value = float(is_mixed_PK.mean() / expected)
    return Overlap(value=value, low=float(low), high=float(high), num_images=num)


def _neighbors(vectors_PD: FloatArray) -> npt.NDArray[np.intp]:
    """Each vector's nearest others [P, K]."""
    vectors_PD = vectors_PD - vectors_PD.mean(axis=0)  # the same distances, and less that cancels
    squares_P = (vectors_PD**2).sum(axis=1)
    found = []
    for start in range(0, len(vectors_PD), _ROWS_AT_ONCE):
        rows = np.arange(start, min(start + _ROWS_AT_ONCE, len(vectors_PD)))
        distances = squares_P - 2 * vectors_PD[rows] @ vectors_PD.T  # but for what a row has in common
        distances[np.arange(len(rows)), rows] = np.inf
        found.append(np.argpartition(distances, NEIGHBORS - 1, axis=1)[:, :NEIGHBORS])
    return np.concatenate(found)


def draw_map(vectors_PD: FloatArray) -> FloatArray:
    """A place in the plane for each vector, [P, C], by t-SNE (van der Maaten and Hinton, JMLR 9, 2008).

    It starts at the first principal components, not at random: the same vectors give the same map on one machine. Near
    vectors come to lie near each other; how far apart groups lie, and how wide, means little.

    Raises:
        ValueError: too few vectors.
    """
    from sklearn.manifold import TSNE  # the extra analysis
    from threadpoolctl import threadpool_limits

    num = len(vectors_PD)
    if num < _MIN_MAPPED:
        raise ValueError(f"a map needs {_MIN_MAPPED} images, and there are {num}: give larger sets")
    reduced = principal_components(vectors_PD.astype(np.float64), _MAP_DIMENSIONS)
    start = reduced[:, :2] if reduced.shape[1] > 1 else np.repeat(reduced, 2, axis=1)
    tsne = TSNE(
        init=1e-4 * start / (start[:, 0].std() or 1.0),
        perplexity=min(_PERPLEXITY, (num - 1) / 3),
        random_state=0,
    )
    with threadpool_limits(limits=1):  # else the order of sums, and with it the map, is another each time
        found: FloatArray = tsne.fit_transform(reduced).astype(np.float64)
    return found


def principal_components(vectors_PD: FloatArray, num: int) -> FloatArray:
    """The vectors on the `num` directions in which they vary most; where they have no more, only centred."""
    vectors_PD = vectors_PD - vectors_PD.mean(axis=0)
    if vectors_PD.shape[1] <= num:
        return vectors_PD
    _, directions = np.linalg.eigh(vectors_PD.T @ vectors_PD)
    return np.asarray(vectors_PD @ directions[:, ::-1][:, :num])
