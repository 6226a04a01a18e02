"""The calls whose launches are compiled and costed: benchmark shapes on CPU tensors that nobody touches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
ORIENTED = "raster|reversed raster|raster:YZX"


@dataclass(frozen=True)
class Call:
    """A forward or a backward of a family.

    Args:
        name: its row in the table.
        run: starts it.
        quick: whether `make test` compiles it.
    """

    name: str
    run: Callable[[], Any]
    quick: bool = False


def new(*shape: int, dtype: torch.dtype = BF16) -> Tensor:
    return torch.empty(shape, dtype=dtype)


def window(
    side: int, heads: int, size: int, channels: int = 16, dtype: torch.dtype = BF16, **more: Any
) -> Iterator[Call]:
    """A shifted block of Swin UNETR."""
    import medseg_kernels.window_attention  # noqa: F401, the folder, before its name stands for the function
    from medseg_kernels.window_attention import triton_launch
    from medseg_kernels.window_attention.call import Problem

    absent = dict.fromkeys(("kv", "global_query", "carriers", "sample", "padding", "dense_bias", "seed"))
    given = {"bias_table": new((2 * size - 1) ** 3, heads, dtype=F32), **absent, **more}
    problem = Problem(
        qkv=new(1, side, side, side, 3, heads, channels, dtype=dtype), table_window=[size] * 3, window=[size] * 3,
        shift=[size // 2] * 3, radius=[-1] * 3, causal=False, geometry="block", pad_mode="mask", bias_index="geometric",
        scale=0.25, dropout=0.0, **given,
    )  # fmt: skip
    out, extra = new(1, side, side, side, heads * channels, dtype=dtype), problem.extra
    lse = new(1, problem.windows, heads, problem.tokens, dtype=F32)
    carriers = new(1, problem.windows, extra, heads * channels, dtype=dtype)
    name = f"{side}^3 {size}^3 E{channels}{'' if dtype == BF16 else ' float32'}{' carriers' * bool(extra)}"
    quick = (side, size, dtype) == (48, 7, BF16) and not extra
    yield Call(f"{name} forward", lambda: triton_launch.forward(problem), quick)
    yield Call(f"{name} backward", lambda: triton_launch.backward(problem, out, carriers, lse, out, carriers), quick)


def scan(
    side: int, channels: int, states: int = 16, traversals: str = ORIENTED, dtype: torch.dtype = BF16
) -> Iterator[Call]:
    """SegMamba's mixer: several traversals of one volume, gated."""
    from medseg_kernels.selective_scan import triton_launch
    from medseg_kernels.selective_scan.chunked_backward import Inputs

    tokens, count = side**3, traversals.count("|") + 1
    wide, row = new(1, tokens, channels, dtype=dtype), new(1, channels, dtype=F32)
    lanes, groups = wide[:, None], new(1, 1, tokens, 1, states, dtype=dtype)
    given = Inputs(lanes, lanes, new(1, channels, states, dtype=F32), groups, groups, row, wide, row, None, None)
    settings = ((side,) * 3, traversals, True, "sum")
    kept = new(1, count, -(-tokens // 64), states, channels, dtype=F32)
    last = new(1, count, channels, states, dtype=F32)
    name = f"{side}^3 C{channels} S{states}{'' if dtype == BF16 else ' ' + str(dtype)[6:]}{'' if count == 3 else ' ' + traversals}"
    quick = (side, count, dtype) == (64, 3, BF16)
    yield Call(f"{name} forward", lambda: triton_launch.forward(given, *settings, True), quick)
    yield Call(f"{name} backward", lambda: triton_launch.backward(wide, last, given, kept, *settings), quick)


def recurrence(member: str, size: int = 64, dtype: torch.dtype = BF16) -> Iterator[Call]:
    """6 heads along another axis of a 48^3 volume."""
    from medseg_kernels.gated_linear_recurrence import triton_launch
    from medseg_kernels.gated_linear_recurrence.visits import cached_visit

    tokens, heads = 48**3, 6
    q, gate = new(1, tokens, heads, size, dtype=dtype), new(1, tokens, heads, dtype=F32)
    decay = {"retention": new(heads, dtype=F32), "gla": new(1, tokens, heads, size, dtype=F32), "delta": None}.get(
        member, gate
    )
    delta = member in ("delta", "gated delta")
    order, bounds = cached_visit("raster:YZX", (48, 48, 48), "cpu")
    rest = (0.125, None, order, bounds, delta)
    beta = gate if delta else None
    state = new(1, heads, size, size, dtype=F32)

    def run(backward: bool) -> Any:
        with mock.patch.object(triton_launch, "workers", return_value=264):
            if backward:
                return triton_launch.backward(q, state, q, q, q, decay, beta, *rest)
            return triton_launch.forward(q, q, q, decay, beta, *rest)

    name = f"{member} K{size}{'' if dtype == BF16 else ' float32'}"
    quick = member in ("scalar", "gated delta") and size == 64 and dtype == BF16
    yield Call(f"{name} forward", lambda: run(False), quick)
    yield Call(f"{name} backward", lambda: run(True), quick)


def conv(mode: str, kernel: tuple[int, ...]) -> Iterator[Call]:
    """Mamba's convolution along three traversals, or a depthwise 3^3 one."""
    from medseg_kernels.short_conv import triton_launch
    from medseg_kernels.short_conv.tables import Settings

    grid, tokens = (64, 64, 64), 64**3
    settings = Settings(grid, ORIENTED if mode != "grid" else "raster", mode, kernel, True)
    count = 3 if mode != "grid" else 1
    x, weight = new(1, tokens, 96), new(count, 96, torch.Size(kernel).numel(), dtype=F32)
    bias, grad = new(count, 96, dtype=F32), new(1, count, tokens, 96)
    yield Call(f"{mode} forward", lambda: triton_launch.forward(x, weight, bias, settings), mode != "grid")
    yield Call(f"{mode} backward", lambda: triton_launch.backward(grad, x, weight, bias, settings), mode != "grid")


def stitch(slab: tuple[int, int, int], box: tuple[int, int, int], classes: int, dtype: torch.dtype) -> Iterator[Call]:
    """A window added to a slab; labels of a slab."""
    from medseg_kernels.stitch import axis_table, triton_forward

    values, weight = new(classes, *slab, dtype=dtype), new(*slab, dtype=F32)
    tables = [part for side in slab for table in [axis_table(side, 2 * side)] for part in (table.index, table.fraction)]
    name = f"{slab} K{classes} {str(dtype)[6:]}".replace(", ", "x")
    yield Call(
        f"{name} add",
        lambda: triton_forward.add_window(values, weight, new(classes, *box), new(*box, dtype=F32), None, [0, 0, 0]), True,
    )  # fmt: skip
    yield Call(f"{name} labels", lambda: triton_forward.stitch_labels(values, None, *tables), True)


def _windows() -> Iterator[Call]:
    yield from window(48, 3, 7)
    yield from window(64, 3, 8)
    yield from window(32, 6, 8, 32)
    yield from window(12, 2, 7, 64, F32)
    yield from window(48, 3, 7, 32, carriers=new(1, 343, 4, 3, 3, 32), bias_table=None)


def _scans() -> Iterator[Call]:
    yield from scan(64, 96)
    yield from scan(48, 96, traversals="windowed:7,7,7:snake|reversed hilbert")
    yield from scan(16, 33, 5, "snake", F32)
    yield from scan(16, 96, traversals="raster", dtype=F16)


def _recurrences() -> Iterator[Call]:
    for member in ("scalar", "gated delta", "gla", "retention", "delta"):
        yield from recurrence(member)
    yield from recurrence("scalar", 128)
    yield from recurrence("gated delta", 64, F32)


def _convolutions() -> Iterator[Call]:
    yield from conv("causal", (4,))
    yield from conv("grid", (3, 3, 3))


def _stitches() -> Iterator[Call]:
    yield from stitch((1, 8, 8), (1, 4, 4), 105, F32)
    yield from stitch((96, 96, 96), (64, 64, 64), 5, F16)


# family -> its calls, those with float32 and single voxels among them
FAMILIES: dict[str, Callable[[], Iterator[Call]]] = {
    "window_attention": _windows,
    "selective_scan": _scans,
    "gated_linear_recurrence": _recurrences,
    "short_conv": _convolutions,
    "stitch": _stitches,
}
