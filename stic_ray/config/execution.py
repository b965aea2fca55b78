"""Engines, and where and how it runs."""

import re
from dataclasses import dataclass, field

from stic_ray.config.checks import require


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
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        fits = self.max_model_len is None or self.max_model_len > 0
        require(fits, "max_model_len", self.max_model_len, "a positive number, or null for the model's own limit")
        require(0 < self.gpu_memory_share <= 1, "gpu_memory_share", self.gpu_memory_share, "above 0 and at most 1")
        ranks = (0, 8, 16, 32, 64, 128, 256, 320, 512)
        require(self.max_lora_rank in ranks, "max_lora_rank", self.max_lora_rank, f"one of {ranks}")


EngineSettings = Auto | Transformers | Vllm


@dataclass(frozen=True, kw_only=True)
class Pool:
    """An actor pool: between `min_size` and `max_size` actors, each with these resources."""

    min_size: int = 1
    max_size: int = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0

    def __post_init__(self) -> None:
        wanted = f"at least 1 and at most max_size ({self.max_size})"
        require(1 <= self.min_size <= self.max_size, "min_size", self.min_size, wanted)
        for name in ("num_cpus", "num_gpus"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        whole = self.num_gpus <= 1 or float(self.num_gpus).is_integer()
        require(whole, "num_gpus", self.num_gpus, "a part of one GPU, or a whole number of them")


@dataclass(frozen=True, kw_only=True)
class Wandb:
    """Weights & Biases; who is logged in, and where, is its own matter (WANDB_API_KEY, WANDB_MODE)."""

    project: str = "stic_ray"


@dataclass(frozen=True, kw_only=True)
class Mlflow:
    """An MLflow tracking server or database, or a folder, which gets a database (`mlflow ui --backend-store-uri
    sqlite:///FOLDER/mlflow.db`): on a disk that all who write to it share, with file locks that work."""

    uri: str
    experiment: str = "stic_ray"

    @property
    def is_folder(self) -> bool:
        """Whether `uri` is a folder's path."""
        return "://" not in self.uri and self.uri != "databricks"


Tracker = Wandb | Mlflow


@dataclass(frozen=True, kw_only=True)
class Hub:
    """A model hub's repository, `owner/name`, made if it is not there; who is logged in is its matter (HF_TOKEN)."""

    repo: str
    private: bool = True

    def __post_init__(self) -> None:
        plain = re.fullmatch(r"[\w.-]+/[\w.-]+", self.repo, re.ASCII) is not None
        require(plain, "repo", self.repo, "like owner/name, of letters, digits, ., _ and -")


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Where and how it runs. Nothing here enters a fingerprint or changes a result, but that `engine: Auto` takes vLLM
    or transformers by what the pool gives, `OtherImage` looks beside an image in its file of `rows_per_file`, and
    dropout draws by worker and row.

    Scoring and training put conversations together into rows of up to `row_tokens` tokens, images included: memory
    grows with it. Training goes on with `min_train_workers` where no more can be had, null for all of them; with
    `recompute_activations` it holds a fraction of the memory for about a third more work. A checkpoint is taken every
    `checkpoint_every` steps and written while training goes on, unless it is to `wait_for_checkpoints`. TensorBoard is
    written always, `trackers` are told too. `gpu_hour_price` is what a GPU costs an hour, in any currency: reports and
    Prometheus then say what was spent.
    """

    pool: Pool = field(default_factory=Pool)
    task_cpus: float = 0.5
    batch_size: int = 64
    rows_per_file: int = 256
    row_tokens: int = 4096
    num_train_workers: int = 1
    min_train_workers: int | None = None
    train_cpus: float = 1.0
    train_gpus: float = 0.0
    recompute_activations: bool = False
    checkpoint_every: int = 100
    keep_checkpoints: int = 2
    wait_for_checkpoints: bool = False
    max_train_failures: int = 3
    max_reject_rate: float = 0.5
    trackers: tuple[Tracker, ...] = ()
    gpu_hour_price: float | None = None

    def __post_init__(self) -> None:
        sizes = (
            "batch_size",
            "rows_per_file",
            "row_tokens",
            "num_train_workers",
            "checkpoint_every",
            "keep_checkpoints",
        )
        for name in ("task_cpus", "train_cpus", *sizes):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        for name in ("train_gpus", "max_train_failures"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        price = self.gpu_hour_price
        require(price is None or 0 <= price < float("inf"), "gpu_hour_price", price, "0 or more, or null")
        fits = self.min_train_workers is None or 1 <= self.min_train_workers <= self.num_train_workers
        wanted = f"null, or between 1 and num_train_workers ({self.num_train_workers})"
        require(fits, "min_train_workers", self.min_train_workers, wanted)
        require(0 <= self.max_reject_rate <= 1, "max_reject_rate", self.max_reject_rate, "between 0 and 1")
