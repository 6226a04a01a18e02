"""Run by test_bf16.py in a process of its own: the GPU kernels in bfloat16, by triton's interpreter mended for it.

The interpreter keeps bfloat16 as 16-bit integers; its dot multiplies those, and its conversion cuts digits off. Both are put
right here for the kernels' sake, so that rounding to bfloat16 where the kernels round is seen without a GPU.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

from medseg_kernels import dispatch
from tests.kernels.gated_linear_recurrence.cases import make_case, rms_ratio
from tests.kernels.gated_linear_recurrence.interpreted import run, truth
from tests.kernels.gpu_cases import BOUNDS, CASES, check
from tests.kernels.selective_scan.cases import Case as ScanCase
from tests.kernels.selective_scan.cases import worst
from tests.kernels.window_attention.interpreter_cases import SHORT, errors, triton_launch


def _wide(bits: Any) -> Any:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _rounded(values: Any) -> Any:
    """float32 as bfloat16's bits, to the nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    nearest = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), nearest)


def mend() -> None:
    """Make the interpreter's bfloat16 right."""
    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    dot, cast = builder.create_dot, builder.cast_impl

    def create_dot(self: Any, a: Any, b: Any, d: Any, *rest: Any) -> Any:
        if a.dtype.scalar == tl.bfloat16:
            a, b = handle(_wide(a.data), tl.float32), handle(_wide(b.data), tl.float32)
        return dot(self, a, b, d, *rest)

    def cast_impl(self: Any, src: Any, dst_type: Any) -> Any:
        if dst_type.scalar == tl.bfloat16 and src.dtype.scalar == tl.float32:
            return handle(_rounded(src.data), tl.bfloat16)
        return cast(self, src, dst_type)

    builder.create_dot, builder.create_fp_trunc = create_dot, cast_impl
    builder.create_fp_to_fp = lambda self, src, dst_type, mode: cast_impl(self, src, dst_type)


def recurrences() -> dict[str, float]:
    """Root mean square of the error over that of the value, worst of outputs and gradients."""
    found = {}
    for decay, write in (("scalar", "plain"), ("scalar", "delta"), ("vector", "delta"), ("const", "gate")):
        case = make_case(decay, write, size_b=1, size_n=100, size_h=1, size_k=32, size_v=32)
        for name in ("q", "k", "v"):
            setattr(case, name, getattr(case, name).detach().bfloat16().double())
        expected, results = truth(case), run(case, torch.bfloat16)
        found[f"{decay} {write}"] = max(rms_ratio(results[name], value) for name, value in expected.items())
    return found


def main() -> None:
    mend()
    torch.set_num_threads(1)
    dispatch.refuse_triton = lambda *tensors: None  # it refuses bfloat16 in the interpreter as it comes
    scan = ScanCase(grid=(2, 3, 3), channels=4, state=4, traversals=("raster", "snake"))
    given = scan.inputs(torch.bfloat16)
    wide = [given._fields.index(name) for name in ("rate", "skip", "bias", "initial_state")]
    given = type(given)(*(x.float() if x is not None and n in wide else x for n, x in enumerate(given)))
    from medseg_kernels.selective_scan import triton_launch as scans

    largest = {"selective_scan": max(worst(scan, given, scans.forward, scans.backward).values())}
    for many in (10**9, 1):
        triton_launch.MANY = many
        for case in (SHORT[0], SHORT[3]):
            largest[f"{case} {many}"] = max(errors(case, torch.bfloat16, "triton", batch=1).values())
    conv = next(case for case in CASES if case.family == "short_conv")
    largest["short_conv"] = max(check(conv, torch.bfloat16, "cpu", "triton").values())
    print(json.dumps({"largest": largest, "bound": BOUNDS[torch.bfloat16], "root_mean_square": recurrences()}))


if __name__ == "__main__":
    main()
