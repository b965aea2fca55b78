"""How fast a training is, and how much of its device it uses."""

import time
from pathlib import Path

import torch

from stic_ray import vlm

_SIDE = 1024  # of the matrices whose product says what the device gives


class Meter:
    """Speeds of a training's steps, by counts of its weights and by what its devices give in a product of matrices.

    FLOPs are those of the language model's blocks: 2 a weight and token forward, 2 backward, 2 more where it trains.
    Recomputed activations, attention, the head and the vision tower are left out: the use is a lower bound.
    """

    def __init__(self, scorer: vlm.AnswerScorer, device: torch.device, world: int) -> None:
        parameters = [p for unit in vlm.sharding_units(scorer.model) for p in unit.parameters()]
        frozen = sum(p.numel() for p in parameters if not p.requires_grad)
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        self._flops_per_token = 4 * frozen + 6 * trained
        low = any(p.dtype == torch.bfloat16 for p in parameters)
        self._flops = world * measure_flops(device, torch.bfloat16 if low else torch.float32)

    def speeds(self, num_tokens: float, num_items: int, seconds: float) -> dict[str, float]:
        """Of a step of all workers over that many tokens of rows."""
        return {
            "tokens_per_s": num_tokens / seconds,
            "samples_per_s": num_items / seconds,
            "flops_use": self._flops_per_token * num_tokens / seconds / self._flops,
        }


def measure_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a product of matrices there: the best of a few, in what this worker may use of the device."""
    side = _SIDE if device.type == "cpu" else 8 * _SIDE
    one, other = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
    best = float("inf")
    for _ in range(4):
        begin = time.perf_counter()
        float((one @ other)[0, 0])  # reading a number waits for the device
        best = min(best, time.perf_counter() - begin)
    return 2 * side**3 / best


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory that this worker has had so far, on its GPU or, without one, of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    lines = Path("/proc/self/status")
    if not lines.exists():  # not Linux
        return 0
    peak = next(line for line in lines.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024
