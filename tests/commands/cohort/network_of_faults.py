"""A network that thresholds, and fails as the image asks it to: it raises, ends its process, or hangs."""

from __future__ import annotations

import os
import time

import torch
from torch import Tensor, nn

RAISES, ENDS, HANGS = 101.0, 102.0, 103.0


class NetworkOfFaults(nn.Module):
    """Three classes: background, what is above one half, and nothing. A voxel of 101, 102 or 103 is an order."""

    def __init__(self) -> None:
        super().__init__()
        self.edge = nn.Parameter(torch.tensor(0.5))

    def forward(self, image: Tensor) -> Tensor:
        top = round(float(image.max()))
        if top == RAISES:
            raise RuntimeError("this case raises")
        if top == ENDS:
            os._exit(7)
        if top == HANGS:
            time.sleep(3600)
        return torch.cat([torch.full_like(image, 0.0), image - self.edge, torch.full_like(image, -9.0)], dim=1)
