"""The configuration: one tree of frozen dataclasses, read strictly from YAML and dotted overrides.

What a thing *is* stands in the leaves that enter fingerprints (model, prompts, losses, ...); where and how it
runs stands in `Execution`, which never does. Variants are types, chosen in YAML by `type: ClassName`.
"""

import difflib
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

_MAX_INT = 2**62
MAX_LENGTH = 4096  # tokens of a conversation with its image, unless a training says otherwise


@dataclass(frozen=True, kw_only=True)
class Model:
    """A checkpoint: a local directory or any fsspec URI. `version` "" means: hash the listing of its files."""

    path: str
    dtype: Literal["float32", "bfloat16"]
    version: str = ""


@dataclass(frozen=True, kw_only=True)
class Images:
    """What every source of unlabeled images has.

    `shard` "i/n" takes the part i (from 0) of n, by id; `sample` draws that many of it, seeded, by id; `limit` ends
    the listing after so many, for a first try. `version` names the state of the source, "" lists it to see.
    """

    uri: str
    shard: str = ""
    sample: int | None = None
    limit: int | None = None
    version: str = ""

    def __post_init__(self) -> None:
        for name in ("sample", "limit"):
            value = getattr(self, name)
            _require(value is None or value > 0, name, value, "a positive number, or null for all")
        _require(self.sample is None or self.limit is None, "limit", self.limit, "null where sample is set")
        part, _, parts = self.shard.partition("/")
        fits = self.shard.isascii() and part.isdecimal() and parts.isdecimal() and int(part) < int(parts)
        _require(not self.shard or fits, "shard", self.shard, 'a part of a number of parts, from "0/n" to "n-1/n"')


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Images):
    """Every image file below `uri`, however deep."""


@dataclass(frozen=True, kw_only=True)
class ParquetImages(Images):
    """Parquet files, one or all below `uri`; `column` holds image files as bytes or as a Hugging Face image struct."""

    column: str = "image"


@dataclass(frozen=True, kw_only=True)
class WebDataset(Images):
    """Uncompressed tars, one or all below `uri`: every member with an image's name."""


@dataclass(frozen=True, kw_only=True)
class SavedDataset(Images):
    """A Hugging Face data set as `save_to_disk` left it at `uri`; its `column` holds the images."""

    column: str = "image"


@dataclass(frozen=True, kw_only=True)
class LlavaImages(Images):
    """The images that the samples of the LLaVA JSON file at `uri` name, below `images`, each once."""

    images: str

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.images != "", "images", self.images, "the folder that the samples' image paths start in")


ImageSource = ImageFolder | ParquetImages | WebDataset | SavedDataset | LlavaImages


@dataclass(frozen=True, kw_only=True)
class ExactDuplicates:
    """Of unlabeled images with the very same bytes one stays."""


@dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """Also of those that look the same: their perceptual hashes (pHash, 64 bits) differ in at most so many bits."""

    max_distance: int

    def __post_init__(self) -> None:
        _require(0 <= self.max_distance <= 10, "max_distance", self.max_distance, "between 0 and 10 bits")


Duplicates = ExactDuplicates | NearDuplicates


@dataclass(frozen=True, kw_only=True)
class LlavaJson:
    """Instruction samples in LLaVA's JSON with the root of their images; `sample` as in `ImageFolder`.

    `category` names the samples' field that says their kind or data set, "" where they have none.
    """

    uri: str
    images: str
    sample: int | None = None
    version: str = ""
    category: str = ""

    def __post_init__(self) -> None:
        _require(self.images != "", "images", self.images, "the folder that the samples' image paths start in")
        _require(self.sample is None or self.sample > 0, "sample", self.sample, "a positive number, or null for all")


@dataclass(frozen=True, kw_only=True)
class TrlMessages:
    """Instruction samples as TRL's `messages` and `images`: JSON lines, parquet, or what `save_to_disk` wrote.

    Image paths start in the folder `images`; where it is "", in the file's own, and whole paths and URIs are taken as
    they are. `sample`, `version` and `category` as in `LlavaJson`.
    """

    uri: str
    images: str = ""
    sample: int | None = None
    version: str = ""
    category: str = ""

    def __post_init__(self) -> None:
        _require(self.sample is None or self.sample > 0, "sample", self.sample, "a positive number, or null for all")


Instructions = LlavaJson | TrlMessages


@dataclass(frozen=True, kw_only=True)
class ImportedPairs:
    """Preference pairs that are there already, in another tool's `format` (see stic_ray/exchange).

    `uri` is a file of JSON lines, a JSON list, a parquet file, a folder of them, or what `save_to_disk` wrote; `images`
    as in `TrlMessages`. `version` names the state of the source, "" lists it to see: an image that was replaced is seen
    below `images` only.
    """

    uri: str
    format: Literal["trl", "llama_factory", "ms_swift", "llava", "bpo", "stic"]
    images: str = ""
    version: str = ""


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Prompt pools, and templates with {holes}.

    `infused` puts a description before a question, "" does not. `rewrite_description` asks for a description with
    errors, `rewrite_answer` for a wrong answer to a question; only the negative `ErrorInjection` needs them.
    """

    detailed: tuple[str, ...]
    simple: tuple[str, ...]
    misleading: tuple[str, ...]
    infused: str
    rewrite_description: str = ""
    rewrite_answer: str = ""

    def __post_init__(self) -> None:
        for name in ("detailed", "simple", "misleading"):
            pool = getattr(self, name)
            _require(bool(pool) and all(text.strip() for text in pool), name, pool, "at least one prompt, none empty")
        for name, holes in (
            ("infused", ("{description}", "{question}")),
            ("rewrite_description", ("{description}",)),
            ("rewrite_answer", ("{question}", "{answer}")),
        ):
            text = getattr(self, name)
            for hole in holes:
                _require(not text or text.count(hole) == 1, name, text, f"a text that holds {hole} once")


@dataclass(frozen=True, kw_only=True)
class Downsize:
    """Shrink the short side to `short_side_px`, then back: the fine detail is gone."""

    short_side_px: int

    def __post_init__(self) -> None:
        _require(self.short_side_px > 0, "short_side_px", self.short_side_px, "a positive number of pixels")


@dataclass(frozen=True, kw_only=True)
class ColorJitter:
    """Brightness factor drawn from 1 +- `brightness`; hue shifted either way by `min_hue` to `hue` of its circle."""

    brightness: float
    hue: float
    min_hue: float = 0.0

    def __post_init__(self) -> None:
        _require(0 <= self.brightness <= 1, "brightness", self.brightness, "between 0 and 1")
        _require(0 <= self.min_hue <= self.hue <= 0.5, "hue", (self.min_hue, self.hue), "0 <= min_hue <= hue <= 0.5")


Corruption = Downsize | ColorJitter


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How answers are drawn; temperature 0 is greedy."""

    temperature: float
    max_new_tokens: int
    top_p: float = 1.0

    def __post_init__(self) -> None:
        _require(self.temperature >= 0, "temperature", self.temperature, "0 (greedy) or more")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _require(self.max_new_tokens > 0, "max_new_tokens", self.max_new_tokens, "a positive number")


@dataclass(frozen=True, kw_only=True)
class _Weighted:
    """How often a kind of negative is drawn, against the other kinds' weights."""

    weight: float = 1.0

    def __post_init__(self) -> None:
        _require(self.weight > 0, "weight", self.weight, "above 0")


@dataclass(frozen=True, kw_only=True)
class MisleadingPrompt(_Weighted):
    """An answer to the clean image under a misleading prompt (STIC)."""


@dataclass(frozen=True, kw_only=True)
class CorruptedImage(_Weighted):
    """An answer to a corrupted image (STIC), by one of `corruptions` with equal chance."""

    corruptions: tuple[Corruption, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(bool(self.corruptions), "corruptions", self.corruptions, "at least one corruption")


@dataclass(frozen=True, kw_only=True)
class NoisedImage(_Weighted):
    """An answer to an image under diffusion noise of this step of 1000 (BPO, image weakening)."""

    step: int = 900

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(0 <= self.step < 1000, "step", self.step, "between 0 and 999")


@dataclass(frozen=True, kw_only=True)
class ErrorInjection(_Weighted):
    """The right answer, rewritten with errors by the model's own language model, without the image (BPO).

    Answers of at least `description_words` words are rewritten as descriptions, others as answers to their question.
    """

    sampling: Sampling
    description_words: int = 12

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.description_words >= 0, "description_words", self.description_words, "0 or more")


@dataclass(frozen=True, kw_only=True)
class OtherImage(_Weighted):
    """The answer to another image: the next one by id in its file of the store."""


Negative = MisleadingPrompt | CorruptedImage | NoisedImage | ErrorInjection | OtherImage


@dataclass(frozen=True, kw_only=True)
class Negatives:
    """What makes answers worse: `per_positive` dispreferred ones for each preferred one, each of a drawn kind, of
    different kinds as long as there are any."""

    kinds: tuple[Negative, ...]
    per_positive: int = 1

    def __post_init__(self) -> None:
        _require(bool(self.kinds), "kinds", self.kinds, "at least one kind of negative")
        _require(self.per_positive > 0, "per_positive", self.per_positive, "a positive number")


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """Preference pairs whose preferred answers are the data's own (BPO): of each sample its first question's answer.

    `sampling` is that of the dispreferred answers.
    """

    data: Instructions
    negatives: Negatives
    sampling: Sampling


@dataclass(frozen=True, kw_only=True)
class Auto:
    """vLLM where it is installed and serves the model, else transformers; each with its defaults."""


@dataclass(frozen=True, kw_only=True)
class Transformers:
    """`generate` of transformers in batches: every model, every device."""


@dataclass(frozen=True, kw_only=True)
class Vllm:
    """vLLM. Its name and `max_model_len` are part of what an answer is; the rest says where and how it runs.

    `tensor_parallel` GPUs share a model. A prompt with its answer has at most `max_model_len` tokens, None for as many
    as the model has positions. Up to `max_concurrent` answers grow at once; an actor hands over requests of
    `concurrent_batches` at once, so that the engine never runs dry. The cache of keys and values takes
    `gpu_memory_share` of a GPU with the weights, or `cpu_cache_gib` on a CPU. `max_lora_rank` bounds adapters; 0 turns
    them off, since an engine that takes them is a little slower. `eager` skips compilation and CUDA graphs.
    """

    tensor_parallel: int = 1
    max_model_len: int | None = None
    max_concurrent: int = 256
    concurrent_batches: int = 4
    gpu_memory_share: float = 0.9
    cpu_cache_gib: float = 4.0
    max_lora_rank: int = 0
    eager: bool = False

    def __post_init__(self) -> None:
        for name in ("tensor_parallel", "max_concurrent", "concurrent_batches", "cpu_cache_gib"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        fits = self.max_model_len is None or self.max_model_len > 0
        _require(fits, "max_model_len", self.max_model_len, "a positive number, or null for the model's own limit")
        _require(0 < self.gpu_memory_share <= 1, "gpu_memory_share", self.gpu_memory_share, "above 0 and at most 1")
        ranks = (0, 8, 16, 32, 64, 128, 256, 320, 512)
        _require(self.max_lora_rank in ranks, "max_lora_rank", self.max_lora_rank, f"one of {ranks}")


EngineSettings = Auto | Transformers | Vllm


@dataclass(frozen=True, kw_only=True)
class DpoLoss:
    """Regularised DPO (STIC): -logsigmoid(margin) - alpha * log p(chosen), the latter reduced by `reduction`."""

    beta: float
    alpha: float
    reduction: Literal["sum", "token_mean"]

    def __post_init__(self) -> None:
        _require(self.beta > 0, "beta", self.beta, "above 0")
        _require(self.alpha >= 0, "alpha", self.alpha, "0 or more")


@dataclass(frozen=True, kw_only=True)
class SftLoss:
    """Cross-entropy, the mean over the answer tokens of the global batch; on pairs, over the chosen answers."""


Loss = DpoLoss | SftLoss


@dataclass(frozen=True, kw_only=True)
class Blur:
    """A Gaussian blur whose radius (standard deviation) is that share of the image's short side."""

    radius: float

    def __post_init__(self) -> None:
        _require(0 < self.radius <= 1, "radius", self.radius, "above 0 and at most 1 (of the short side)")


@dataclass(frozen=True, kw_only=True)
class ConstantImage:
    """An image of the same size with one grey level, 0 to 255."""

    level: int = 127

    def __post_init__(self) -> None:
        _require(0 <= self.level <= 255, "level", self.level, "between 0 and 255")


@dataclass(frozen=True, kw_only=True)
class NoImage:
    """The conversation as text only."""


Blind = Blur | ConstantImage | NoImage


@dataclass(frozen=True, kw_only=True)
class Vig:
    """Visual information gain (VIG, arXiv 2602.17186): what stands for "without the image", and who scores.

    `scorer` is the checkpoint after alignment and before instruction tuning; null for the base, `model`.
    """

    blind: Blind
    scorer: Model | None = None


@dataclass(frozen=True, kw_only=True)
class AllTokens:
    """Every token of a selected answer is trained."""


@dataclass(frozen=True, kw_only=True)
class ThresholdTokens:
    """Tokens whose gain reaches `min_gain` (nats), null for the threshold of their sample's stratum, which is the
    paper's rule (VIG, section 3.3)."""

    min_gain: float | None = None


@dataclass(frozen=True, kw_only=True)
class PhraseTokens:
    """Words whose gain reaches `min_gain` (as in `ThresholdTokens`), and the structure around them.

    A word is what stands between spaces and separators (tokens without a letter or a digit); its gain is its tokens'
    largest. Ends of answers are always trained, a separator where the mean gain of the words of the phrase that it
    opens reaches `min_gain`, too, or where none follows: whether to go on is learnt from what is there.
    """

    min_gain: float | None = None


TokenRule = AllTokens | ThresholdTokens | PhraseTokens


@dataclass(frozen=True, kw_only=True)
class VigSelection:
    """The top `keep_share` of the samples with an image by their gain (VIG, section 3.2), and which of their tokens.

    Each stratum, samples that are alike in all of `strata`, has its own threshold; those of fewer than `min_stratum`
    samples are taken together. Samples without an image stay, and all their tokens.
    """

    keep_share: float
    tokens: TokenRule
    strata: tuple[Literal["category", "first_word"], ...] = ()
    min_stratum: int = 20

    def __post_init__(self) -> None:
        _require(0 < self.keep_share <= 1, "keep_share", self.keep_share, "above 0 and at most 1")
        _require(self.min_stratum > 0, "min_stratum", self.min_stratum, "a positive number")


@dataclass(frozen=True, kw_only=True)
class RandomSelection:
    """The control of a `VigSelection`: samples drawn, each as a whole, until they have as many trained tokens as that
    selection has. Samples without an image stay, as there."""

    like: VigSelection


@dataclass(frozen=True, kw_only=True)
class GainedPairs:
    """Pairs whose chosen answer is among the top `keep_share` by its gain."""

    keep_share: float

    def __post_init__(self) -> None:
        _require(0 < self.keep_share <= 1, "keep_share", self.keep_share, "above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class WeightedPairs:
    """Each pair weighs sigmoid((gain of chosen - gain of rejected) / temperature), divided by the mean of all."""

    temperature: float

    def __post_init__(self) -> None:
        _require(self.temperature > 0, "temperature", self.temperature, "above 0")


@dataclass(frozen=True, kw_only=True)
class MaskedPairs:
    """Of both answers only the tokens that `PhraseTokens` of this `min_gain` keeps, in the reference too."""

    min_gain: float


SampleSelection = VigSelection | RandomSelection
PairSelection = GainedPairs | WeightedPairs | MaskedPairs
Selection = VigSelection | RandomSelection | GainedPairs | WeightedPairs | MaskedPairs


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters on the linear layers of the language model's blocks."""

    rank: int
    lora_alpha: int

    def __post_init__(self) -> None:
        for name in ("rank", "lora_alpha"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "a positive number")


@dataclass(frozen=True, kw_only=True)
class FullFinetune:
    """Every weight of the language model and its embeddings; the vision tower stays frozen."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training stage. `projector_lr` None freezes the projector; a schedule is linear warm-up, then cosine.

    `steps` is the number of optimiser steps, null for as many as `epochs` take.
    `selection` says which of its samples or pairs, and which of their tokens, are trained on; null for all.
    """

    loss: Loss
    weights: Lora | FullFinetune
    lr: float
    epochs: int
    global_batch: int
    projector_lr: float | None = None
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    max_length: int = MAX_LENGTH
    steps: int | None = None
    selection: Selection | None = None

    def __post_init__(self) -> None:
        for name in ("lr", "epochs", "global_batch", "max_grad_norm", "max_length"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        _require(
            self.projector_lr is None or self.projector_lr > 0, "projector_lr", self.projector_lr, "above 0, or null"
        )
        _require(self.steps is None or self.steps > 0, "steps", self.steps, "above 0, or null")
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        _require(0 <= self.warmup_ratio < 1, "warmup_ratio", self.warmup_ratio, "at least 0 and below 1")


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
        _require(
            bool(self.objects) == bool(self.vocabulary), "vocabulary", self.vocabulary, "set together with objects"
        )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What the models are measured on. `resamples` is the number of bootstrap draws behind each interval."""

    test: Benchmark
    dev: Benchmark | None = None
    resamples: int = 1000
    max_new_tokens: int = 128

    def __post_init__(self) -> None:
        _require(self.resamples > 0, "resamples", self.resamples, "above 0")
        _require(self.max_new_tokens > 0, "max_new_tokens", self.max_new_tokens, "above 0")


@dataclass(frozen=True, kw_only=True)
class Pool:
    """An actor pool: between `min_size` and `max_size` actors, each with these resources."""

    min_size: int = 1
    max_size: int = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0

    def __post_init__(self) -> None:
        wanted = f"at least 1 and at most max_size ({self.max_size})"
        _require(1 <= self.min_size <= self.max_size, "min_size", self.min_size, wanted)
        for name in ("num_cpus", "num_gpus"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        whole = self.num_gpus <= 1 or float(self.num_gpus).is_integer()
        _require(whole, "num_gpus", self.num_gpus, "a part of one GPU, or a whole number of them")


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Where and how it runs. Nothing here enters a fingerprint or changes a result, but that `engine: Auto` takes vLLM
    or transformers by what the pool gives."""

    pool: Pool = field(default_factory=Pool)
    task_cpus: float = 0.5
    batch_size: int = 64
    rows_per_file: int = 256
    num_train_workers: int = 1
    train_cpus: float = 1.0
    train_gpus: float = 0.0
    micro_batch: int = 8
    checkpoint_every: int = 100
    max_train_failures: int = 3
    max_reject_rate: float = 0.5

    def __post_init__(self) -> None:
        sizes = ("batch_size", "rows_per_file", "num_train_workers", "micro_batch", "checkpoint_every")
        for name in ("task_cpus", "train_cpus", *sizes):
            _require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        for name in ("train_gpus", "max_train_failures"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        _require(0 <= self.max_reject_rate <= 1, "max_reject_rate", self.max_reject_rate, "between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run: preference training (stage 1) on pairs, then fine-tuning (stage 2) on instruction samples.

    Pairs come from `unlabeled` images, which the model describes itself (STIC: `prompts`, `negatives`, `sampling`),
    from `annotated` data (BPO), are `imported`, or all of these; null for none. A stage is left out by null;
    `stage1_control` and `stage2_control` are the controls beside them. `vig` is how gains are measured for the stages'
    `selection`. Stage 1 runs in `rounds`: the model of each writes the next one's pairs about the same images, is its
    reference and trained on.
    """

    name: str
    seed: int
    model: Model
    unlabeled: ImageSource | None
    instructions: Instructions | None
    prompts: Prompts
    negatives: Negatives
    sampling: Sampling
    stage1: Training | None
    stage1_control: Training | None
    stage2: Training | None
    stage2_control: Training | None
    rounds: int = 1
    annotated: Annotated | None = None
    imported: ImportedPairs | None = None
    evaluation: Evaluation | None = None
    vig: Vig | None = None
    duplicates: Duplicates = field(default_factory=ExactDuplicates)
    engine: EngineSettings = field(default_factory=Auto)
    execution: Execution = field(default_factory=Execution)
    store: str = "./store"
    runs: str = "./runs"

    def __post_init__(self) -> None:
        plain = self.name.strip(".") != "" and "/" not in self.name and ".." not in self.name
        _require(plain and len(self.name) <= 100, "name", self.name, "a plain name of at most 100 characters")
        preference = self.stage1 is None or isinstance(self.stage1.loss, DpoLoss)
        _require(preference, "stage1.loss", self.stage1 and self.stage1.loss, "type: DpoLoss")
        for name in ("stage1_control", "stage2", "stage2_control"):
            training = getattr(self, name)
            sft = training is None or isinstance(training.loss, SftLoss)
            _require(sft, f"{name}.loss", training and training.loss, "type: SftLoss")
        self._check_data()
        self._check_selections()
        again = not self.prompts.infused and self.stage2 is not None and self.stage2 == self.stage2_control
        wanted = "null or with another selection: without prompts.infused it would be stage2 again"
        _require(not again, "stage2_control", "as stage2", wanted)
        for name, control in (("stage1", self.stage1_control), ("stage2", self.stage2_control)):
            _require(control is None or getattr(self, name), f"{name}_control", "set", f"null, where {name} is")
            limit = getattr(self, name) and getattr(self, name).max_length
            fits = control is None or control.max_length >= limit
            wanted = f"at least {name}.max_length ({limit}), since both train on the same data"
            _require(fits, f"{name}_control.max_length", control and control.max_length, wanted)
        workers = self.execution.num_train_workers
        for name in ("stage1", "stage1_control", "stage2", "stage2_control"):
            batch = getattr(self, name) and getattr(self, name).global_batch
            wanted = f"a multiple of execution.num_train_workers ({workers})"
            _require(batch is None or batch % workers == 0, f"{name}.global_batch", batch, wanted)

    def _check_data(self) -> None:
        has_pairs = any(source is not None for source in (self.unlabeled, self.annotated, self.imported))
        wanted = "null, or unlabeled, annotated or imported set: it needs pairs"
        _require(self.stage1 is None or has_pairs, "stage1", "set", wanted)
        wanted = "a positive number" if self.stage1 is not None else "1, where stage1 is null"
        _require(self.rounds == 1 or (self.rounds > 0 and self.stage1 is not None), "rounds", self.rounds, wanted)
        _require(
            self.stage2 is None or self.instructions is not None, "instructions", None, "set, since stage2 needs it"
        )
        every = self.negatives.kinds if self.unlabeled else ()
        every += self.annotated.negatives.kinds if self.annotated else ()
        if any(isinstance(kind, ErrorInjection) for kind in every):
            for name in ("rewrite_description", "rewrite_answer"):
                _require(bool(getattr(self.prompts, name)), f"prompts.{name}", "", "set, since ErrorInjection needs it")

    def _check_selections(self) -> None:
        for name, kinds in (("stage1", PairSelection), ("stage2", SampleSelection)):
            for training in (name, f"{name}_control"):
                chosen = getattr(self, training) and getattr(self, training).selection
                types_of = ", ".join(kind.__name__ for kind in get_args(kinds))
                fits = chosen is None or isinstance(chosen, kinds)
                _require(fits, f"{training}.selection.type", type(chosen).__name__, f"one of {types_of}")
                _require(
                    chosen is None or self.vig is not None, "vig", None, f"set, since {training}.selection needs it"
                )


class _MissingError(ValueError):
    """Settings without a default that nobody gave."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        given = " ".join(f"{name}=VALUE" for name in names)
        one = len(names) == 1
        which = f"{names[0]} is" if one else f"{', '.join(names[:-1])} and {names[-1]} are"
        them = "it" if one else "them"
        super().__init__(f"{which} missing: set {them} in the configuration or as {given}")


def _require(met: bool, name: str, value: object, wanted: str) -> None:
    if not met:
        raise ValueError(f"{name} is {value!r}: it must be {wanted}")


def parse_config(tree: Mapping[str, Any], overrides: list[str]) -> Config:
    """A configuration from a parsed YAML tree and overrides like `stage1.loss.alpha=1e-3`.

    Raises:
        ValueError: an unknown key (with the nearest known one), a wrong type, a missing key or a value that
            cannot be; the message names the dotted field and the remedy.
    """
    merged = _deep_copy(tree)
    for override in overrides:
        _apply(merged, override)
    config: Config = _build(Config, merged, "")
    return config


def read_yaml(text: str, origin: str) -> dict[str, Any]:
    """The mapping that a YAML text holds.

    Raises:
        ValueError: not YAML, or not a mapping at the top.
    """
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: what looks like a date and is none
        raise ValueError(f"{origin}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{origin}: the top level must be a mapping of settings, not {type(tree).__name__}")
    return tree


def to_tree(value: Any) -> Any:
    """A configuration leaf as plain JSON data, variants with their `type`; the inverse of reading it."""
    if is_dataclass(value) and not isinstance(value, type):
        tree = {f.name: to_tree(getattr(value, f.name)) for f in fields(value)}
        return {"type": type(value).__name__, **tree} if type(value) in _VARIANTS else tree
    if isinstance(value, tuple):
        return [to_tree(item) for item in value]
    return value


_VARIANTS = {
    *get_args(ImageSource),
    *get_args(Duplicates),
    *get_args(Instructions),
    *get_args(EngineSettings),
    Downsize,
    ColorJitter,
    DpoLoss,
    SftLoss,
    Lora,
    FullFinetune,
    *get_args(Blind),
    *get_args(Negative),
    *get_args(TokenRule),
    *get_args(Selection),
}


def _deep_copy(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _deep_copy(value) if isinstance(value, Mapping) else value for key, value in tree.items()}


def _apply(tree: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    if not separator or not path:
        raise ValueError(f"override {override!r}: write it as dotted.key=value")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        raise ValueError(f"{path}: the value {text!r} is not valid YAML; quote it") from None
    *parents, leaf = path.split(".")
    for depth, name in enumerate(parents):
        child = tree.setdefault(name, {})
        if child is None:
            child = tree[name] = {}
        if not isinstance(child, dict):
            raise ValueError(f"{path}: {'.'.join(parents[: depth + 1])} holds {child!r} and has no keys of its own")
        tree = child
    tree[leaf] = value


def _build(kind: Any, value: Any, path: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _build_union(get_args(kind), value, path)
    if origin is Literal:
        options = get_args(kind)
        if value not in options:
            raise ValueError(f"{path} is {value!r}: it must be one of {', '.join(options)}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{path} is {value!r}: it must be a list")
        item = get_args(kind)[0]
        return tuple(_build(item, entry, f"{path}[{index}]") for index, entry in enumerate(value))
    if is_dataclass(kind):
        return _build_dataclass(kind, value, path)
    return _build_scalar(kind, value, path)


def _build_union(options: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in options:
        return None
    concrete = [option for option in options if option is not type(None)]
    if len(concrete) == 1:
        return _build(concrete[0], value, path)
    by_name = {option.__name__: option for option in concrete}
    if not isinstance(value, Mapping) or value.get("type") not in list(by_name):
        given = value.get("type") if isinstance(value, Mapping) else value
        hint = _nearest(str(given), list(by_name))
        raise ValueError(f"{path}.type is {given!r}: it must be one of {', '.join(by_name)}{hint}")
    return _build(by_name[value["type"]], {k: v for k, v in value.items() if k != "type"}, path)


def _build_dataclass(kind: Any, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"{path} is {value!r}: it must be a mapping of settings ({', '.join(_names(kind))})")
    hints = get_type_hints(kind)
    if kind in _VARIANTS and value.get("type") == kind.__name__:
        value = {k: v for k, v in value.items() if k != "type"}
    for key in value:
        if key not in hints:
            where = f"{path}.{key}" if path else str(key)
            known = ", ".join(_names(kind)) or "none"
            raise ValueError(f"unknown setting {where}{_nearest(str(key), _names(kind))} (known here: {known})")
    arguments = {}
    missing: list[str] = []
    for entry in fields(kind):
        where = f"{path}.{entry.name}" if path else entry.name
        if entry.name in value:
            try:
                arguments[entry.name] = _build(hints[entry.name], value[entry.name], where)
            except _MissingError as error:
                missing += error.names
        elif entry.default is MISSING and entry.default_factory is MISSING:
            missing.append(where)
    if missing:
        raise _MissingError(missing)
    try:
        return kind(**arguments)
    except ValueError as error:
        raise ValueError(f"{path}.{error}" if path else str(error)) from None


def _build_scalar(kind: Any, value: Any, path: str) -> Any:
    if kind is float:
        number = _as_float(value)
        if number is None:
            raise ValueError(f"{path} is {value!r}: it must be a finite number")
        return number
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        names = {int: "a whole number", str: "a text", bool: "true or false"}
        raise ValueError(f"{path} is {'empty' if value is None else repr(value)}: it must be {names[kind]}")
    if kind is int and abs(value) > _MAX_INT:
        raise ValueError(f"{path} is {value}: it must be a number of at most {_MAX_INT}")
    return value


def _as_float(value: Any) -> float | None:
    """YAML 1.1 reads 1e-3 as a text; whoever writes it means the number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _names(kind: Any) -> list[str]:
    return [entry.name for entry in fields(kind)]


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f": did you mean {close[0]}?" if close else ""
