"""Figures with what is uncertain in them, so that sums know which of their parts are uncertain together."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

# Student's t, two-sided 95 %, by degrees of freedom; above the last it is the normal distribution's.
_T = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 8: 2.31, 10: 2.23, 15: 2.13, 20: 2.09, 30: 2.04}
_NORMAL = 1.96


@dataclass(frozen=True)
class Estimate:
    """A figure; `spread` is, by what is uncertain, one standard deviation of it in the figure's own unit.

    What two figures share (the measured start of a stage that runs five times) has one name in both, and adds up
    before it is squared; what they do not share has two.
    """

    value: float
    spread: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: "Estimate") -> "Estimate":
        spread = Counter(self.spread)
        for name, value in other.spread.items():
            spread[name] += value  # type: ignore[assignment]
        return Estimate(self.value + other.value, dict(spread))

    def times(self, factor: float) -> "Estimate":
        """The figure and all its uncertainty, so many times."""
        return Estimate(self.value * factor, {name: value * factor for name, value in self.spread.items()})

    @property
    def deviation(self) -> float:
        """One standard deviation."""
        return math.sqrt(sum(value**2 for value in self.spread.values()))

    def interval(self, freedom: int) -> tuple[float, float]:
        """95 %, from a spread that was estimated with so many degrees of freedom; never below 0."""
        half = t_factor(freedom) * self.deviation if freedom else math.inf
        return max(0.0, self.value - half), self.value + half


def total(figures: Iterable[Estimate]) -> Estimate:
    """The sum of figures."""
    return sum(figures, Estimate(0.0))


def t_factor(freedom: int) -> float:
    """How many standard deviations hold 95 %."""
    known = [t for least, t in _T.items() if least <= freedom]
    return _NORMAL if freedom > max(_T) else known[-1]


def pooled_spread(groups: Iterable[Sequence[float]]) -> tuple[float, int]:
    """The relative standard deviation within groups of repeated measurements, and its degrees of freedom.

    Each group has its own mean; the squares of all are pooled, since a stage alone is measured two or three times.
    """
    squares, freedom = 0.0, 0
    for values in groups:
        mean = sum(values) / len(values) if values else 0.0
        if len(values) < 2 or mean <= 0:
            continue
        squares += sum((value / mean - 1) ** 2 for value in values)
        freedom += len(values) - 1
    return (math.sqrt(squares / freedom), freedom) if freedom else (0.0, 0)
