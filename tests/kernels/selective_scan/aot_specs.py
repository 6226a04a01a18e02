"""What the ahead-of-time gate compiles for the selective scan: bf16 activations, 16 states, 32 channels per program."""

from __future__ import annotations

from typing import Any

from medseg_kernels.selective_scan import triton_backward, triton_forward
from medseg_kernels.selective_scan.triton_launch import BLOCK, CHECKPOINT, SUB, WARPS
from tests.kernels.aot import Spec

ACTIVATIONS = {"u", "delta", "write", "read", "z", "out", "grad_out", "grad_u", "grad_delta", "grad_z"}
SUMS = {
    "rate", "skip", "bias", "factor", "start", "ends", "sums", "acc", "kept", "last", "scratch",
    "grad_write", "grad_read", "grad_rate", "grad_start", "grad_rows",
}  # fmt: skip
INTEGERS = {"n1", "n2", "s0", "s1", "s2", "size_n", "size_c", "size_s", "span", "count", "groups_w", "groups_r"}
FLAGS = {
    "HAS_BIAS": True, "HAS_START": False, "HAS_BEGINS": False, "SOFTPLUS": True, "CLOSED": True, "SNAKE": False,
    "REVERSED": True, "HAS_SKIP": True, "HAS_Z": True, "HAS_FACTOR": False, "HAS_ENDS": True, "SAVE": True, "ADD": True,
    "FINAL": True, "ADD_U": True, "ADD_DELTA": False, "ADD_Z": True, "ADD_WRITE": False, "ADD_READ": False,
    "BACKWARD": True, "BLOCK": BLOCK, "STATE": 16, "STEPS": CHECKPOINT, "SUB": SUB,
}  # fmt: skip
WINDOWED = {"HAS_START": True, "HAS_BEGINS": True, "CLOSED": False, "HAS_FACTOR": True}
SERIAL = {"HAS_ENDS": False, "ADD": False, "SNAKE": True, "SAVE": False, "HAS_Z": False}


def _type(name: str) -> str:
    if name in ACTIVATIONS:
        return "*bf16"
    if name in SUMS:
        return "*fp32"
    if name in ("order", "table"):
        return "*i32"
    if name in ("begins", "opens"):
        return "*u8"
    return "fp32" if name == "scale" else "i32" if name in INTEGERS else "i64"


def _spec(kernel: Any, label: str = "", everywhere: bool = False, **flags: Any) -> Spec:
    values = {name: value for name, value in {**FLAGS, **flags}.items() if name in kernel.arg_names}
    signature = {name: _type(name) for name in kernel.arg_names if name not in values}
    strides = ("size_c", "size_s", "span")
    aligned = tuple(
        n for n, t in signature.items() if t.startswith("*") or n in strides or n.endswith(("_b", "_n", "_g"))
    )
    name = f"{kernel.__name__} {label}".strip()
    return Spec(name, kernel, signature, values, aligned, num_warps=WARPS, everywhere=everywhere)


KERNELS = [
    triton_forward.local_kernel, triton_forward.carry_kernel, triton_forward.forward_kernel,
    triton_backward.adjoint_kernel, triton_backward.backward_kernel,
]  # fmt: skip
SPECS = [
    *(_spec(kernel, everywhere=True) for kernel in KERNELS),
    *(_spec(kernel, "windowed", **WINDOWED) for kernel in KERNELS),
    *(_spec(kernel, "8 states", STATE=8) for kernel in KERNELS),
    _spec(triton_forward.forward_kernel, "serial", **SERIAL),
]
EXCEPTIONS = {
    "backward_kernel windowed": "the restart's state and its gradient take 32 registers next to the states of two steps: "
    "96 bytes on sm_80, 16 on sm_90 and sm_100",
}
