"""Seeds. Training samples are drawn from (seed, epoch, index) and need none; this covers the weights' first values."""

from __future__ import annotations

import random

import torch


def seed_all(seed: int) -> None:
    """Seed Python's and torch's global generators, before the network is built; none of our code uses numpy's global one."""
    random.seed(seed)
    torch.manual_seed(seed)
