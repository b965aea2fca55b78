"""What a process of a stage holds in memory, part by part, from the model's sizes and the settings alone.

The parts are those that the forward of `vlm/scorer.py` and the loop of `train/loop.py` keep; docs/planning.md derives
them. Peaks of activations and of gradients do not coincide: activations go as gradients come.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from stic_ray.config import AdapterOff, Execution, Lora, Training, Transformers, Vllm, blind_of
from stic_ray.vlm import Sizes

BYTES = {"float32": 4, "bfloat16": 2}
USABLE = 0.92  # of a GPU's memory: the rest is CUDA's context and what the allocator cannot use
_FOUR_BITS = 0.52  # bytes a weight, NF4 with its constants
_MOMENTS = 8  # AdamW's two, in float32, a trained weight
_SLICE = 256  # positions that meet the head at once (vlm/scorer.py)
_AHEAD = 3  # steps whose images are there: the one that trains and those read ahead (train/feed.py)
_PREFILL_TOKENS = 8192  # that vLLM reads at once, unless the model has fewer positions
_WORKERS = (2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a forward takes: positions, how many keys its branches attend to, answer positions, images.

    A pair's row holds its beginning once; each of both answers attends to the beginning and itself, and the keys and
    values of that are copies: `branch_keys` counts them.
    """

    tokens: int
    branch_keys: int
    scored: int
    images: int


@dataclass(frozen=True, kw_only=True)
class Held:
    """What is held, in bytes by part; `room` is what there is, None where nobody said."""

    what: str
    parts: Mapping[str, float]
    room: float | None = None
    remedies: tuple[str, ...] = ()
    note: str = ""

    @property
    def total(self) -> float:
        """The peak."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether there is room, as far as it is known."""
        return self.room is None or self.total <= self.room


def pair_row(tokens: int, beginning: float, answer: float) -> Row:
    """A row of pairs that share a beginning of so many tokens, with two answers of so many each."""
    pairs = max(1, int(tokens // (beginning + 2 * answer)))
    length = pairs * (beginning + 2 * answer)
    keys = pairs * 2 * (beginning + answer)
    return Row(tokens=round(length), branch_keys=round(keys), scored=round(pairs * 2 * answer), images=pairs)


def sample_row(tokens: int, beginning: float, answer: float) -> Row:
    """A row of conversations that share nothing."""
    samples = max(1, int(tokens // (beginning + answer)))
    length = samples * (beginning + answer)
    return Row(tokens=round(length), branch_keys=0, scored=round(samples * answer), images=samples)


# Training


@dataclass(frozen=True, kw_only=True)
class Work:
    """A training on one of `workers`: its row, its items a step, and the settings that its memory depends on."""

    row: Row
    items: int
    dtype: str
    execution: Execution
    training: Training

    @property
    def workers(self) -> int:
        """Workers that share the model."""
        return self.execution.num_train_workers


def training_memory(what: str, sizes: Sizes, work: Work, room: float | None) -> Held:
    """The peak of a training worker, with what would make it fit where it does not.

    Its remedies are settings, the cheapest first.
    """
    held = Held(what=what, parts=_training_parts(sizes, work), room=room)
    if held.fits:
        return held
    return replace(held, remedies=tuple(_training_remedies(sizes, work, room or 0.0)))


def _training_parts(sizes: Sizes, work: Work) -> dict[str, float]:
    low = BYTES[work.dtype]
    weights = _frozen_bytes(sizes, work) + 4 * sizes.trained
    layer = _activations(sizes, work) + _temporary(sizes, work)
    if work.execution.recompute_activations:
        activations = work.row.tokens * sizes.hidden * low * sizes.layers + layer
    else:
        activations = _activations(sizes, work) * sizes.layers + _temporary(sizes, work)
    activations += _head(sizes, work)
    shared = work.workers
    gradients = 4 * sizes.trained / shared
    at_begin = activations + 4 * sizes.trained_head / shared
    at_end = gradients + layer
    parts = {
        "weights": weights / shared,
        "optimiser": _MOMENTS * sizes.trained / shared,
        "activations": max(at_begin, at_end) - (gradients if at_end > at_begin else 4 * sizes.trained_head / shared),
        "gradients": gradients if at_end > at_begin else 4 * sizes.trained_head / shared,
        "images": float(_AHEAD * work.items * 4 * sizes.pixels),
    }
    if low == 2:
        parts["casts of what trains"] = 2.0 * sizes.trained / shared
    if shared > 1:
        parts["gathered blocks"] = _gathered(sizes, low)
    return parts


def _frozen_bytes(sizes: Sizes, work: Work) -> float:
    weights = work.training.weights
    low = BYTES[work.dtype]
    if isinstance(weights, Lora) and weights.quantize:
        return _FOUR_BITS * sizes.language + low * (sizes.head + sizes.other)
    return float(low * sizes.frozen)


def _activations(sizes: Sizes, work: Work) -> float:
    """What one block holds for the backward pass.

    Norms hold their input in float32; linear layers that train or have an adapter hold theirs; attention its queries,
    keys, values and result, and the result once more behind each other; the MLP four of its width.
    """
    row, low = work.row, BYTES[work.dtype]
    full = not sizes.adapter_rank
    norms = 2 * sizes.hidden * (4 + (low if full else 0))
    linear = 2 * sizes.hidden + 4 * sizes.mlp + 7 * sizes.adapter_rank
    attention = 5 * sizes.query
    keys = 2 * sizes.query * row.branch_keys
    return float(row.tokens * (norms + low * (linear + attention)) + low * keys)


def _temporary(sizes: Sizes, work: Work) -> float:
    """Gradients of one block's activations while they are on their way."""
    return float(work.row.tokens * BYTES[work.dtype] * (3 * sizes.mlp + 2 * sizes.hidden))


def _head(sizes: Sizes, work: Work) -> float:
    """Logits of a slice with what is made of them, and the hidden states that meet the head with their gradient."""
    return float(_SLICE * sizes.vocabulary * 8 + 2 * work.row.scored * sizes.hidden * 4)


def _gathered(sizes: Sizes, low: int) -> float:
    """Two blocks, and all that is in none, which FSDP2's root keeps until the backward pass ends.

    Weights that train are gathered in float32.
    """
    outside = max(0, sizes.weights - sizes.layers * sizes.block)
    return float((low if sizes.adapter_rank else 4) * (2 * sizes.block + outside))


def _training_remedies(sizes: Sizes, work: Work, room: float) -> Iterator[str]:
    """Settings that would make it fit alone, else together with recomputed activations."""

    def fits(changed: Work, of: Sizes = sizes) -> bool:
        return sum(_training_parts(of, changed).values()) <= room

    def with_execution(**changes: object) -> Work:
        return replace(work, execution=replace(work.execution, **changes))  # type: ignore[arg-type]

    recomputed = with_execution(recompute_activations=True)
    if fits(recomputed):
        yield "execution.recompute_activations=true"
    shortest = max(1, work.row.tokens // max(1, work.row.images))
    for tokens in (work.row.tokens // 2, work.row.tokens // 4, shortest):
        if shortest <= tokens < work.row.tokens:
            smaller = replace(work, row=_scaled(work.row, tokens / work.row.tokens))
            if fits(smaller):
                yield f"execution.row_tokens={tokens}"
                break
    for base in (work, recomputed):
        more = next((n for n in _WORKERS if n > work.workers and fits(_on(base, n))), None)
        if more is not None:
            also = " with execution.recompute_activations=true" if base is recomputed else ""
            yield f"execution.num_train_workers={more}{also}"
            break
    weights = work.training.weights
    if isinstance(weights, Lora) and not weights.quantize:
        if _may_quantize(work) and fits(replace(recomputed, training=_quantized(work.training, weights))):
            yield "weights.quantize=true with execution.recompute_activations=true (4 bits, reference AdapterOff)"
    elif not isinstance(weights, Lora):
        yield "weights={type: Lora, ...}: adapters train a hundredth of the weights"


def _may_quantize(work: Work) -> bool:
    """What the configuration accepts: the reference is then the model with its adapters off."""
    training = work.training
    return work.execution.train_gpus > 0 and training.projector_lr is None and blind_of(training.loss) is None


def _quantized(training: Training, weights: Lora) -> Training:
    return replace(training, weights=replace(weights, quantize=True), reference=AdapterOff())


def _scaled(row: Row, factor: float) -> Row:
    return Row(
        tokens=round(row.tokens * factor),
        branch_keys=round(row.branch_keys * factor),
        scored=round(row.scored * factor),
        images=max(1, round(row.images * factor)),
    )


def _on(work: Work, workers: int) -> Work:
    execution = replace(work.execution, num_train_workers=workers, min_train_workers=None)
    return replace(work, execution=execution, items=max(1, work.training.global_batch // workers))


# Answers and scores


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What an engine is asked: tokens of a prompt, image included, and of an answer."""

    prompt: float
    answer: float


def scoring_memory(what: str, sizes: Sizes, work: Row, dtype: str, room: float | None) -> Held:
    """The peak of a scorer."""
    low = BYTES[dtype]
    parts = {
        "weights": float(low * sizes.weights),
        "activations": float(work.tokens * low * (3 * sizes.mlp + 8 * sizes.hidden) + _SLICE * sizes.vocabulary * 8),
        "images": float(work.images * 4 * sizes.pixels),
    }
    held = Held(what=what, parts=parts, room=room)
    return held if held.fits else replace(held, remedies=("execution.row_tokens smaller", _LARGER))


_LARGER = "a GPU with more memory: a scorer is not shared between GPUs"


def transformers_memory(what: str, sizes: Sizes, asked: Asked, setting: tuple[str, int], room: float | None) -> Held:
    """The peak of the transformers engine with a dtype and a batch size."""
    dtype, batch = setting
    low = BYTES[dtype]
    cache = 2 * sizes.layers * sizes.key_value * low
    parts = {
        "weights": float(low * sizes.weights),
        "KV cache": batch * (asked.prompt + asked.answer) * cache,
        "activations": batch * (asked.prompt * low * (3 * sizes.mlp + 4 * sizes.hidden) + sizes.vocabulary * 8),
        "images": float(batch * 4 * sizes.pixels),
    }
    held = Held(what=what, parts=parts, room=room)
    if held.fits or room is None:
        return held
    left = room - parts["weights"]
    most = int(batch * left / (held.total - parts["weights"]))
    return replace(held, remedies=(f"execution.batch_size={most}" if most >= 1 else "a GPU with more memory",))


def vllm_memory(what: str, sizes: Sizes, asked: Asked, setting: tuple[str, Vllm], gpu_bytes: float) -> Held:
    """What vLLM puts into its share of each GPU; the cache takes what weights and activations leave.

    It fits where the cache holds one prompt with its answer of the greatest length.
    """
    dtype, vllm = setting
    low, parallel = BYTES[dtype], vllm.tensor_parallel
    room = vllm.gpu_memory_share * gpu_bytes
    longest = vllm.max_model_len or sizes.positions
    read = min(_PREFILL_TOKENS, max(longest, 2048))
    fixed = {
        "weights": low * sizes.weights / parallel,
        "activations": read * low * (3 * sizes.mlp / parallel + 4 * sizes.hidden)
        + vllm.max_concurrent * sizes.vocabulary * 4,
    }
    token = 2 * sizes.layers * sizes.key_value * low / parallel
    left = room - sum(fixed.values())
    if left < longest * token:
        parts = {**fixed, "KV cache for one answer": longest * token}
        remedies = [f"engine.tensor_parallel={2 * parallel} with execution.pool.num_gpus={2 * parallel}"]
        if left > 0:
            remedies.insert(0, f"engine.max_model_len={int(left / token)}")
        return Held(what=what, parts=parts, room=room, remedies=tuple(remedies))
    at_once = min(vllm.max_concurrent, left / token / max(1.0, asked.prompt + asked.answer))
    note = f"{at_once:.0f} answers of {asked.prompt + asked.answer:.0f} tokens at once"
    return Held(what=what, parts={**fixed, "KV cache": left}, room=room, note=note)


def is_vllm(engine: object, served: bool) -> bool:
    """Whether an engine's settings stand for vLLM; `served` says so of `Auto`."""
    return isinstance(engine, Vllm) or (served and not isinstance(engine, Transformers))
