"""What is to be right on a GPU: every op in every dtype, from the same tables of cases as the CPU's tests.

A case gives its truth (float64, on the CPU) and its results on a device; `check` compares them, runs twice for bit equality, and
fills fresh memory with NaN. On a CPU the same cases run by torch's forms, which shows that the script itself works.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medseg_kernels import axis_table, stitch_labels, stitch_window
from medseg_kernels.gated_linear_recurrence.chunked import chunkwise
from medseg_kernels.gated_linear_recurrence.chunked_backward import chunkwise_backward
from medseg_kernels.selective_scan.chunked_backward import Inputs
from medseg_kernels.selective_scan.op import scan_backward_op, scan_op
from medseg_kernels.short_conv.op import conv_op
from medseg_kernels.traversals.tables import SEPARATOR
from tests.kernels.gated_linear_recurrence import cases as recurrence
from tests.kernels.selective_scan import cases as scan
from tests.kernels.short_conv import cases as conv
from tests.kernels.window_attention import cases as window

DTYPES = (torch.bfloat16, torch.float32, torch.float16)  # bf16 first: the one that nothing but a GPU shows
BOUNDS = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 3e-2}  # largest error over largest value
Results = dict[str, Tensor]


@dataclass(frozen=True)
class GpuCase:
    """One case of one op.

    Args:
        family: of kernels.
        name: of the case.
        run: (device, dtype, backend) -> results; backend "reference" and float64 is the truth.
    """

    family: str
    name: str
    run: Callable[[str, torch.dtype, str | None], Results]


def _window(case: window.Case) -> GpuCase:
    def run(device: str, dtype: torch.dtype, backend: str | None) -> Results:
        rounded = torch.bfloat16  # numbers that every dtype holds
        return window.run(case, window.tensors(case, rounded, 1), dtype, backend, device)

    return GpuCase("window_attention", str(case), run)


def _scan(case: scan.Case) -> GpuCase:
    def run(device: str, dtype: torch.dtype, backend: str | None) -> Results:
        rounded = case.inputs(torch.bfloat16)
        wide = dtype if dtype == torch.float64 else torch.float32  # rates, biases and states are never 16-bit
        kinds = [dtype if name in ("u", "delta", "write", "read", "z") else wide for name in Inputs._fields]
        given = Inputs(*(None if x is None else x.to(device, kind) for x, kind in zip(rounded, kinds, strict=True)))
        out, last, kept = scan_op(*given, *case.settings(), True, backend)
        generator = torch.Generator().manual_seed(1)
        weights = [torch.randn(x.shape, generator=generator).bfloat16().to(device, x.dtype) for x in (out, last)]
        grads = scan_backward_op(*weights, *given, kept, *case.settings(), backend)
        named = {n: g for n, g, x in zip(Inputs._fields, grads, given, strict=True) if x is not None}
        return {"out": out, "last": last, **named}

    return GpuCase("selective_scan", case.name, run)


def _conv(case: conv.Case) -> GpuCase:
    def run(device: str, dtype: torch.dtype, backend: str | None) -> Results:
        given = [None if x is None else x.to(device, dtype).requires_grad_() for x in case.inputs(torch.bfloat16)]
        settings = (case.grid, SEPARATOR.join(case.traversals), case.mode, case.kernel, case.silu, backend)
        out = conv_op(*given, *settings)
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).bfloat16().to(device, dtype)
        found = torch.autograd.grad(out, [x for x in given if x is not None], grad)
        return {"out": out.detach(), **dict(zip(("x", "weight", "bias"), found, strict=False))}

    return GpuCase("short_conv", case.name, run)


def _recurrence(decay: str, write: str, sizes: dict[str, Any]) -> GpuCase:
    def run(device: str, dtype: torch.dtype, backend: str | None) -> Results:
        case = recurrence.make_case(decay, write, size_b=1, size_h=4, **sizes)
        order = [torch.randperm(sizes["size_n"], generator=torch.Generator().manual_seed(s)) for s in (2, 3)]
        wide = dtype if dtype == torch.float64 else torch.float32
        q, k, v = (x.detach().bfloat16().to(device, dtype) for x in (case.q, case.k, case.v))
        g, beta, state = (
            None if x is None else x.detach().to(device, wide) for x in (case.g, case.beta, case.initial_state)
        )
        forms: tuple[Callable[..., Any], Callable[..., Any]] = (chunkwise, chunkwise_backward)
        if backend == "triton":
            from medseg_kernels.gated_linear_recurrence import triton_launch

            forms = (triton_launch.forward, triton_launch.backward)
        rest = (sizes["size_k"] ** -0.5, state, torch.stack(order).int().to(device), case.pieces, case.delta)
        out, final = forms[0](q, k, v, g, beta, *rest)
        weights = [w.to(device, x.dtype) for w, x in zip(recurrence.weights_for(out, final), (out, final), strict=True)]
        grads = forms[1](*weights, q, k, v, g, beta, *rest)
        return {"out": out, "final": final, **{n: x for n, x in grads._asdict().items() if x is not None}}

    return GpuCase("gated_linear_recurrence", f"{decay} {write} {sizes['size_n']} K{sizes['size_k']}", run)


def _stitch(slab: tuple[int, int, int], box: tuple[int, int, int], classes: int) -> GpuCase:
    def run(device: str, dtype: torch.dtype, backend: str | None) -> Results:
        torch.manual_seed(0)
        kind = torch.float32 if dtype in (torch.float64, torch.bfloat16) else dtype
        values, weight = torch.zeros(classes, *slab, dtype=kind, device=device), torch.zeros(slab, device=device)
        for start in ([0, 0, 0], [s - b for s, b in zip(slab, box, strict=True)]):
            logits, share = torch.randn(classes, *box).bfloat16(), torch.rand(box) + 0.1
            wanted = torch.float32 if dtype == torch.float64 else dtype
            stitch_window(values, weight, logits.to(device, wanted), share.to(device), start, backend=backend)
        stored = values.clone()
        values.add_(torch.randn(values.shape).to(device, kind))  # far from ties, and no empty voxel
        tables = [axis_table(side, 2 * side) for side in slab]
        labels = stitch_labels(values.contiguous(), None, *tables, backend=backend)
        return {"values": stored, "weight": weight, "labels": labels}

    return GpuCase("stitch", f"{slab} {box} K{classes}", run)


def _recurrences() -> list[GpuCase]:
    long = {"size_n": 2000, "size_k": 64, "size_v": 64, "pieces": [0, 700, 700, 2000]}
    odd = {"size_n": 131, "size_k": 20, "size_v": 33}
    members = [(decay, write) for decay in recurrence.DECAYS for write in recurrence.WRITES]
    return [*(_recurrence(*m, long) for m in members), *(_recurrence(*m, odd) for m in members[1::3])]


CASES = [
    *(_window(case) for case in window.CASES),
    *(_scan(case) for case in scan.CASES),
    *_recurrences(),
    *(_conv(case) for case in conv.CASES),
    _stitch((7, 6, 5), (4, 4, 4), 3),
    _stitch((1, 8, 8), (1, 4, 4), 105),
    _stitch((32, 32, 16), (16, 16, 16), 300),
]
TINY = [next(case for case in CASES if case.family == f) for f in sorted({case.family for case in CASES})]


def check(case: GpuCase, dtype: torch.dtype, device: str, backend: str | None) -> dict[str, float]:
    """Error of every result over its largest value; "repeat" is 1 when a second run gave other bits.

    Labels count as wrong by the share of voxels that differ, near ties left out by a thousandth of them.
    """
    truth = case.run("cpu", torch.float64, "reference")
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills fresh memory with NaN
    try:
        found, again = case.run(device, dtype, backend), case.run(device, dtype, backend)
    finally:
        torch.use_deterministic_algorithms(False)
    errors = {"repeat": float(any(not torch.equal(found[name], again[name]) for name in found))}
    for name, value in truth.items():
        if name == "labels":
            share = float((found[name].cpu() != value).double().mean())
            errors[name] = 0.0 if share < 1e-3 else share
            continue
        distance = (found[name].detach().double().cpu() - value.detach().double()).abs().max()
        errors[name] = float(distance / window.scale(value.detach().double()))
    return errors


def wrong(errors: dict[str, float], dtype: torch.dtype) -> dict[str, float]:
    """Those above the bound, NaN among them."""
    return {name: value for name, value in errors.items() if not value < BOUNDS[dtype]}
