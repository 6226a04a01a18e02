"""Run by test_short_conv.py in a process of its own: the GPU kernels, by triton's interpreter, against the loop."""

from __future__ import annotations

import json

import torch

from medseg_kernels import short_conv
from medseg_kernels.short_conv import triton_launch
from medseg_kernels.short_conv.tables import Settings
from medseg_kernels.traversals.tables import SEPARATOR
from tests.kernels.played import played
from tests.kernels.selective_scan.cases import error
from tests.kernels.short_conv.cases import CASES, Case

SMALL = (CASES[0], CASES[2], CASES[3], CASES[4], Case(grid=(3, 3, 2), mode="grid", kernel=(3, 1, 2), channels=2))


def worst(case: Case, dtype: torch.dtype) -> float:
    """Largest error of output and gradients, every fresh buffer filled with NaN first."""
    given = case.inputs(dtype)
    exact = [None if x is None else x.double().requires_grad_() for x in given]
    expected = case.truth(*exact)
    grad = torch.randn(expected.shape, dtype=torch.float64)
    wanted = torch.autograd.grad(expected, [x for x in exact if x is not None], grad)
    settings = Settings(case.grid, SEPARATOR.join(case.traversals), case.mode, case.kernel, case.silu)
    out = triton_launch.forward(*given, settings)
    found = triton_launch.backward(grad.to(dtype), *given, settings)
    return max(error(out, expected), *(error(a, b) for a, b in zip(found, wanted, strict=False)))


def convolved(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Two traversals."""
    return short_conv(x, weight, bias, traversals=["raster", "snake"], silu=True, backend="triton")


def main() -> None:
    torch.use_deterministic_algorithms(True)  # fills fresh buffers with NaN
    triton_launch.SPAN = 64  # two spans or one: the interpreter takes seconds per thousand tokens
    results = {case.name: worst(case, torch.float32) for case in SMALL}
    results["float16, a tenth of its bound"] = worst(CASES[0], torch.float16) / 200
    results["played, 0 if right"] = float(not played(convolved, (1, 2, 3, 2, 4), (2, 4, 3), (2, 4)))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
