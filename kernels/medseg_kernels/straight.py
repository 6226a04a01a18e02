"""Call a registered operator's function without the operator, where nobody could tell the difference.

`torch.library.custom_op` imports torch._dynamo at its first call, and with it sympy, triton and the distributed package:
more than a second of a process that only wants one prediction; and every call with gradients costs it about 100 us. An operator is
needed by whoever records, transforms or watches calls; a plain call runs the same function, with gradients inside a
`torch.autograd.Function` of the operator's own formulas.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import Parameter


def straight(
    op: Any,
    setup: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
    *,
    function: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """A function that skips an operator when it is not needed.

    Args:
        op: of `torch.library.custom_op`.
        setup, backward: what its `register_autograd` was given; None where it has no gradients.
        function: what runs instead of the operator, its own function by default; may give None where the operator, whose
            results are all tensors, gives an empty one.
    """
    function = function or getattr(op, "_init_fn", op)
    recorded = None if setup is None or backward is None else _differentiable(function, setup, backward)

    def call(*arguments: Any) -> Any:
        if torch.compiler.is_compiling() or not _unwatched(arguments):
            return op(*arguments)
        if not (torch.is_grad_enabled() and _differentiated(arguments)):
            return function(*arguments)
        return op(*arguments) if recorded is None else recorded.apply(*arguments)  # type: ignore[no-untyped-call]

    return call


def _differentiable(
    function: Callable[..., Any], setup: Callable[..., None], backward: Callable[..., Any]
) -> type[torch.autograd.Function]:
    formula = backward

    class Recorded(torch.autograd.Function):
        """The operator's function and gradient, once: gradients of gradients are refused, as the operator refuses them."""

        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            found = function(*arguments)
            setup(ctx, arguments, found)
            return found

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, *grads: Any) -> Any:
            return formula(ctx, *grads)

    return Recorded


def _differentiated(arguments: tuple[Any, ...]) -> bool:
    for one in arguments:
        kind = type(one)
        if (kind is Tensor or kind is Parameter) and one.requires_grad:
            return True
    return False


def _unwatched(arguments: tuple[Any, ...]) -> bool:
    """No transform, no mode, no profiler, only plain tensors."""
    if (
        torch._C._len_torch_dispatch_stack() != 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch.autograd.forward_ad._current_level >= 0
        or torch.autograd.profiler._is_profiler_enabled
    ):
        return False
    for one in arguments:
        kind = type(one)
        if not (kind is Tensor or kind is Parameter) and isinstance(one, Tensor):
            return False
    return True
