"""Which processes of a run fit into the memory of a cluster's GPUs or nodes."""

from collections.abc import Iterator

from stic_ray import storage, vlm
from stic_ray.checkpoint import is_served_by_vllm
from stic_ray.config import Config, SftLoss, Training, Vllm
from stic_ray.planner.clusters import Cluster
from stic_ray.planner.memory import (
    USABLE,
    Asked,
    Held,
    Work,
    is_vllm,
    pair_row,
    sample_row,
    scoring_memory,
    training_memory,
    transformers_memory,
    vllm_memory,
)
from stic_ray.planner.rates import Rates, StageRate
from stic_ray.vlm import Sizes

_PROMPT, _ANSWER = 700.0, 200.0  # tokens, where nothing was measured: LLaVA-1.5's image with a question, a description


def check_memory(config: Config, cluster: Cluster, rates: Rates | None) -> list[Held]:
    """What an actor that writes, one that scores and a worker of each training hold; only of what the run has.

    Raises:
        ValueError: model.path holds no config.json, or is of a family that is not known.
    """
    path = config.model.path
    if not storage.exists(storage.join(path, "config.json")):
        raise ValueError(f"model.path {path} holds no config.json: give a checkpoint, or a directory with that file")
    path = storage.local_copy(path)
    asked = _asked(rates)
    sizes = vlm.read_sizes(path)
    found = list(_of_pool(config, cluster, sizes, asked))
    for name, training in config.trainings().items():
        found.append(_of_training(config, cluster, (name, training, path), asked, _step_tokens(rates, name)))
    return found


def assumed_lengths(rates: Rates | None) -> str:
    """That nothing was measured of how long texts are; "" where it was."""
    if _writing(rates):
        return ""
    return (
        f"memory is that of {_PROMPT:.0f} tokens in a prompt and {_ANSWER:.0f} in an answer, since none were measured: "
        "give --calibrate N or --from runs/NAME"
    )


def _writing(rates: Rates | None) -> list[StageRate]:
    return [rate for rate in rates.stages if rate.tokens_in and rate.requests] if rates is not None else []


def _asked(rates: Rates | None) -> Asked:
    """Tokens of a prompt and of an answer, as they were measured where the model describes."""
    writes = _writing(rates)
    if not writes:
        return Asked(prompt=_PROMPT, answer=_ANSWER)
    longest: StageRate = max(writes, key=lambda rate: (rate.tokens_in + rate.tokens_out) / rate.requests)
    return Asked(prompt=longest.tokens_in / longest.requests, answer=longest.tokens_out / longest.requests)


def _step_tokens(rates: Rates | None, name: str) -> float:
    found = [rate.step_tokens for rate in rates.stages if rate.stage == name] if rates is not None else []
    return max(found, default=0.0)


def _of_pool(config: Config, cluster: Cluster, sizes: Sizes, asked: Asked) -> Iterator[Held]:
    pool, dtype = config.execution.pool, config.model.dtype
    room = _room(cluster, pool.num_gpus, pool.num_cpus)
    writes = config.unlabeled or config.annotated or config.evaluation or (config.stage2 and config.prompts.infused)
    if writes and pool.num_gpus and cluster.gpu_bytes and is_vllm(config.engine, is_served_by_vllm(config.model.path)):
        engine = config.engine if isinstance(config.engine, Vllm) else Vllm()
        yield vllm_memory("answers (vLLM)", sizes, asked, (dtype, engine), cluster.gpu_bytes)
    elif writes:
        setting = (dtype, config.execution.batch_size)
        yield transformers_memory("answers (transformers)", sizes, asked, setting, room)
    row = sample_row(config.execution.row_tokens, asked.prompt, asked.answer)
    if config.stage1 is not None or config.vig is not None:
        yield scoring_memory("scores", sizes, row, dtype, room)


def _of_training(
    config: Config, cluster: Cluster, which: tuple[str, Training, str], asked: Asked, step_tokens: float
) -> Held:
    name, training, path = which
    execution = config.execution
    sizes = vlm.read_sizes(path, training)
    items = max(1, training.global_batch // execution.num_train_workers)
    tokens = float(execution.row_tokens)
    if step_tokens:  # a step that has fewer tokens than a row has a smaller row
        tokens = min(tokens, step_tokens / training.global_batch * items)
    make = sample_row if isinstance(training.loss, SftLoss) else pair_row
    row = make(round(tokens), asked.prompt, asked.answer)
    work = Work(row=row, items=items, dtype=config.model.dtype, execution=execution, training=training)
    return training_memory(name, sizes, work, _room(cluster, execution.train_gpus, execution.train_cpus))


def _room(cluster: Cluster, gpus: float, cpus: float) -> float | None:
    """What a process may take: its part of a GPU, or of a node's memory by its cores."""
    if gpus:
        return None if cluster.gpu_bytes is None else min(gpus, 1.0) * cluster.gpu_bytes * USABLE
    if cluster.memory_gib is None:
        return None
    return cluster.memory_gib * 2.0**30 * min(1.0, cpus / cluster.cpus)
