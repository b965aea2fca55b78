"""What a sweep tries: settings by dotted path, how trials are drawn and stopped, what they are ranked by."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stic_ray.config.checks import require


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of these values, whatever a setting takes."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        require(bool(self.values), "values", list(self.values), "a list that is not empty")
        texts = [repr(value) for value in self.values]
        require(len(set(texts)) == len(texts), "values", list(self.values), "a list in which no value stands twice")
        require(
            all(map(_is_plain, self.values)), "values", texts, "numbers, texts, true, false, null, lists and mappings"
        )


def _is_plain(value: Any) -> bool:
    """Whether JSON has it: trials and their ids are written as such."""
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """A number from `low` to `high`."""

    low: float
    high: float

    def __post_init__(self) -> None:
        require(self.low < self.high, "high", self.high, f"above low ({self.low:g})")


@dataclass(frozen=True, kw_only=True)
class LogUniform:
    """A number from `low` to `high` whose logarithm is drawn: a regulariser's weight, a learning rate."""

    low: float
    high: float

    def __post_init__(self) -> None:
        require(self.low > 0, "low", self.low, "above 0")
        require(self.low < self.high, "high", self.high, f"above low ({self.low:g})")


Domain = Choice | Uniform | LogUniform


@dataclass(frozen=True, kw_only=True)
class RandomSearch:
    """Every trial is drawn by itself."""


@dataclass(frozen=True, kw_only=True)
class GridSearch:
    """Every combination of the values of `Choice` once; `trials` does not count."""


@dataclass(frozen=True, kw_only=True)
class OptunaSearch:
    """Trials are drawn by what those before reached, for all objectives at once (extra `sweep`)."""


Search = RandomSearch | GridSearch | OptunaSearch


@dataclass(frozen=True, kw_only=True)
class Asha:
    """Asynchronous successive halving (arXiv 1810.05934): of the trials that have trained stage 1, the best
    1/`reduction_factor` by the first objective go on to stage 2."""

    reduction_factor: int = 2

    def __post_init__(self) -> None:
        require(self.reduction_factor > 1, "reduction_factor", self.reduction_factor, "2 or more")


@dataclass(frozen=True, kw_only=True)
class Pbt:
    """Population based training (arXiv 1711.09846) of stage 1, whose result is a schedule: trials train it `segments`
    times over, and after each the worst `quantile` of them, by the first objective, go on from a model of the best
    `quantile` with its settings changed a little, or drawn anew with the chance `resample`."""

    segments: int = 4
    quantile: float = 0.25
    resample: float = 0.25

    def __post_init__(self) -> None:
        require(self.segments > 1, "segments", self.segments, "2 or more")
        require(0 < self.quantile <= 0.5, "quantile", self.quantile, "above 0 and at most 0.5")
        require(0 <= self.resample <= 1, "resample", self.resample, "between 0 and 1")


Scheduler = Asha | Pbt


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A figure of `summary.json`, as "describe_simple/chair_i", and whether the least or the most of it is wanted."""

    figure: str
    mode: Literal["min", "max"]

    def __post_init__(self) -> None:
        parts = self.figure.split("/")
        require(len(parts) > 1 and all(parts), "figure", self.figure, "a benchmark and a figure, like pope/accuracy")


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep over settings of a configuration. Trials are ranked on the dev split.

    `max_concurrent` trials work at once; None as many as find room to train, and the whole population of `Pbt`.
    """

    space: Mapping[str, Domain]
    objectives: tuple[Objective, ...] = (
        Objective(figure="describe_simple/chair_i", mode="min"),
        Objective(figure="questions/accuracy", mode="max"),
    )
    search: Search = field(default_factory=RandomSearch)
    scheduler: Scheduler | None = field(default_factory=Asha)
    trials: int = 12
    max_concurrent: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require(bool(self.space), "space", dict(self.space), "a mapping of settings to what they may be")
        require(bool(self.objectives), "objectives", [], "a list that is not empty")
        names = [objective.figure for objective in self.objectives]
        require(len(set(names)) == len(names), "objectives", names, "a list in which no figure stands twice")
        require(self.trials > 0, "trials", self.trials, "above 0")
        require(self.seed >= 0, "seed", self.seed, "0 or more")
        if self.max_concurrent is not None:
            require(self.max_concurrent > 0, "max_concurrent", self.max_concurrent, "above 0, or null")
        if isinstance(self.scheduler, Pbt):
            other = [path for path in self.space if not path.startswith("stage1.")]
            remedy = f"take out {', '.join(other)}, or set scheduler to Asha or null"
            wanted = f"settings of stage1 alone, which is all that Pbt trains: {remedy}"
            require(not other, "space", list(self.space), wanted)
            drawn = isinstance(self.search, RandomSearch)
            require(drawn, "search", type(self.search).__name__, "RandomSearch, which Pbt begins with")
            require(self.trials > 1, "trials", self.trials, "2 or more: they are a population")
            require(
                self.max_concurrent is None, "max_concurrent", self.max_concurrent, "null, with Pbt: all go in step"
            )
        if isinstance(self.search, GridSearch):
            for path, domain in self.space.items():
                require(isinstance(domain, Choice), f"space.{path}", type(domain).__name__, "a Choice, in a grid")

    @property
    def num_trials(self) -> int:
        """How many trials there will be."""
        if not isinstance(self.search, GridSearch):
            return self.trials
        return math.prod(len(domain.values) for domain in self.space.values() if isinstance(domain, Choice))
