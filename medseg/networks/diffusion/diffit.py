"""DiffiT in 3D: a U shape of residual cells, each a convolution and a transformer block whose attention is told the time.

Cell: h = conv3(SiLU(GroupNorm(x))); x + B(h, t), with B = attention and MLP, each with its own residual on h. Time, and the label
map token by token, enter in the attention alone. Source: Hatamizadeh et al. 2024 (arXiv 2312.02139), equations 3 to 10; from 2D
to 3D, the labels and the choices marked below are ours.

B batch, Ci image channels, K classes, X Y Z voxels, T channels of the condition.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from medseg.errors import ConfigError

from ..build_stage import StageBuilder
from ..contract import Site

GROUPS = 8  # of the group norms, as far as they divide the width
EPS = 1e-6
DIMS = 3


@dataclass(frozen=True)
class DiffitShape:
    """Sizes of a DiffiT.

    Args:
        image_channels, classes: of what is made, and of the label map that it is made for (background included).
        width: channels of the finest level.
        multiples: width of each level as a multiple of that.
        cells: of each level, on the way down and on the way up.
        window: tokens per axis of an attention window; the coarsest level attends over its whole map.
        head_width: channels of a head.
        patch: voxels per axis of a token of the finest level; 1 is the paper's, 2 costs an eighth.
        label_in_attention: give the label map to the attention too, token by token.
        checkpointing: recompute the cells in the backward pass.
    """

    image_channels: int = 1
    classes: int = 2
    width: int = 32
    multiples: tuple[int, ...] = (1, 2, 2)
    cells: int = 1
    window: int = 4
    head_width: int = 16
    patch: int = 1
    label_in_attention: bool = True
    checkpointing: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit. Raises ConfigError."""
        least = min(
            self.image_channels, self.classes - 1, self.width, self.cells, self.window, self.patch, *self.multiples
        )
        if least < 1 or self.width % self.head_width:
            raise ConfigError(
                f"diffit: found {self}; expected two classes or more, all others at least 1, and a width that is a multiple of "
                f"head_width {self.head_width}"
            )

    @property
    def condition(self) -> int:
        """Channels of the condition: four times the width."""
        return 4 * self.width

    @property
    def divisor(self) -> int:
        """What every side of a volume must be a multiple of."""
        return self.patch * 2 ** (len(self.multiples) - 1)


class Cell(nn.Module):
    """x + B(conv3(SiLU(GroupNorm(x))), condition); a 1x1x1 convolution of the shortcut where the width changes (ours)."""

    def __init__(self, channels_in: int, width: int, window: int | None, shape: DiffitShape) -> None:
        super().__init__()
        self.norm = group_norm(channels_in)
        self.convolution = nn.Conv3d(channels_in, width, 3, padding=1)
        self.shortcut: nn.Module = nn.Identity() if channels_in == width else nn.Conv3d(channels_in, width, 1)
        site = Site(
            width, width // shape.head_width, None if window is None else (window, window, window), DIMS,
            condition_width=shape.condition, token_norm_eps=EPS,
        )  # fmt: skip
        builder = StageBuilder(site, {"mlp": {"act": "gelu_tanh"}}, None, [0.0, 0.0])
        self.block = builder.stage(("time_attention", "mlp"))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.convolution(functional.silu(self.norm(x)))
        return self.shortcut(x) + self.block(h, condition)


class Diffit3d(nn.Module):
    """The raw network F of a denoiser.

    Example:
        >>> network = Diffit3d(DiffitShape(width=16, multiples=(1, 2)))
        >>> network(torch.zeros(1, 1, 8, 8, 8), torch.zeros(1), torch.zeros(1, 3, 8, 8, 8)).shape
        torch.Size([1, 1, 8, 8, 8])
    """

    def __init__(self, shape: DiffitShape) -> None:
        super().__init__()
        self.shape = shape
        widths = [shape.width * multiple for multiple in shape.multiples]
        fine, last = shape.patch**DIMS, len(widths) - 1
        self.stem = nn.Conv3d((shape.image_channels + shape.classes + 1) * fine, widths[0], 3, padding=1)
        self.time = nn.Sequential(
            nn.Linear(shape.width, shape.condition), nn.SiLU(), nn.Linear(shape.condition, shape.condition)
        )
        self.label = nn.Linear(shape.classes + 1, shape.condition) if shape.label_in_attention else None

        def level(channels_in: int, depth: int) -> nn.ModuleList:
            window = None if depth == last else shape.window
            first = Cell(channels_in, widths[depth], window, shape)
            return nn.ModuleList(
                [first, *(Cell(widths[depth], widths[depth], window, shape) for _ in range(shape.cells - 1))]
            )

        self.down = nn.ModuleList([level(widths[depth], depth) for depth in range(last + 1)])
        self.shrink = nn.ModuleList(
            [nn.Conv3d(widths[depth], widths[depth + 1], 3, stride=2, padding=1) for depth in range(last)]
        )
        self.grow = nn.ModuleList([nn.Conv3d(widths[depth + 1], widths[depth], 3, padding=1) for depth in range(last)])
        self.up = nn.ModuleList([level(2 * widths[depth], depth) for depth in range(last)])
        self.norm = group_norm(widths[0])
        self.head = nn.Conv3d(widths[0], shape.image_channels * fine, 3, padding=1)
        nn.init.zeros_(self.head.weight)  # the denoiser begins as its skip alone
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(self, image: Tensor, noise: Tensor, label: Tensor) -> Tensor:
        """F(image; noise, label).

        Args:
            image: (B, Ci, X, Y, Z), scaled; sides that `DiffitShape.divisor` divides.
            noise: (B,), a number that says how much noise there is.
            label: (B, K + 1, X, Y, Z): one channel per class, and one of ones; all zeros where no label is given.
        """
        self._check(image, label)
        shape, patch = self.shape, self.shape.patch
        time = self.time(sinusoid(noise, shape.width).to(image.dtype))
        x = self.stem(to_depth(torch.cat([image, label], 1), patch))
        skips: list[Tensor] = []
        conditions: list[Tensor] = []
        for depth, cells in enumerate(self.down):
            conditions.append(self._condition(time, label, patch * 2**depth))
            x = self._cells(cells, x, conditions[depth])
            if depth < len(self.shrink):
                skips.append(x)
                x = self.shrink[depth](x)
        for depth in reversed(range(len(self.up))):
            x = self.grow[depth](functional.interpolate(x, scale_factor=2.0, mode="nearest"))
            x = self._cells(self.up[depth], torch.cat([x, skips[depth]], 1), conditions[depth])
        return to_space(self.head(functional.silu(self.norm(x))), patch)

    def _cells(self, cells: nn.Module, x: Tensor, condition: Tensor) -> Tensor:
        for cell in cells:  # type: ignore[attr-defined]
            if self.shape.checkpointing and torch.is_grad_enabled():
                x = checkpoint(cell, x, condition, use_reentrant=False)
            else:
                x = cell(x, condition)
        return x

    def _condition(self, time: Tensor, label: Tensor, step: int) -> Tensor:
        """(B, T) of the time alone, or (B, X, Y, Z, T) with the share of each class in every token."""
        if self.label is None:
            return time
        shares = functional.avg_pool3d(label, step) if step > 1 else label
        return time[:, None, None, None] + self.label(shares.movedim(1, -1))

    def _check(self, image: Tensor, label: Tensor) -> None:
        channels, divisor = self.shape.classes + 1, self.shape.divisor
        if label.shape[1] != channels or any(side % divisor for side in image.shape[2:]):
            raise ConfigError(
                f"diffit: found an image of {tuple(image.shape[2:])} and {label.shape[1]} label channels; expected sides that "
                f"{divisor} divides and {channels} channels, one for each class and one for whether a label is given"
            )


def group_norm(channels: int) -> nn.GroupNorm:
    """In `GROUPS` groups, or as many as divide the channels."""
    return nn.GroupNorm(math.gcd(channels, GROUPS), channels, eps=EPS)


def sinusoid(values: Tensor, width: int) -> Tensor:
    """(B,) -> (B, width): cosines and sines of 1 to 1000 times the value, in float32."""
    half = width // 2
    frequencies = torch.exp(torch.linspace(0.0, math.log(1000.0), half, device=values.device))
    angles = values.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], 1)


def to_depth(x: Tensor, patch: int) -> Tensor:
    """(B, C, X, Y, Z) -> (B, C p^3, X/p, Y/p, Z/p): no voxel is lost."""
    if patch == 1:
        return x
    parts = x.unflatten(4, (-1, patch)).unflatten(3, (-1, patch)).unflatten(2, (-1, patch))
    return parts.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)


def to_space(x: Tensor, patch: int) -> Tensor:
    """The inverse of `to_depth`."""
    if patch == 1:
        return x
    parts = x.unflatten(1, (-1, patch, patch, patch)).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return parts.flatten(6, 7).flatten(4, 5).flatten(2, 3)


def shape_of(values: Sequence[int] | int) -> tuple[int, ...]:
    """A list of a configuration as a tuple."""
    return (int(values),) if isinstance(values, int) else tuple(int(value) for value in values)
