"""One call of every kernel family by triton's interpreter, forward and backward, against the reference: a triton that is new here.

    TRITON_INTERPRET=1 python -m tests.kernels.one_shape          version and largest error of each

`pytest tests/kernels/test_costs.py -m "" -k keep` compiles the launches for sm_90 with the same triton.

"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import medseg_kernels as kernels
from medseg_kernels import gated_linear_recurrence as recurrence
from medseg_kernels.stitch import axis_table
from tests.kernels.interpreter import mend

LIMIT = 1e-4  # largest error over largest value, float32


def _scan(backend: str, u: Tensor, delta: Tensor, write: Tensor, read: Tensor, z: Tensor) -> Tensor:
    orders = ["snake", "reversed raster"]
    rate = -torch.ones(2, 2)
    return kernels.selective_scan(
        u, delta, rate, write, read, z=z, delta_softplus=True, traversals=orders, backend=backend
    )


def _conv(backend: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return kernels.short_conv(x, weight, bias, traversals=["raster", "snake"], silu=True, backend=backend)


def _window(backend: str, qkv: Tensor, table: Tensor) -> Tensor:
    return kernels.window_attention(qkv, 2, 1, table, backend=backend)


def _scalar(backend: str, q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    return recurrence(q, k, v, -g.abs(), backend=backend)[0]


def _channel(backend: str, q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    return recurrence(q, k, v, -g.abs(), backend=backend)[0]


def _delta(backend: str, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
    return recurrence(q, k, v, -g.abs(), beta.sigmoid(), backend=backend)[0]


def _stitch(backend: str, window: Tensor) -> Tensor:
    values, weight = torch.zeros(3, 4, 4, 4), torch.ones(4, 4, 4)
    with torch.no_grad():
        kernels.stitch_window(values, weight, window, torch.ones(2, 2, 2), [1, 0, 2], backend=backend)
        tables = [axis_table(4, 6) for _ in range(3)]
        labels = kernels.stitch_labels(values, weight, *tables, backend=backend)
    return torch.cat([values.flatten(), labels.float().flatten()])


def _worst(call: Callable[..., Tensor], *shapes: tuple[int, ...]) -> float:
    torch.manual_seed(0)
    given = [torch.randn(shape) / 2 for shape in shapes]
    found = []
    for backend in ("triton", "reference"):
        leaves = [one.clone().requires_grad_(call is not _stitch) for one in given]
        out = call(backend, *leaves)
        grads = torch.autograd.grad(out.square().sum(), leaves) if call is not _stitch else ()
        found.append([out.detach(), *grads])
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-12)) for a, b in zip(*found, strict=True))


def _many(call: Callable[..., Tensor], *shapes: tuple[int, ...]) -> float:
    """By the kernels of many windows and segments."""
    from medseg_kernels.gated_linear_recurrence import segments, triton_launch
    from medseg_kernels.window_attention import triton_launch as windows

    with (
        mock.patch.object(windows, "MANY", 1), mock.patch.object(segments, "MIN_CHUNKS", 1),
        mock.patch.object(triton_launch, "workers", return_value=40),
        mock.patch("medseg_kernels.gated_linear_recurrence.op.check_values"),
    ):  # fmt: skip
        return _worst(call, *shapes)


def measured() -> dict[str, float]:
    """Family -> largest error over largest value of output and gradients."""
    volume, row = (1, 2, 2, 2, 2), (1, 140, 1, 16)
    qkv, table, gate = (1, 3, 2, 2, 3, 1, 4), (27, 1), (1, 140, 1)
    return {
        "selective_scan": _worst(_scan, volume, volume, volume, volume, volume),
        "short_conv": _worst(_conv, (1, 2, 3, 2, 4), (2, 4, 3), (2, 4)),
        "window_attention": _worst(_window, qkv, table),
        "window_attention, fused": _many(_window, qkv, table),
        "recurrence, per head": _many(_scalar, row, row, row, gate),
        "recurrence, per channel": _many(_channel, row, row, row, row),
        "recurrence, delta rule": _many(_delta, row, row, row, gate, gate),
        "stitch": _worst(_stitch, (3, 2, 2, 2)),
    }


def main() -> int:
    import triton

    mend()
    torch.set_num_threads(1)
    found: dict[str, Any] = measured()
    print(f"triton {triton.__version__}", {name: f"{value:.1e}" for name, value in found.items()})
    return int(not all(value < LIMIT for value in found.values()))


if __name__ == "__main__":
    sys.exit(main())
