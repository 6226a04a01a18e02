"""What Python spends on an eager call of each op, without a GPU: everything runs but the compiler and the launches themselves.

    python -m tests.kernels.model.host            a table, microseconds, the fastest of many runs

A driver that does nothing takes the launches of triton's own launcher, CPU tensors stand for those on a GPU. What is left out:
cuLaunchKernel (2 to 4 us each on a GPU) and the difference between the allocators of the CPU and of CUDA.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from medseg_kernels import dispatch, prepared


class _Driver:
    """What triton asks of a driver before a launch."""

    launcher_cls = utils = None

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def is_active(self) -> bool:
        return True


class Compiled:
    """A compiled kernel that does nothing, and remembers its last launch."""

    function, packed_metadata, hash = 0, (), "dry"

    def __init__(self, seen: list[tuple[Any, ...]]) -> None:
        self.seen = seen

    def launch_metadata(self, *given: Any) -> None:
        return None

    def run(self, *given: Any) -> None:
        self.seen.append(given)


@contextlib.contextmanager
def dry_launches() -> Iterator[list[tuple[Any, ...]]]:
    """Triton's launches go to a driver that does nothing; the list holds what each was given (grid, stream, ..., arguments)."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    seen: list[tuple[Any, ...]] = []

    def compile_nothing(self: Any, key: Any, signature: Any, device: int, *rest: Any) -> Compiled:
        made = Compiled(seen)
        self.device_caches[device][0][key] = made
        return made

    prepared.forget()
    before = driver._active if hasattr(driver, "_active") else None
    driver.set_active(_Driver())
    try:
        with (
            mock.patch.object(JITFunction, "_do_compile", compile_nothing),
            mock.patch.object(dispatch, "refuse_triton", return_value=None),
            mock.patch.object(dispatch, "interpreting", return_value=False),
            mock.patch.object(prepared, "everywhere", True),
        ):
            yield seen
    finally:
        driver._active = before
        prepared.forget()


def fastest(call: Callable[[], Any], runs: int = 300) -> float:
    """Microseconds of the fastest of many runs: others use the machine too."""
    for _ in range(5):
        call()
    best = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best * 1e6


def _leaf(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.zeros(shape, dtype=dtype).requires_grad_()


def calls() -> dict[str, tuple[Callable[[], Tensor], list[Tensor]]]:
    """Op -> a call with many optional arguments, and what gradients are asked of. Small: torch's own work must not count."""
    import medseg_kernels as kernels

    x, delta, z = (_leaf(1, 8, 8, 4, 32) for _ in range(3))
    rate, write, read = _leaf(32, 16, dtype=torch.float32), _leaf(1, 8, 8, 4, 16), _leaf(1, 8, 8, 4, 16)
    skip, bias = _leaf(32, dtype=torch.float32), _leaf(32, dtype=torch.float32)
    oriented = ["raster", "reversed raster", "raster:YZX"]
    qkv, table = _leaf(1, 6, 6, 6, 3, 3, 16), _leaf(5**3, 3, dtype=torch.float32)
    q, k, v = (_leaf(1, 16, 16, 8, 1, 16) for _ in range(3))
    gate, beta = (torch.zeros(1, 16, 16, 8, 1).requires_grad_() for _ in range(2))
    weight = _leaf(3, 32, 4, dtype=torch.float32)
    return {
        "window_attention": (lambda: kernels.window_attention(qkv, [3] * 3, [1] * 3, table), [qkv, table]),
        "selective_scan": (
            lambda: kernels.selective_scan(
                x, delta, rate, write, read, skip, z, bias, delta_softplus=True, traversals=oriented
            ),
            [x, delta, rate, write, read, skip, z, bias],
        ),
        "recurrence scalar": (
            lambda: kernels.gated_linear_recurrence(q, k, v, gate, traversals=["raster:YZX"])[0], [q, k, v, gate],
        ),
        "recurrence gated delta": (
            lambda: kernels.gated_linear_recurrence(q, k, v, gate, beta, traversals=["raster:YZX"])[0], [q, k, v, gate, beta],
        ),
        "short_conv": (lambda: kernels.short_conv(x, weight, traversals=oriented, silu=True), [x, weight]),
    }  # fmt: skip


def measured(runs: int = 300) -> dict[str, dict[str, float]]:
    """Op -> microseconds of a forward without gradients, one with, and a backward; launches of each."""
    import medseg_kernels.gated_linear_recurrence  # noqa: F401
    from medseg_kernels.gated_linear_recurrence import triton_launch

    found: dict[str, dict[str, float]] = {}
    with (
        dry_launches() as seen,
        mock.patch.object(triton_launch, "workers", return_value=264),
        mock.patch.dict("os.environ", {"MEDSEG_BACKEND": "triton"}),
        mock.patch("medseg_kernels.gated_linear_recurrence.op.check_values"),
    ):
        for name, (call, leaves) in calls().items():
            row: dict[str, float] = {}
            with torch.no_grad():
                row["forward"] = fastest(call, runs)
                seen.clear()
                call()
                row["launches"] = len(seen)
            row["forward with gradients"] = fastest(call, runs)
            grad = torch.ones_like(call())

            def both(call: Any = call, leaves: Any = leaves, grad: Any = grad) -> Any:
                return torch.autograd.grad(call(), leaves, grad)

            row["both"] = fastest(both, runs)
            seen.clear()
            both()
            row["launches of both"] = len(seen)
            found[name] = row
    return found


if __name__ == "__main__":
    for name, row in measured(int(sys.argv[1]) if len(sys.argv) > 1 else 300).items():
        print(f"{name:24}", "  ".join(f"{key} {value:.0f}" for key, value in row.items()))
