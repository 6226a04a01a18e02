"""Parameters, arithmetic and memory of a preset for a patch, without computing anything (shapes only)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from medseg.networks.build import build_network
from medseg.networks.flop import COUNTS

ADAM_COPIES = 4  # parameter, gradient, two moments


def measure(preset: str, size: str, roi_size: Sequence[int]) -> dict[str, float]:
    """What a training step on one patch of one channel costs.

    Args:
        preset, size: of `build_network`.
        roi_size: voxels per axis; two numbers for the 2D network.

    Returns:
        `parameters`; `flop` of a forward pass (two per multiply-add: convolutions, matrix products, attention, scans and
        recurrences as in flop.py); `training_bytes`: saved activations plus parameters with gradients and AdamW's
        moments, in float32.
    """
    with FakeTensorMode():
        network = build_network(preset, size=size, spatial_dims=len(roi_size))
        image = torch.zeros(1, 1, *roi_size)
        weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
        saved: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                saved[storage._cdata] = storage.nbytes()  # one entry per storage: views of a tensor share it
            return tensor

        counter = FlopCounterMode(display=False, custom_mapping=COUNTS)
        with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network(image)
    parameters = count_parameters(network)
    return {
        "parameters": parameters,
        "flop": float(counter.get_total_flops()),
        "training_bytes": float(sum(saved.values()) + ADAM_COPIES * 4 * parameters),
    }


def count_parameters(network: nn.Module) -> int:
    """Number of trained values."""
    return sum(math.prod(parameter.shape) for parameter in network.parameters())
