"""The launches of a call, recorded with their true specialisation instead of run: what is compiled is what a GPU would get."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

TYPES = {
    torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float64: "*fp64", torch.int32: "*i32",
    torch.int64: "*i64", torch.uint8: "*u8", torch.int8: "*i8", torch.bool: "*i1",
}  # fmt: skip
# operators that only look at memory in another way, or ask for some
VIEWS = (
    "view", "_unsafe_view", "reshape", "empty", "new_empty", "as_strided", "t.default", "transpose", "permute", "select",
    "slice", "unsqueeze", "squeeze", "expand", "alias", "detach", "unbind", "split", "unflatten", "lift", "_local_scalar",
)  # fmt: skip


@dataclass(frozen=True)
class Launch:
    """One launch as triton would specialise it."""

    kernel: Any
    grid: tuple[int, ...]
    signature: dict[str, str]
    constants: dict[str, Any]
    aligned: tuple[str, ...]
    integers: dict[str, int]
    warps: int
    stages: int

    @property
    def name(self) -> str:
        """The kernel's."""
        return str(self.kernel.__name__)

    @property
    def programs(self) -> int:
        """How many run."""
        return math.prod(self.grid)

    @property
    def key(self) -> str:
        """Equal for launches that share one compiled kernel."""
        parts = (self.name, sorted(self.signature.items()), sorted((k, str(v)) for k, v in self.constants.items()))
        return str((*parts, self.aligned, self.warps, self.stages))


def _specialise(kernel: Any, args: tuple[Any, ...], given: dict[str, Any], grid: Any) -> Launch:
    options = {name: given.pop(name, default) for name, default in (("num_warps", 4), ("num_stages", 3))}
    values = {**{p.name: p.default for p in kernel.params}, **dict(zip(kernel.arg_names, args, strict=False)), **given}
    constexprs = {p.name for p in kernel.params if p.is_constexpr}
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    aligned, integers = [], {}
    for name in kernel.arg_names:
        value = values[name]
        if name in constexprs or value is None:
            constants[name] = value
        elif isinstance(value, torch.Tensor):
            signature[name] = TYPES[value.dtype]
            aligned += [name] * (value.data_ptr() % 16 == 0)
        elif isinstance(value, bool):
            signature[name] = "i1"
        elif isinstance(value, int):
            integers[name] = value
            if value == 1:
                constants[name] = 1
            else:
                signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
                aligned += [name] * (value % 16 == 0)
        else:
            signature[name] = "fp32"
    shape = tuple(grid(values)) if callable(grid) else tuple(grid)
    return Launch(
        kernel, shape, signature, constants, tuple(aligned), integers, options["num_warps"], options["num_stages"]
    )


@contextlib.contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Launches inside are appended to the list instead of run; outputs hold whatever memory held."""
    from triton.runtime.jit import JITFunction

    seen: list[Launch] = []

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **given: Any) -> None:
        seen.append(_specialise(self, args, given, grid))

    with mock.patch.object(JITFunction, "run", run):
        yield seen


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(function).removeprefix("aten.")
        if not name.startswith(VIEWS):
            self.seen[name] += 1
        return function(*args, **(kwargs or {}))


def record(call: Callable[[], Any]) -> tuple[list[Launch], int]:
    """Launches of a call, and how many kernels of torch it starts besides, both with warm caches."""
    with recorded() as first:
        call()
    del first
    with recorded() as launches, _Counting() as counting:
        call()
    return launches, sum(counting.seen.values())
