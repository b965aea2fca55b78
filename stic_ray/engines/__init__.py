"""Generation and scoring behind small protocols. Starting an engine imports its library; importing this does not."""

from stic_ray.engines.protocol import Engine, Scorer, TokenCounter


def start_engine(*, model_uri: str, dtype: str, batch_size: int) -> Engine:
    """The generation engine for a model, with its weights loaded."""
    from stic_ray.engines.transformers_engine import TransformersEngine

    return TransformersEngine(model_uri, dtype, batch_size)


def start_scorer(*, model_uri: str, dtype: str, batch_size: int) -> Scorer:
    """The scorer of given answers for a model, with its weights loaded."""
    from stic_ray.engines.transformers_scorer import TransformersScorer

    return TransformersScorer(model_uri, dtype, batch_size)


def start_token_counter(*, model_uri: str) -> TokenCounter:
    """The counter of a model's tokens, with its processor loaded."""
    from stic_ray.engines.transformers_scorer import TransformersTokenCounter

    return TransformersTokenCounter(model_uri)
