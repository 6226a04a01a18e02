"""What the ahead-of-time gate compiles: shifted 7^3 windows of 16 channels (Swin UNETR) in bfloat16, sm_90 and gfx942.

Not yet held to the gate: sm_80 (8 to 48 bytes spilled by three kernels) and sm_100 (40 bytes by key_kernel).
"""

from __future__ import annotations

from typing import Any

import medseg_kernels.window_attention  # noqa: F401, the folder, before its name stands for the function
from medseg_kernels.window_attention.triton_backward import bias_kernel, key_kernel, query_kernel, table_kernel
from medseg_kernels.window_attention.triton_forward import forward_kernel
from tests.kernels.aot import Spec

FLOAT_POINTERS = ("lse", "delta", "sample", "padding", "bias", "dpadding", "dpairs")
CODES = ("row_code", "column_code")
TOKENS = ("q", "k", "v", "out", "grad", "dq", "dk", "dv", "carriers", "out_carriers", "grad_carriers", "dcarriers")
FLOATS = ("scale", "factor", "kept")
STRIDES = tuple(letter + axis for letter in "qkvd" for axis in "bxyzh")


def signature(kernel: Any, constexprs: dict[str, Any]) -> dict[str, str]:
    """Triton types of a kernel's arguments, as the backend passes them for a volume of bfloat16."""
    found = {}
    for name in kernel.arg_names:
        if name in constexprs:
            continue
        if name in FLOAT_POINTERS:
            found[name] = "*fp32"
        elif name in CODES:
            found[name] = "*i32"
        elif name == "seed":
            found[name] = "*i64"
        elif name in TOKENS:
            found[name] = "*bf16"
        elif name in FLOATS:
            found[name] = "fp32"
        else:
            found[name] = "i64" if name == "threshold" else "i32"
    return found


def spec(name: str, kernel: Any, side: int, channels: int, everywhere: bool, **more: Any) -> list[Spec]:
    """A shifted window with a bias table and hidden padding; channel strides are 1."""
    constexprs = {
        "W0": side, "W1": side, "W2": side, "M": 0, "FREE": 0, "EB": channels, "DILATED": False, "HIDE": True,
        "SHARED": False, "HAS_SAMPLE": False, "HAS_PADDING": False, "HAS_BIAS": True, "CAUSAL": False, "R0": -1,
        "R1": -1, "R2": -1, "DROP": False, "BQ": 64, "BK": 64, "qe": 1, "ke": 1, "ve": 1, **more,
    }  # fmt: skip
    constexprs = {key: value for key, value in constexprs.items() if key in kernel.arg_names}
    types = signature(kernel, constexprs)
    pointers = tuple(key for key, kind in types.items() if kind.startswith("*"))
    aligned = pointers + tuple(key for key in STRIDES if key in types)
    # as the backend launches: eight warps of 32 lanes, or four of 64
    options = {"num_stages": 2, "everywhere": everywhere}
    return [
        Spec(name, kernel, types, constexprs, aligned, num_warps=8, only=("sm_90",), **options),
        Spec(f"{name} hip", kernel, types, constexprs, aligned, num_warps=4, only=("gfx942",), **options),
    ]


TABLE = Spec(
    "table_kernel", table_kernel,
    {"pairs": "*fp32", "code": "*i32", "inverse": "*i32", "dtable": "*fp32",
     **dict.fromkeys(("H", "T", "U", "center", "rows", "groups"), "i32")},
    {"M": 0, "BR": 128}, num_warps=8, num_stages=2, only=("sm_90", "gfx942"),
)  # fmt: skip
SPECS = [TABLE]
for window, width in ((7, 16),):
    label = f"{window}^3 E{width}"
    SPECS += [
        *spec(f"forward_kernel {label}", forward_kernel, window, width, window == 7),
        *spec(f"query_kernel {label}", query_kernel, window, width, window == 7),
        *spec(f"key_kernel {label}", key_kernel, window, width, window == 7, SUM_PADDING=False),
        *spec(f"bias_kernel {label}", bias_kernel, window, width, window == 7),
    ]
EXCEPTIONS = {
    "forward_kernel 7^3 E16 hip": "128 bytes: 64 x 64 scores, bias offsets and codes at four warps; eight warps spill 716",
}
