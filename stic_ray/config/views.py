"""What stands for "without the image"."""

from dataclasses import dataclass

from stic_ray.config.checks import require


@dataclass(frozen=True, kw_only=True)
class Blur:
    """A Gaussian blur whose radius (standard deviation) is that share of the image's short side."""

    radius: float

    def __post_init__(self) -> None:
        require(0 < self.radius <= 1, "radius", self.radius, "above 0 and at most 1 (of the short side)")


@dataclass(frozen=True, kw_only=True)
class ConstantImage:
    """An image of the same size with one grey level, 0 to 255."""

    level: int = 127

    def __post_init__(self) -> None:
        require(0 <= self.level <= 255, "level", self.level, "between 0 and 255")


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A part of the image of that share of its area and its proportions, at a place that its pixels decide (mDPO)."""

    area: float

    def __post_init__(self) -> None:
        require(0 < self.area < 1, "area", self.area, "above 0 and below 1 (of the image)")


@dataclass(frozen=True, kw_only=True)
class NoImage:
    """The conversation as text only."""


Blind = Blur | ConstantImage | Crop | NoImage
