"""What users call: the short depthwise convolution along one or several traversals, or in three dimensions.

TorchScript knows no keyword-only arguments, so nothing enforces that the options be given by name: give them by name.
"""

from typing import List, Optional

import torch
from torch import Tensor

from ..dispatch import refuse_forward_mode
from ..prepared import once
from ..traversals.checks import check_traversals
from ..traversals.orders import Traversal
from ..traversals.tables import SEPARATOR
from .op import run_conv
from .reference import torch_short_conv

MODES = ("causal", "same", "grid")


def short_conv(
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    mode: str = "causal",
    traversals: List[str] = ("raster",),  # type: ignore[assignment]
    silu: bool = False,
    backend: Optional[str] = None,
) -> Tensor:
    """Convolve every channel with a few taps: along the steps of a traversal, or on the grid.

        out[p] = act(bias + sum over taps j of weight[j] x[neighbour(p, j)])

    Tokens outside the sequence, the window of a `windowed` traversal or the grid read as zero.

    Args:
        x: (B, X, Y, Z, C), any view with neighbouring channels side by side; never copied or permuted.
        weight: (C, T), or (R, C, T) for R traversals; (C, kx, ky, kz) in mode `grid`.
        bias: (C,), or (R, C) as the weight, or None.
        mode: `causal` (Mamba: the last tap reads the token itself, the others the steps before it), `same`
            (MambaVision: centred along the traversal), `grid` (centred in three dimensions).
        traversals: R texts, see traversals/orders.py; not used in mode `grid`.
        silu: apply SiLU.
        backend: triton, cpu or reference; None takes the first that can run.

    Returns:
        (B, X, Y, Z, C), or (B, R, X, Y, Z, C) when the weight has an axis of R traversals; in the dtype of x.

    Raises:
        ValueError: an argument of a wrong rank, size, dtype or device; it names the argument, found and expected.
        BackendError: the backend asked for cannot run; it says why.

    Source: Gu and Dao 2023 (Mamba), figure 3; `same`: Hatamizadeh and Kautz 2024 (MambaVision).
    """
    if not torch.jit.is_scripting() and not torch.jit.is_tracing():  # type: ignore[attr-defined]
        _check(x, weight, bias, mode, traversals)
    grid = [x.shape[1], x.shape[2], x.shape[3]]
    single = weight.dim() != 3
    kernel = [weight.shape[1], weight.shape[2], weight.shape[3]] if mode == "grid" else [weight.shape[-1]]
    filters = weight.flatten(1).unsqueeze(0) if single else weight
    offset = None if bias is None else (bias.unsqueeze(0) if single else bias)
    tokens = x.flatten(1, 3)
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        out = torch_short_conv(tokens, filters, offset, grid, traversals, mode, kernel, silu)
    else:
        out = _eager(tokens, filters, offset, grid, traversals, mode, kernel, silu, backend)
    shape = [x.shape[0], filters.shape[0], grid[0], grid[1], grid[2], x.shape[4]]
    return out.view(shape).squeeze(1) if single else out.view(shape)


@torch.jit.unused
def _eager(
    x: Tensor, weight: Tensor, bias: Optional[Tensor], grid: List[int], traversals: List[str], mode: str, kernel: List[int],
    silu: bool, backend: Optional[str],
) -> Tensor:  # fmt: skip
    """The op, or the torch form where a graph without the op is being recorded."""
    names = [Traversal.parse(text).text for text in traversals]
    if torch.jit.is_tracing() or torch.compiler.is_exporting():  # type: ignore[attr-defined]
        sides = [int(side) for side in grid]
        return torch_short_conv(x, weight, bias, sides, names, mode, [int(side) for side in kernel], silu)
    refuse_forward_mode("short_conv", x, weight, bias)
    return run_conv(x, weight, bias, grid, SEPARATOR.join(names), mode, kernel, silu, backend)


def _wrong(argument: str, found: object, expected: object) -> ValueError:
    return ValueError(f"short_conv: {argument}: found {found}, expected {expected}")


@once
def _check(x: Tensor, weight: Tensor, bias: Optional[Tensor], mode: str, traversals: List[str]) -> None:
    """Refuse a call that cannot be meant.

    Raises:
        ValueError: the argument, what was found, what was expected.
    """
    for name, tensor in (("x", x), ("weight", weight), ("bias", bias)):
        if tensor is not None and not tensor.is_floating_point():
            raise _wrong(name, tensor.dtype, "a floating-point tensor")
        if tensor is not None and tensor.device != x.device:
            raise _wrong(name, f"device {tensor.device}", f"{x.device}, where x is")
    if x.dim() != 5 or any(side == 0 for side in x.shape):
        raise _wrong("x", tuple(x.shape), "(B, X, Y, Z, C) with no empty axis")
    if mode not in MODES:
        raise _wrong("mode", repr(mode), f"one of {', '.join(MODES)}")
    channels, count = x.shape[4], len(traversals)
    check_traversals(traversals, channels)
    if mode == "grid":
        good = weight.dim() == 4 and weight.shape[0] == channels
        expected = f"({channels}, kx, ky, kz)"
    else:
        good = (weight.dim() == 2 and count == 1) or (weight.dim() == 3 and weight.shape[0] == count)
        good = good and weight.shape[-2] == channels
        expected = f"({channels}, T) or, per traversal, ({count}, {channels}, T)"
    if not good or weight.shape[-1] == 0:
        raise _wrong("weight", tuple(weight.shape), expected)
    wanted = (count, channels) if weight.dim() == 3 else (channels,)
    if bias is not None and tuple(bias.shape) != wanted:
        raise _wrong("bias", tuple(bias.shape), wanted)
