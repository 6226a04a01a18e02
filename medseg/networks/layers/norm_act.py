"""Instance norm and leaky ReLU of one convolution's output, of which only the result is kept for the backward pass.

Both can be undone: the leaky ReLU by its inverse, and the norm has no gain, so that what it made is all that its gradient
needs. Otherwise the norm would keep its input beside the next convolution's, a second map at full resolution.

Source: the idea is that of Rota Bulo et al. 2018 (In-Place Activated BatchNorm).
"""

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional


class PlainInstanceNorm(nn.GroupNorm):
    """Instance norm without gain and offset: every channel of every sample by itself."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(channels, channels, eps=eps, affine=False)


class NormLeakyReLU(nn.Module):
    """`PlainInstanceNorm`, then leaky ReLU; the same numbers as the two modules, without parameters.

    Args:
        channels: of the image.
        slope: of the leaky ReLU, above 0.
    """

    channels: Final[int]
    slope: Final[float]
    eps: Final[float]

    def __init__(self, channels: int, *, slope: float = 0.01, eps: float = 1e-5) -> None:
        super().__init__()
        assert slope > 0
        self.channels, self.slope, self.eps = channels, slope, eps

    def forward(self, image: Tensor) -> Tensor:
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return functional.leaky_relu(functional.group_norm(image, self.channels, eps=self.eps), self.slope)
        return self.eager(image)

    @torch.jit.unused
    def eager(self, image: Tensor) -> Tensor:
        """The form that keeps one map; the two plain functions where a graph for another machine is recorded."""
        recorded = torch.jit.is_tracing() or torch.compiler.is_exporting()  # type: ignore[attr-defined]
        if recorded or not (torch.is_grad_enabled() and image.requires_grad):
            return functional.leaky_relu_(functional.group_norm(image, self.channels, eps=self.eps), self.slope)
        return _KeepResult.apply(image, self.slope, self.eps)


def normed(image: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Instance norm without gain, and 1 / standard deviation (B, C)."""
    batch, channels, size = image.shape[0], image.shape[1], image[0, 0].numel()
    y, _, rate = torch.native_group_norm(image.contiguous(), None, None, batch, channels, size, channels, eps)
    return y, rate


def norm_backward(grad: Tensor, result: Tensor, rate: Tensor) -> Tensor:
    """Gradient of `normed`'s image out of its results: r (g - mean(g) - n mean(g n))."""
    batch, channels, size = result.shape[0], result.shape[1], result[0, 0].numel()
    dx, _, _ = torch.ops.aten.native_group_norm_backward(
        grad, result, torch.zeros_like(rate), torch.ones_like(rate), None, batch, channels, size, channels,
        [True, False, False],
    )  # fmt: skip
    return dx.mul_(rate.to(dx.dtype).reshape([batch, channels] + [1] * (result.ndim - 2)))


class _KeepResult(torch.autograd.Function):
    """y = leaky(n), n = (x - mean) r;  dx = r (g - mean(g) - n mean(g n)), g = dy leaky'(n), n = inverse leaky(y)."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, slope: float, eps: float) -> Tensor:  # type: ignore[override]
        y, rate = normed(image, eps)
        y = functional.leaky_relu_(y, slope)
        ctx.save_for_backward(y, rate)
        ctx.slope = slope
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        y, rate = ctx.saved_tensors
        grad = torch.ops.aten.leaky_relu_backward(grads[0].contiguous(), y, ctx.slope, True)
        return norm_backward(grad, functional.leaky_relu(y, 1.0 / ctx.slope), rate), None, None
