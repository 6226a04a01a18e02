"""Call a registered operator's function without the operator, where nobody could tell the difference.

`torch.library.custom_op` imports torch._dynamo at its first call, and with it sympy, triton and the distributed package:
more than a second of a process that only wants one prediction. An operator is needed by whoever records, differentiates,
transforms or watches calls; a plain call without any of them runs the same function.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter


def straight(op: Any) -> Callable[..., Any]:
    """The operator `op` (of `torch.library.custom_op`) as a function that skips it when it is not needed."""
    function = getattr(op, "_init_fn", op)

    def call(*arguments: Any) -> Any:
        if torch.compiler.is_compiling() or not _unwatched(arguments):
            return op(*arguments)
        return function(*arguments)

    return call


def _unwatched(arguments: tuple[Any, ...]) -> bool:
    """No compiler was ever loaded, no gradients, no transform, no mode, no profiler, only plain tensors."""
    return (
        "torch._dynamo" not in sys.modules
        and not torch.is_grad_enabled()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch.autograd.forward_ad._current_level < 0
        and not torch.autograd.profiler._is_profiler_enabled
        and all(type(one) in (Tensor, Parameter) for one in arguments if isinstance(one, Tensor))
    )
