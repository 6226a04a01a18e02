"""Run by test_triton.py in a process of its own: the GPU kernels, by triton's interpreter, against the reference."""

from __future__ import annotations

import json
import tempfile
from typing import Any

import numpy as np
import torch

from medseg_kernels import selective_scan
from medseg_kernels.selective_scan import triton_launch
from medseg_kernels.selective_scan.chunked_backward import Inputs
from tests.kernels.played import played
from tests.kernels.selective_scan.cases import Case, error, worst

WINDOWED = "windowed:2,2,2:snake"
CASES = {
    "one token": Case(grid=(1, 1, 1), channels=1, state=1, batch=1),
    "flat, all per traversal": Case(
        grid=(1, 13, 5), channels=3, state=2, batch=1, traversals=("snake", "reversed snake:ZYX"), each="u delta write read",
        softplus=False,
    ),
    "prime, mean": Case(
        grid=(2, 3, 5), channels=8, state=4, batch=1, traversals=("raster", "reversed raster:ZYX"), merge="mean",
        each="rate skip bias",
    ),
    "windows, concat": Case(grid=(3, 5, 1), channels=4, state=2, traversals=("raster", WINDOWED), merge="concat", each="read"),
    "windows back, weights, groups": Case(
        grid=(2, 3, 3), channels=8, state=3, batch=1, traversals=(WINDOWED, f"reversed {WINDOWED}"), merge="weights", groups=(2, 1),
    ),
    "heads": Case(
        grid=(2, 2, 3), channels=12, state=3, batch=1, traversals=("heads(raster; hilbert)", "snake"), groups=(4, 2),
        merge="weights", options="skip",
    ),
    "three segments, two blocks": Case(grid=(1, 10, 13), channels=35, state=5, batch=1, traversals=("raster:YXZ",)),
}  # fmt: skip


def poisoned() -> float:
    """Largest error with every fresh buffer filled with NaN: an element that no kernel writes would show."""
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)
    case = Case(
        grid=(3, 2, 1), channels=3, state=2, batch=1, traversals=("raster", WINDOWED), merge="weights", groups=(1, 3)
    )
    errors = worst(case, case.inputs(), triton_launch.forward, triton_launch.backward)
    torch.use_deterministic_algorithms(False)
    return max(errors.values())


def half_precision() -> float:
    """Error of float16 inputs against float64 on the same numbers."""
    case = Case(grid=(2, 3, 3), channels=4, state=4, traversals=("raster", "snake"))
    return max(worst(case, case.inputs(torch.float16), triton_launch.forward, triton_launch.backward).values())


def repeated() -> bool:
    """Two runs are bit-identical."""
    case = Case(grid=(2, 3, 2), channels=4, state=2, batch=1, traversals=("raster", "hilbert"))
    given, runs = case.inputs(), []
    for _ in range(2):
        out, last, kept = triton_launch.forward(given, *case.settings(), True)
        runs.append([out, *triton_launch.backward(out, last, given, kept, *case.settings())])
    return all(a is b is None or torch.equal(a, b) for a, b in zip(*runs, strict=True))


def far_apart() -> float:
    """Error, forward and backward, with tokens more than 2**31 elements apart: a sparse file stands for the memory between."""
    case = Case(grid=(1, 1, 3), channels=2, state=2, batch=1, options="")
    given, stride = case.inputs(), 2**30 + 2**20
    with tempfile.NamedTemporaryFile() as file:
        memory = torch.from_numpy(np.memmap(file.name, dtype=np.float32, mode="w+", shape=(2 * stride + 2,)))
        far = memory.as_strided((1, 1, 3, 2), (0, 0, stride, 1))
        far.copy_(given.u)
        return max(worst(case, Inputs(far, *given[1:]), triton_launch.forward, triton_launch.backward).values())


def expanded() -> float:
    """Error with inputs repeated by strides of 0, over samples and tokens."""
    case = Case(grid=(1, 2, 2), channels=2, state=2, batch=2, options="z", traversals=("raster", "snake"))
    given = case.inputs()
    one = given.u[:1, :, :1].expand(2, 1, 4, 2)
    same = Inputs(one, given.delta[:, :, :1].expand(-1, -1, 4, -1), *given[2:])
    return max(worst(case, same, triton_launch.forward, triton_launch.backward).values())


def by_name() -> float:
    """The public function with backend="triton" against backend="reference"."""
    torch.manual_seed(0)
    u, b = torch.randn(1, 2, 3, 4, 4), torch.randn(1, 2, 3, 4, 2)
    results = [
        selective_scan(u, u, -torch.ones(4, 2), b, b, delta_softplus=True, traversals=["snake"], backend=backend)
        for backend in ("triton", "reference")
    ]
    return error(results[0], results[1].double())


def scanned(
    u: torch.Tensor, delta: torch.Tensor, write: torch.Tensor, read: torch.Tensor, z: torch.Tensor
) -> torch.Tensor:
    """Two traversals, gated."""
    rate = -torch.ones(2, 2)
    return selective_scan(
        u, delta, rate, write, read, z=z, delta_softplus=True, traversals=["snake", "reversed raster"], backend="triton"
    )


def main() -> None:
    results: dict[str, Any] = {
        name: max(worst(case, case.inputs(), triton_launch.forward, triton_launch.backward).values())
        for name, case in CASES.items()
    }
    for check in (poisoned, half_precision, repeated, far_apart, expanded, by_name):
        results[check.__name__] = check()
    volume = (1, 2, 2, 2, 2)
    results["played"] = played(scanned, volume, volume, volume, volume, volume)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
