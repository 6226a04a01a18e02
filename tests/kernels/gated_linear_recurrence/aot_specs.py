"""What to compile ahead of time, as triton_launch.py launches it: K = V = 64 (and 128), bf16, with an order."""

from __future__ import annotations

import re
from typing import Any

from medseg_kernels.gated_linear_recurrence import triton_backward, triton_forward
from medseg_kernels.gated_linear_recurrence import triton_launch as backend
from tests.kernels.aot import Spec

FLOAT32 = {"cum", "final", "start", "d_final", "d_start", "g", "beta", "d_beta", "dg"}
INT32 = {"order", "starts", "counts", "piece_chunks"}
DECAYS = {"none": 0, "const": 1, "scalar": 2, "vector": 3}
WRITES = {"plain": 0, "gate": 1, "delta": 2}
KERNELS: dict[str, Any] = {
    "decay": triton_forward.decay_kernel,
    "solve": triton_forward.solve_kernel,
    "state": triton_forward.state_kernel,
    "output": triton_forward.output_kernel,
    "state_backward": triton_backward.state_backward_kernel,
    "solve_backward": triton_backward.solve_backward_kernel,
    "gradient": triton_backward.gradient_kernel,
}
OLD, NEW, AMD = ("sm_80",), ("sm_90", "sm_100"), ("gfx942",)


def type_of(name: str) -> str:
    """Triton's type of a kernel argument."""
    if name in FLOAT32:
        return "*fp32"
    if name in INT32:
        return "*i32"
    if name == "scale":
        return "fp32"
    is_number = re.match(r"size_|chunks$|heads_per_row$|.*_[bnh]$", name)
    return "i32" if is_number else "*bf16"


def spec(name: str, decay: str, write: str, size_k: int, only: tuple[str, ...], *, everywhere: bool = False) -> Spec:
    """One configuration, with the block sizes and warps that the launcher picks on these architectures."""
    kernel = KERNELS[name]
    chunk = backend.chunk_of(size_k, simple=decay != "vector" and write != "delta", room=only != OLD)
    flags = {
        "HAS_ORDER": True, "HAS_START": True, "HAS_FINAL": True, "HAS_VALUES": True, "STORE": True, "ADJOINT": False,
        "DECAY": DECAYS[decay], "WRITE": WRITES[write], "C": chunk, "BK": backend.block_of(size_k),
        "BV": backend.value_block(size_k, size_k), "PRECISION": "ieee",
    }  # fmt: skip
    constexprs = {parameter.name: flags[parameter.name] for parameter in kernel.params if parameter.is_constexpr}
    signature = {argument: type_of(argument) for argument in kernel.arg_names if argument not in constexprs}
    # what triton finds out by itself at a launch with K = V = 64: pointers and token strides are multiples of 16
    aligned = tuple(a for a, kind in signature.items() if kind[0] == "*" or re.fullmatch(r"size_[kv]|[qkvo]_[bnh]", a))
    warps = backend.gradient_warps(chunk, hip=only == AMD) if name == "gradient" else 4
    return Spec(
        f"{name} {decay} {write} K={size_k} {'/'.join(only)}", kernel, signature, constexprs, aligned=aligned,
        num_warps=warps, num_stages=backend.stages(name == "gradient"), everywhere=everywhere, only=only,
    )  # fmt: skip


QUICK = {
    "decay": ("vector", "plain"), "solve": ("scalar", "delta"), "state": ("scalar", "delta"), "output": ("vector", "plain"),
    "state_backward": ("scalar", "delta"), "solve_backward": ("scalar", "delta"), "gradient": ("scalar", "plain"),
}  # fmt: skip
MEMBERS = [
    ("none", "delta"),
    ("const", "plain"),
    ("scalar", "gate"),
    ("scalar", "plain"),
    ("scalar", "delta"),
    ("vector", "plain"),
]
MEMBERS += [("vector", "delta")]
WALKED = ("state", "output", "state_backward", "gradient")
WANTED = [("decay", "scalar", "plain"), ("decay", "vector", "plain")]
WANTED += [(name, decay, "delta") for name in ("solve", "solve_backward") for decay in ("scalar", "vector")]
WANTED += [(name, *member) for name in WALKED for member in MEMBERS]
SPECS = [
    spec(name, decay, write, 64, only, everywhere=QUICK[name] == (decay, write))
    for name, decay, write in WANTED
    for only in (OLD, NEW, AMD)
]
SPECS += [spec(name, "scalar", "delta", 128, OLD + NEW) for name in WALKED]
EXCEPTIONS: dict[str, str] = {}
