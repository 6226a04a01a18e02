"""What the ahead-of-time gate compiles for the short convolution: bf16 activations, along a traversal and in 3D."""

from __future__ import annotations

from typing import Any

from medseg_kernels.short_conv.triton_backward import weight_kernel
from medseg_kernels.short_conv.triton_forward import conv_kernel
from medseg_kernels.short_conv.triton_launch import BLOCK, TOKENS, WARPS
from tests.kernels.aot import Spec

FLAGS = {
    "GRID": False, "HAS_BOUNDS": True, "HAS_BIAS": True, "SILU": True, "GRAD": False, "SUM": False, "TOKENS": TOKENS,
    "BLOCK": BLOCK,
}  # fmt: skip
TYPES = {
    "x": "*bf16", "grad": "*bf16", "out": "*bf16", "weight": "*fp32", "bias": "*fp32", "through": "*fp32", "partial": "*fp32",
    "order": "*i32", "inverse": "*i32", "bounds": "*i32",
}  # fmt: skip


def _spec(kernel: Any, label: str, everywhere: bool, types: dict[str, str] | None = None, **flags: Any) -> Spec:
    values = {name: value for name, value in {**FLAGS, **flags}.items() if name in kernel.arg_names}
    known = {**TYPES, **(types or {})}
    signature = {
        n: known.get(n, "i64" if n.endswith(("_b", "_r", "_n")) else "i32") for n in kernel.arg_names if n not in values
    }
    aligned = tuple(n for n, t in signature.items() if t.startswith("*") or t == "i64" or n == "size_c")
    return Spec(
        f"{kernel.__name__} {label}", kernel, signature, values, aligned, num_warps=WARPS, everywhere=everywhere
    )


SPECS = [
    _spec(conv_kernel, "steps", True),
    _spec(conv_kernel, "grid", False, GRID=True),
    _spec(conv_kernel, "steps, before the activation", False, {"out": "*fp32"}, GRAD=True),
    _spec(conv_kernel, "steps, gradient of x", True, {"x": "*fp32"}, SUM=True, HAS_BIAS=False, SILU=False),
    _spec(weight_kernel, "steps", True),
    _spec(weight_kernel, "grid", False, GRID=True),
]
