"""nn.Conv3d that computes right gradients in bfloat16 on a CPU too."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Conv3d(nn.Conv3d):
    """A 3D convolution with a float32 island where the CPU's bfloat16 weight gradient is garbage.

    With torch 2.13 on a CPU with AVX-512 BF16, the weight gradient of a 3x3x3 convolution in bfloat16 is off by 1e6 to 1e37
    times its size (it reads memory that was never written) when the first spatial axis is 1 or 2 voxels long; float32 and
    longer axes are right, and so is 2D. tests/networks/layers/test_conv3d.py holds that line. The tiny maps cost nothing in float32.
    """

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return self._conv_forward(input, self.weight, self.bias)
        elif (
            input.shape[2] <= 2
            and input.dtype != torch.float64
            and input.device.type == "cpu"
            and torch.is_grad_enabled()
        ):
            with torch.autocast("cpu", enabled=False):
                bias = None if self.bias is None else self.bias.float()
                return self._conv_forward(input.float(), self.weight.float(), bias).to(input.dtype)
        else:
            return self._conv_forward(input, self.weight, self.bias)
