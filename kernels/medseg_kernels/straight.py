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
    op: Any, setup: Callable[..., None] | None = None, backward: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    """A function that skips an operator when it is not needed.

    Args:
        op: of `torch.library.custom_op`.
        setup, backward: what its `register_autograd` was given; None where it has no gradients.
    """
    function = getattr(op, "_init_fn", op)
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
    return any(isinstance(one, Tensor) and one.requires_grad for one in arguments)


def _unwatched(arguments: tuple[Any, ...]) -> bool:
    """No transform, no mode, no profiler, only plain tensors."""
    return (
        torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch.autograd.forward_ad._current_level < 0
        and not torch.autograd.profiler._is_profiler_enabled
        and all(type(one) in (Tensor, Parameter) for one in arguments if isinstance(one, Tensor))
    )
