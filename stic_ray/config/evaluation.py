"""What models are measured on."""

from dataclasses import dataclass

from stic_ray.config.checks import require


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One split with ground truth, each file optional ("" = not there): objects of an image and the vocabulary
    for CHAIR, POPE's three files in the benchmark's format, and questions with short answers by category."""

    images: str
    objects: str = ""
    vocabulary: str = ""
    pope_random: str = ""
    pope_popular: str = ""
    pope_adversarial: str = ""
    questions: str = ""

    def __post_init__(self) -> None:
        require(bool(self.objects) == bool(self.vocabulary), "vocabulary", self.vocabulary, "set together with objects")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What the models are measured on. `resamples` is the number of bootstrap draws behind each interval."""

    test: Benchmark
    dev: Benchmark | None = None
    resamples: int = 1000
    max_new_tokens: int = 128

    def __post_init__(self) -> None:
        require(self.resamples > 0, "resamples", self.resamples, "above 0")
        require(self.max_new_tokens > 0, "max_new_tokens", self.max_new_tokens, "above 0")
