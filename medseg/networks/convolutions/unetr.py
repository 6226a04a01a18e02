"""The residual block of the UNETR family, whose backward pass needs few maps: its inputs, the one between, and its result.

Everything else can be made again without a convolution of its own size: instance norms without gain and leaky ReLUs can be
undone, the concatenation and the 1x1 convolution of the shortcut are cheap. Left to autograd, the block keeps a concatenated
copy of its inputs and what goes into every norm as well.
"""

from typing import Any, Optional

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..contract import Site
from ..layers.common import convolution
from ..layers.norm_act import NormLeakyReLU, PlainInstanceNorm, norm_backward, normed

SLOPE, EPS = 0.01, 1e-5  # of MONAI's block


class UnetrBlock(nn.Module):
    """Two convolutions without biases, instance norms without gains, LeakyReLU, around them a shortcut.

    The shortcut is the identity at equal widths, else a normed 1x1 convolution. State-dict names follow MONAI's
    `UnetResBlock`, whose weights load.

    Args:
        site: where it stands.
        channels_in: of the image, and of the skip that is concatenated to it if there is one; None is the site's width.
    """

    def __init__(self, site: Site, channels_in: int | None = None) -> None:
        super().__init__()
        dims, width = site.spatial_dims, site.width
        channels_in = width if channels_in is None else channels_in
        self.conv1 = convolution(dims, channels_in, width, site.kernel_size, bias=False)
        self.conv2 = convolution(dims, width, width, site.kernel_size, bias=False)
        self.conv3: nn.Module = nn.Identity()
        self.norm3: nn.Module = nn.Identity()
        if channels_in != width:
            self.conv3 = convolution(dims, channels_in, width, 1, bias=False)
            self.norm3 = PlainInstanceNorm(width, eps=EPS)
        self.norm1, self.norm2 = NormLeakyReLU(width, slope=SLOPE, eps=EPS), PlainInstanceNorm(width, eps=EPS)
        self.act = nn.LeakyReLU(SLOPE, inplace=True)

    def forward(self, image: Tensor, skip: Optional[Tensor] = None) -> Tensor:
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return self.parts(image if skip is None else torch.cat([image, skip], dim=1))
        return self.eager(image, skip)

    def parts(self, image: Tensor) -> Tensor:
        """Module by module."""
        branch = self.norm2(self.conv2(self.norm1(self.conv1(image))))
        return self.act(branch + self.norm3(self.conv3(image)))

    @torch.jit.unused
    def eager(self, image: Tensor, skip: Optional[Tensor]) -> Tensor:
        """The form that keeps little, where gradients are wanted and no other precision than the tensors' own."""
        recorded = torch.jit.is_tracing() or torch.compiler.is_exporting()  # type: ignore[attr-defined]
        weights = [getattr(conv, "weight", None) for conv in (self.conv1, self.conv2, self.conv3)]
        wanted = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (image, skip, *weights))
        narrow = image.dtype not in (torch.float32, torch.float64) or torch.is_autocast_enabled(image.device.type)
        if recorded or narrow or not wanted:
            return self.parts(image if skip is None else torch.cat([image, skip], dim=1))
        return _KeepFew.apply(image, skip, *weights)


def _convolve(image: Tensor, weight: Tensor) -> Tensor:
    """Stride 1, padded so that the grid stays."""
    padding = [side // 2 for side in weight.shape[2:]]
    return (functional.conv2d if image.dim() == 4 else functional.conv3d)(image, weight, padding=padding)


def _convolve_backward(grad: Tensor, image: Tensor, weight: Tensor, mask: tuple[bool, bool]) -> list[Tensor | None]:
    """Gradients of image and weight, None where the mask is False."""
    dims = weight.dim() - 2
    padding = [side // 2 for side in weight.shape[2:]]
    found = torch.ops.aten.convolution_backward(
        grad, image, weight, None, [1] * dims, padding, [1] * dims, False, [0] * dims, 1, [*mask, False]
    )
    return [found[0] if mask[0] else None, found[1] if mask[1] else None]


def _split(weight: Tensor, parts: list[Tensor]) -> list[Tensor]:
    """A weight's columns for every part of the channels."""
    return [columns.contiguous() for columns in weight.split([part.shape[1] for part in parts], dim=1)]


def _convolve_parts(parts: list[Tensor], weight: Tensor) -> Tensor:
    """`_convolve` of the concatenated parts, without concatenating them."""
    found = [_convolve(part, columns) for part, columns in zip(parts, _split(weight, parts), strict=True)]
    return found[0] if len(found) == 1 else found[0].add_(found[1])


def _back_to_parts(
    grad: Tensor, parts: list[Tensor], weight: Tensor, need: list[bool], need_weight: bool
) -> tuple[list[Tensor | None], Tensor | None]:
    """Gradients of every part and of the weight."""
    found = [
        _convolve_backward(grad, part, columns, (needed, need_weight))
        for part, columns, needed in zip(parts, _split(weight, parts), need, strict=True)
    ]
    to_weight = [x for _, x in found if x is not None]
    return [x for x, _ in found], torch.cat(to_weight, dim=1) if to_weight else None


class _KeepFew(torch.autograd.Function):
    """y = leaky(a + s); a = norm(conv2(b)), b = leaky(norm(conv1(x))), s = x or norm(conv3(x)), x = [image, skip].

    Backward: a = inverse leaky(y) - s, where s is x, or is computed again.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, image: Tensor, skip: Tensor | None, first: Tensor, second: Tensor, third: Tensor | None
    ) -> Tensor:
        x = image if skip is None else torch.cat([image, skip], dim=1)
        between, rate = normed(_convolve(x, first), EPS)
        between = functional.leaky_relu_(between, SLOPE)
        y, rate_after = normed(_convolve(between, second), EPS)
        y = functional.leaky_relu_(y.add_(x if third is None else normed(_convolve(x, third), EPS)[0]), SLOPE)
        ctx.save_for_backward(image, skip, first, second, third, between, rate, y, rate_after)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        image, skip, first, second, third, between, rate, y, rate_after = ctx.saved_tensors
        need_image, need_skip, *need = ctx.needs_input_grad
        parts = [image] if skip is None else [image, skip]  # one by one: joined, they would be another wide map
        grad = torch.ops.aten.leaky_relu_backward(grads[0].contiguous(), y, SLOPE, True)
        total, around = functional.leaky_relu(y, 1.0 / SLOPE), grad
        if third is None:
            total = total.sub_(image if skip is None else torch.cat(parts, dim=1))
        else:
            shortcut, rate_around = normed(_convolve_parts(parts, third), EPS)
            total = total.sub_(shortcut)
            around = norm_backward(grad, shortcut, rate_around)
            del shortcut
        grad = norm_backward(grad, total, rate_after)
        del total
        grad, grad_second = _convolve_backward(grad, between, second, (True, need[1]))
        grad = torch.ops.aten.leaky_relu_backward(grad, between, SLOPE, True)
        grad = norm_backward(grad, functional.leaky_relu(between, 1.0 / SLOPE), rate)
        needed = [need_image] if skip is None else [need_image, need_skip]
        to_parts, grad_first = _back_to_parts(grad, parts, first, needed, need[0])
        del grad
        grad_third = None
        if third is None:
            straight = around.split([part.shape[1] for part in parts], dim=1)
        else:
            straight, grad_third = _back_to_parts(around, parts, third, needed, need[2])
        sums = [None if a is None or b is None else a.add_(b) for a, b in zip(to_parts, straight, strict=True)]
        return sums[0], None if skip is None else sums[1], grad_first, grad_second, grad_third
