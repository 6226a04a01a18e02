"""Torch as it is, and torch.compile."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch

from .engine import PRECISIONS, single_output


def eager(network: torch.nn.Module, example: torch.Tensor, precision: str) -> Callable[[torch.Tensor], torch.Tensor]:
    network = network.to(example.device).eval()
    if precision == "fp32":
        return lambda windows: single_output(network(windows))
    dtype = PRECISIONS[precision]

    def run(windows: torch.Tensor) -> torch.Tensor:
        with torch.autocast(windows.device.type, dtype=dtype):
            return single_output(network(windows))

    return run


def compiled_by_torch(
    network: torch.nn.Module, example: torch.Tensor, precision: str
) -> Callable[[torch.Tensor], torch.Tensor]:
    network = copy.deepcopy(network).to(example.device).eval()  # the eager engine keeps its own layout
    layout = torch.channels_last_3d if example.ndim == 5 else torch.channels_last
    # channels-last pays on a CPU only together with 16 bits
    last = precision != "fp32"
    if last:
        for parameter in network.parameters():
            if parameter.ndim == example.ndim:
                parameter.data = parameter.data.contiguous(memory_format=layout)
    compiled = torch.compile(network, dynamic=False)

    def run(windows: torch.Tensor) -> torch.Tensor:
        windows = windows.contiguous(memory_format=layout) if last else windows
        if precision == "fp32":
            return single_output(compiled(windows))
        with torch.autocast(windows.device.type, dtype=PRECISIONS[precision]):
            return single_output(compiled(windows))

    return run
