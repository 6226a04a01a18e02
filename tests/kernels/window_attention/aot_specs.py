"""What the ahead-of-time gate compiles, in bfloat16: the windows of Swin UNETR and their neighbours, and every option once.

Arguments are given as at a launch: pointers and strides are multiples of 16, a one becomes a constant, warps, stages and tiles
are the backend's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import medseg_kernels.window_attention  # noqa: F401, the folder, before its name stands for the function
from medseg_kernels.window_attention.triton_backward import bias_kernel, key_kernel, query_kernel, table_kernel
from medseg_kernels.window_attention.triton_forward import forward_kernel
from medseg_kernels.window_attention.triton_launch import tile_options
from tests.kernels.aot import Spec

NVIDIA, AMD = ("sm_80", "sm_90", "sm_100"), ("gfx942",)
FLOAT_POINTERS = ("lse", "delta", "sample", "padding", "bias", "dpadding", "dpairs")
CODES = ("row_code", "column_code")
TOKENS = ("q", "k", "v", "out", "grad", "dq", "dk", "dv", "carriers", "out_carriers", "grad_carriers", "dcarriers")
FLOATS = ("scale", "factor", "kept")
STRIDES = tuple(letter + axis for letter in "qkvd" for axis in "bxyzh")
KERNELS = {"forward": forward_kernel, "query": query_kernel, "key": key_kernel, "bias": bias_kernel}
ONE_WINDOW = {"n0": 1, "n1": 1, "n2": 1}


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


def specs(
    label: str, window: tuple[int, int, int], channels: int, everywhere: bool = False, **more: Any
) -> Iterator[Spec]:
    """All four kernels for shifted windows with a bias table and hidden padding, on both makers' GPUs."""
    constexprs = {
        "W0": window[0], "W1": window[1], "W2": window[2], "M": 0, "FREE": 0, "EB": channels, "DILATED": False, "HIDE": True,
        "SHARED": False, "HAS": 0, "HAS_BIAS": True, "CAUSAL": False, "R0": -1, "R1": -1, "R2": -1, "DROP": False,
        "SUM_PADDING": False, "qe": 1, "ke": 1, "ve": 1, **more,
    }  # fmt: skip
    tokens = window[0] * window[1] * window[2] + constexprs["M"]
    for name, kernel in KERNELS.items():
        for maker, archs in (("", NVIDIA), (" hip", AMD)):
            launch = tile_options(name, tokens, channels, constexprs["M"], bool(maker))
            options = {key: launch.pop(key) for key in ("num_warps", "num_stages")}
            constants = {key: value for key, value in {**constexprs, **launch}.items() if key in kernel.arg_names}
            types = signature(kernel, constants)
            pointers = tuple(key for key, kind in types.items() if kind.startswith("*"))
            aligned = pointers + tuple(key for key in STRIDES if key in types)
            title = f"{name}_kernel {label}{maker}"
            yield Spec(title, kernel, types, constants, aligned, **options, everywhere=everywhere, only=archs)


TABLE = Spec(
    "table_kernel", table_kernel,
    {"pairs": "*fp32", "code": "*i32", "inverse": "*i32", "dtable": "*fp32",
     **dict.fromkeys(("H", "T", "U", "center", "rows", "groups"), "i32")},
    {"M": 0, "BR": 128}, num_stages=3,
)  # fmt: skip
SPECS = [
    TABLE,
    *specs("7^3 E16", (7, 7, 7), 16, everywhere=True),
    *specs("7^3 E32", (7, 7, 7), 32),
    *specs("7^3 E128", (7, 7, 7), 128),
    *specs("8^3 E16", (8, 8, 8), 16),
    *specs("8^3 E32", (8, 8, 8), 32),
    *specs("8^3 E64", (8, 8, 8), 64),
    *specs("full attention 12^3 E32", (12, 12, 12), 32, **ONE_WINDOW),
    *specs("one token", (1, 1, 1), 16, **ONE_WINDOW, H=1, B=1, entries=1, X=1, Y=1, Z=1),
    *specs("padding takes part 7^3 E16", (7, 7, 7), 16, HIDE=False, HAS=2, SUM_PADDING=True),
    *specs("carriers 7^2 E32", (1, 7, 7), 32, n0=1, X=1, M=4, FREE=4),
    *specs("global query 7^3 E32", (7, 7, 7), 32, SHARED=True),
    *specs("sample vector 7^3 E32", (7, 7, 7), 32, HAS=1),
    *specs("dilated 8^3 E32", (8, 8, 8), 32, DILATED=True),
    *specs("sliding 12^3 E32", (12, 12, 12), 32, **ONE_WINDOW, CAUSAL=True, R0=2, R1=2, R2=2, HAS_BIAS=False),
    *specs("dropout 7^3 E32", (7, 7, 7), 32, DROP=True),
]
EXCEPTIONS = {
    "query_kernel full attention 12^3 E32": "8 bytes on sm_100, where the assembler stops at 80 registers of its own accord",
    "key_kernel sample vector 7^3 E32": "8 bytes on sm_100, where the assembler stops at 80 registers of its own accord",
}
