"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from medseg.errors import ConfigError, nearest

from .chosen_parts import make_optimizer_of

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("poly", "cosine", "constant")


def parameter_groups(network: nn.Module, weight_decay: float, without_decay: set[str]) -> list[dict[str, Any]]:
    """Two groups: matrices and kernels decay; biases, norms and the names in `without_decay` (decay rates, skips) do not."""
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            (kept if parameter.ndim < 2 or name in without_decay else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]


def make_optimizer(
    groups: list[dict[str, Any]],
    *,
    name: str | Callable[..., torch.optim.Optimizer],
    learning_rate: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """AdamW (for token networks), SGD with Nesterov momentum 0.99 (nnU-Net's recipe), or the user's own.

    Raises:
        ConfigError: the name is neither, or the user's own cannot be made.
    """
    if callable(name):
        return make_optimizer_of(name, groups, learning_rate)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.99))
    if name == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=0.99, nesterov=True, weight_decay=weight_decay)
    raise ConfigError(f"unknown optimizer {name!r}. {nearest(name, OPTIMIZERS)}")


def schedule_factor(name: str, *, total_steps: int, warmup_steps: int) -> Callable[[float], float]:
    """Factor of the learning rate at a step: linear warm-up, then `poly` (power 0.9), `cosine` or `constant`.

    The warm-up takes at most a fifth of the steps, so that a short training reaches the full rate too.

    Raises:
        ConfigError: unknown name.
    """
    if name not in SCHEDULES:
        raise ConfigError(f"unknown schedule {name!r}. {nearest(name, SCHEDULES)}")
    warmup_steps = min(warmup_steps, total_steps // 5)

    def factor(step: float) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        share = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        if name == "poly":
            return float((1.0 - share) ** 0.9)
        if name == "cosine":
            return float(0.5 * (1.0 + torch.cos(torch.tensor(torch.pi * share)).item()))
        return 1.0

    return factor
