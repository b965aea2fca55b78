"""AdamW with a rate of its own for the projector, and how the rates change."""

import math

import torch
from torch import nn

from stic_ray import vlm
from stic_ray.config import Linear, Schedule, Training


def make_optimizer(scorer: vlm.AnswerScorer, training: Training) -> torch.optim.Optimizer:
    """AdamW over what trains."""
    projector = {id(p) for p in vlm.projector_parameters(scorer.model)}
    trained = trained_parameters(scorer)
    groups = [{"params": [p for p in trained if id(p) not in projector], "lr": training.lr}]
    if training.projector_lr is not None:
        groups.append({"params": [p for p in trained if id(p) in projector], "lr": training.projector_lr})
    optimizer = torch.optim.AdamW(
        groups,
        betas=(0.9, training.adam_beta2),
        weight_decay=training.weight_decay,
        fused=trained[0].device.type == "cuda",
    )
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Those that require a gradient."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Every group's rate, as a factor on its first."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def rate_factor(schedule: Schedule, step: int, total: int, warmup_ratio: float) -> float:
    """The factor on the rates in a step (0-based): linear warm-up, then down to 0 after the last."""
    warmup = math.ceil(total * warmup_ratio)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return 1 - done if isinstance(schedule, Linear) else 0.5 * (1 + math.cos(math.pi * done))
