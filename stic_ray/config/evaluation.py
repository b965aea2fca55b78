"""What models are measured on: benchmarks, each in the files that its authors publish."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal, get_type_hints
from urllib.parse import urlsplit

from stic_ray.config.checks import require

Location = Annotated[str, "a file or a folder"]
"""As a setting of a benchmark; "" where it is not there."""

Mode = Literal["direct", "describe_first"]
DAR_SUFFIX = "_dar"  # what a benchmark's name ends in where its images are described first

# How LLaVA's evaluation asks, word for word: figures depend on it.
PHRASE = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
DESCRIBE = "Describe this image in detail."


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What every benchmark has: `instruction` is put on a line of its own behind each question ("" for none). `modes`:
    questions are asked as they are, or with the model's own description of the image in front (STIC's
    describe-and-respond, as `prompts` has it), or both. `limit` takes the questions of so many images, drawn by hash.
    """

    modes: tuple[Mode, ...] = ("direct",)
    instruction: str = ""
    limit: int | None = None

    def __post_init__(self) -> None:
        require(bool(self.modes), "modes", self.modes, "direct, describe_first or both")
        require(len(set(self.modes)) == len(self.modes), "modes", self.modes, "a list that names each once")
        require(self.limit is None or self.limit > 0, "limit", self.limit, "above 0, or null")


@dataclass(frozen=True, kw_only=True)
class Pope(_Asked):
    """POPE (Li et al. 2023): a file of questions by strategy (random, popular, adversarial)."""

    questions: Mapping[str, Location]
    images: Location
    instruction: str = PHRASE

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.questions), "questions", dict(self.questions), "a file by strategy, like {random: FILE}")


@dataclass(frozen=True, kw_only=True)
class Chair(_Asked):
    """CHAIR (Rohrbach et al. 2018) of descriptions. `objects` says what is in the images: JSON lines with `image` and
    `objects`, or COCO's instance annotations; `captions` are COCO's reference captions, whose objects are there too.
    `synonyms` has an object a line; without it, COCO's 80 with synonyms of our own.
    """

    objects: Location
    images: Location
    captions: Location = ""
    synonyms: Location = ""
    prompt: str = DESCRIBE


@dataclass(frozen=True, kw_only=True)
class ObjectHal(_Asked):
    """Object HalBench (as RLHF-V has it): CHAIR's figures, where the judge reads which objects a description names;
    files as of `Chair`, with a prompt an image in `questions` (JSON lines with `image` and `question`)."""

    questions: Location
    objects: Location
    images: Location
    captions: Location = ""
    synonyms: Location = ""


@dataclass(frozen=True, kw_only=True)
class ShortAnswers(_Asked):
    """Questions with one short answer each by category: JSON lines with `image`, `question_id`, `text`, `answer`,
    `category` and, if there is one, `group`; without `image` a question is of text alone."""

    questions: Location
    images: Location = ""


@dataclass(frozen=True, kw_only=True)
class Amber(_Asked):
    """AMBER's generative part (Wang et al. 2023): `query_generative.json`, `annotations.json`, `relation.json` and
    `safe_words.txt`."""

    questions: Location
    annotations: Location
    relations: Location
    safe_words: Location
    images: Location


@dataclass(frozen=True, kw_only=True)
class MmHal(_Asked):
    """MMHal-Bench (Sun et al. 2023): `response_template.json`; images are named as `image_src` ends. Judged."""

    questions: Location
    images: Location


@dataclass(frozen=True, kw_only=True)
class ScienceQa(_Asked):
    """ScienceQA (Lu et al. 2022): `problems.json`; the split's questions, those of text alone too."""

    questions: Location
    images: Location
    split: str = "test"
    instruction: str = LETTER


@dataclass(frozen=True, kw_only=True)
class TextVqa(_Asked):
    """TextVQA (Singh et al. 2019): `TextVQA_0.5.1_val.json`."""

    questions: Location
    images: Location
    instruction: str = PHRASE


@dataclass(frozen=True, kw_only=True)
class ChartQa(_Asked):
    """ChartQA (Masry et al. 2022): a file of questions by kind, `test_human.json` and `test_augmented.json`."""

    questions: Mapping[str, Location]
    images: Location
    instruction: str = PHRASE

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.questions), "questions", dict(self.questions), "a file by kind, like {human: FILE}")


@dataclass(frozen=True, kw_only=True)
class DocVqa(_Asked):
    """DocVQA (Mathew et al. 2021): `val_v1.0.json`."""

    questions: Location
    images: Location
    instruction: str = PHRASE


@dataclass(frozen=True, kw_only=True)
class MmBench(_Asked):
    """MMBench (Liu et al. 2024): a TSV with its images inside. `circular` asks each question once for every turn of its
    choices, and counts it where all are right."""

    questions: Location
    circular: bool = True
    instruction: str = LETTER


@dataclass(frozen=True, kw_only=True)
class MmVet(_Asked):
    """MM-Vet (Yu et al. 2024): `mm-vet.json`. Judged."""

    questions: Location
    images: Location


@dataclass(frozen=True, kw_only=True)
class LlavaBench(_Asked):
    """LLaVA-Bench (Liu et al. 2023): questions, the reference answers and what the judge is told of each image
    (`context`: JSON lines with `image` and `caption` or `captions`). Judged against the reference.
    """

    questions: Location
    answers: Location
    context: Location
    images: Location


@dataclass(frozen=True, kw_only=True)
class MathVista(_Asked):
    """MathVista (Lu et al. 2024): a JSON of problems by `pid`, as `testmini.json`."""

    questions: Location
    images: Location


@dataclass(frozen=True, kw_only=True)
class CvBench(_Asked):
    """CV-Bench (Tong et al. 2024): parquet files with the images inside, by part (2D, 3D)."""

    questions: Mapping[str, Location]
    instruction: str = LETTER

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.questions), "questions", dict(self.questions), "a file by part, like {2D: FILE, 3D: FILE}")


@dataclass(frozen=True, kw_only=True)
class MultipleChoice(_Asked):
    """Questions of text alone in MMLU's form: a CSV without a header, of question, choices and the answer's letter, or
    a folder of them. What shows that a model has not forgotten."""

    questions: Location
    instruction: str = LETTER


Benchmark = (
    Pope
    | Chair
    | ObjectHal
    | ShortAnswers
    | Amber
    | MmHal
    | ScienceQa
    | TextVqa
    | ChartQa
    | DocVqa
    | MmBench
    | MmVet
    | LlavaBench
    | MathVista
    | CvBench
    | MultipleChoice
)
JUDGED = (ObjectHal, MmHal, MmVet, LlavaBench)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A judge behind an OpenAI-compatible server: `url` up to /v1, and the model's name there. The key is read from the
    environment variable `key_variable` ("" for none). Prices are dollars for a million tokens.
    """

    url: str
    model: str
    key_variable: str = ""
    max_concurrent: int = 8
    timeout_s: float = 120.0
    max_attempts: int = 6
    max_new_tokens: int = 1024
    input_price: float = 0.0
    output_price: float = 0.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        plain = parts.scheme in ("http", "https") and bool(parts.netloc) and not (parts.query or "@" in parts.netloc)
        try:
            plain = plain and (parts.port is None or parts.port > 0)
        except ValueError:
            plain = False
        wanted = "an address with http:// or https://, without a password or a query: the key is in key_variable"
        require(plain, "url", "(hidden)" if "@" in self.url or "?" in self.url else self.url, wanted)
        require(bool(self.model), "model", self.model, "the name of a model of that server")
        for name in ("max_concurrent", "timeout_s", "max_attempts", "max_new_tokens"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        for name in ("input_price", "output_price"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")


@dataclass(frozen=True, kw_only=True)
class OwnModel:
    """A judge on this project's own engines: a checkpoint directory."""

    path: Location
    max_new_tokens: int = 1024

    def __post_init__(self) -> None:
        require(self.max_new_tokens > 0, "max_new_tokens", self.max_new_tokens, "above 0")


Judge = Endpoint | OwnModel


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What the models are measured on: benchmarks by name, those of `dev` to choose settings on, those of `test` for
    the figures. `resamples` is the number of bootstrap draws behind each interval; `judge` reads what only a judge can:
    without one, such benchmarks are answered and not measured. More failures of the judge than `max_judge_failures`
    (a share of the answers) fail the run.
    """

    test: Mapping[str, Benchmark] = field(default_factory=dict)
    dev: Mapping[str, Benchmark] = field(default_factory=dict)
    resamples: int = 1000
    max_new_tokens: int = 1024
    judge: Judge | None = None
    max_judge_failures: float = 0.02

    def __post_init__(self) -> None:
        require(
            bool(self.test or self.dev),
            "test",
            dict(self.test),
            "at least one benchmark by name, like pope: {type: Pope, ...}, where dev has none either",
        )
        for split, benchmarks in (("test", self.test), ("dev", self.dev)):
            for name in benchmarks:
                plain = bool(name) and "/" not in name and not name.endswith(DAR_SUFFIX)
                require(plain, split, name, f"benchmarks by names without / that do not end in {DAR_SUFFIX}")
        require(self.resamples > 0, "resamples", self.resamples, "above 0")
        require(self.max_new_tokens > 0, "max_new_tokens", self.max_new_tokens, "above 0")
        require(0 <= self.max_judge_failures <= 1, "max_judge_failures", self.max_judge_failures, "from 0 to 1")

    def splits(self) -> dict[str, Mapping[str, Benchmark]]:
        """The benchmarks of each split that has any."""
        return {name: found for name, found in (("test", self.test), ("dev", self.dev)) if found}


def locations(settings: Any) -> Iterator[tuple[str, str]]:
    """The files and folders that a benchmark or a judge names: dotted field and URI."""
    hints = get_type_hints(type(settings), include_extras=True)
    for entry in fields(settings):
        value = getattr(settings, entry.name)
        if hints[entry.name] == Location and value:
            yield entry.name, value
        elif isinstance(value, Mapping):
            yield from ((f"{entry.name}.{key}", uri) for key, uri in value.items())
