"""Run by test_triton.py in a process of its own: the triton kernels, by triton's interpreter; prints a JSON list, an object per case.

float32 and float16 only: the interpreter multiplies bfloat16 wrongly without saying so.
"""

from __future__ import annotations

import json
from typing import Any
from unittest import mock

import numpy as np
import torch

from medseg_kernels import gated_linear_recurrence
from medseg_kernels.gated_linear_recurrence import segments, triton_launch
from medseg_kernels.gated_linear_recurrence.chunked import chunkwise
from medseg_kernels.gated_linear_recurrence.chunked_backward import chunkwise_backward
from tests.kernels.gated_linear_recurrence.cases import DECAYS, WRITES, Case, error, make_case, rms_ratio, weights_for
from tests.kernels.played import played

PIECES = [0, 0, 7, 71, 71, 100]


def poison() -> None:
    """Fill fresh memory with NaN, so that an element which no kernel writes is seen."""
    real = torch.empty

    def poisoned(*args, **kwargs):  # type: ignore[no-untyped-def]
        fresh = real(*args, **kwargs)
        return fresh.fill_(float("nan")) if fresh.is_floating_point() else fresh

    torch.empty = poisoned


def cases() -> list[tuple[str, Case, torch.dtype]]:
    """Names, arguments in float64 and the dtype to run in."""
    listed = []
    for decay in DECAYS:
        for write in WRITES:
            dtype = torch.float16 if (write == "delta") == (decay in ("const", "vector")) else torch.float32
            case = make_case(decay, write, size_b=1, size_n=100, size_k=20, size_v=33, pieces=PIECES, strength=2.0)
            case.order = torch.stack(
                [torch.randperm(100, generator=torch.Generator().manual_seed(s)) for s in (2, 3)]
            ).int()
            listed.append((f"{decay} {write} {dtype}", case, dtype))
    for decay, write, size_n in (("scalar", "plain", 1), ("vector", "delta", 63), ("scalar", "delta", 130)):
        case = make_case(decay, write, size_b=1, size_n=size_n, size_h=1, size_k=16, size_v=16)
        listed.append((f"{decay} {write} N={size_n}", case, torch.float32))
    strong = make_case("vector", "delta", size_b=1, size_n=70, size_h=1, size_k=16, size_v=16, strength=200.0)
    listed.append(("strong decay", strong, torch.float32))
    for decay, write, size_b in (("scalar", "plain", 2), ("scalar", "delta", 1), ("vector", "gate", 1)):
        case = make_case(
            decay, write, size_b=size_b, size_n=150, size_h=1, size_k=16, size_v=16, pieces=[0, 130, 130, 150]
        )
        listed.append((f"segments {decay} {write}", case, torch.float32))
    return listed


def run(case: Case, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Outputs, states and gradients of the kernels."""
    q, k, v = (x.detach().to(dtype) for x in (case.q, case.k, case.v))
    g, beta, start = (None if x is None else x.detach().float() for x in (case.g, case.beta, case.initial_state))
    scale = case.q.shape[-1] ** -0.5
    output, final = triton_launch.forward(q, k, v, g, beta, scale, start, case.order, case.pieces, case.delta)
    w_output, w_state = (x.to(q.device) for x in weights_for(output, final))
    grads = triton_launch.backward(
        w_output.to(dtype), w_state.float(), q, k, v, g, beta, scale, start, case.order, case.pieces, case.delta
    )
    return {"output": output, "final_state": final, **{n: x for n, x in grads._asdict().items() if x is not None}}


def far_apart() -> dict[str, float]:
    """Errors, forward and backward, of samples 2**31 elements apart; memory that nobody touches costs nothing."""
    far = torch.from_numpy(np.empty(2**31 + 1000, dtype=np.float32)).as_strided((2, 10, 2, 8), (2**31, 16, 8, 1))
    far.copy_(torch.randn(2, 10, 2, 8, generator=torch.Generator().manual_seed(0)))
    near = torch.randn(2, 10, 2, 8, generator=torch.Generator().manual_seed(0))
    results = []
    for x in (far, near.double()):
        form = (triton_launch.forward, triton_launch.backward) if x is far else (chunkwise, chunkwise_backward)
        outputs = form[0](x, x, x, None, None, 1.0, None, None, None, False)
        weights = (weight.to(x.dtype) for weight in weights_for(*outputs))
        results.append([*outputs, *form[1](*weights, x, x, x, None, None, 1.0, None, None, None, False)[:3]])
    names = ("output", "final_state", "q", "k", "v")
    return {name: error(a, b) for name, a, b in zip(names, *results, strict=True)}


def truth(case: Case) -> dict[str, torch.Tensor]:
    """The same in float64 by the chunked torch form, which test_forms.py holds against the recurrence."""
    scale = case.q.shape[-1] ** -0.5
    args = (case.q, case.k, case.v, case.g, case.beta)
    with torch.no_grad():
        output, final = chunkwise(*args, scale, case.initial_state, case.order, case.pieces, case.delta)
        weights = weights_for(output, final)
        grads = chunkwise_backward(*weights, *args, scale, case.initial_state, case.order, case.pieces, case.delta)
    return {"output": output, "final_state": final, **{n: x for n, x in grads._asdict().items() if x is not None}}


def recurrent(*given: torch.Tensor) -> torch.Tensor:
    """The delta rule with a decay, on a sequence of two segments."""
    q, k, v, g, beta = given
    out: torch.Tensor = gated_linear_recurrence(q, k, v, -g.abs(), beta, backend="triton")[0]
    return out


def alone(device: str) -> int:
    """One worker: no piece is cut."""
    return 1


def crowd(device: str) -> int:
    """So many workers that every piece is cut into segments."""
    return 40


def main() -> None:
    segments.MIN_CHUNKS = 1
    triton_launch.workers = crowd
    rows = [(1, 70, 1, 8)] * 3 + [(1, 70, 1)] * 2
    with mock.patch("medseg_kernels.gated_linear_recurrence.op.check_values"):  # looks at values on a CPU, on a GPU not
        right = played(recurrent, *rows)
    lines: list[dict[str, Any]] = [{"name": "played", "half": False, "errors": {"0 if right": float(not right)}}]
    listed = cases()
    expected = [truth(case) for _, case, _ in listed]
    poison()
    for (name, case, dtype), values in zip(listed, expected, strict=True):
        triton_launch.workers = crowd if name.startswith("segments") else alone
        found = run(case, dtype)
        measure = error if dtype == torch.float32 else rms_ratio
        line: dict[str, Any] = {
            "name": name,
            "half": dtype != torch.float32,
            "errors": {n: measure(found[n], x) for n, x in values.items()},
        }
        if name == "scalar delta N=130":
            again = run(case, dtype)
            line["repeats"] = all(torch.equal(found[n], again[n]) for n in found)
        lines.append(line)
    lines.append({"name": "strides beyond 2**31", "half": False, "errors": far_apart()})
    print(json.dumps(lines))


if __name__ == "__main__":
    main()
