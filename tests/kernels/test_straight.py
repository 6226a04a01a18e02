"""An operator's function without the operator: only where nobody could tell."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch

from medseg_kernels.short_conv.op import conv_op, run_conv
from medseg_kernels.straight import straight

CALLS = """
import sys, torch
from torch.utils.flop_counter import FlopCounterMode
from torch.profiler import profile
from medseg_kernels import straight as home
from medseg_kernels.short_conv.op import _backward, _save, conv_op
asked = []
def op(*arguments): asked.append(True); return conv_op(*arguments)
op._init_fn = conv_op._init_fn
run = home.straight(op, _save, _backward)
x, taps = torch.randn(1, 60, 4), torch.randn(1, 4, 3)
rest = (None, [3, 4, 5], "raster", "same", [3], False, None)
def asks(call):
    del asked[:]
    call()
    return bool(asked)
with torch.no_grad():
    plain = run(x, taps, *rest)
    assert not asks(lambda: run(x, taps, *rest)), "plain"
    assert "torch._dynamo" not in sys.modules, "the compiler was imported"
    with profile():
        assert asks(lambda: run(x, taps, *rest)), "profiler"
x.requires_grad_()
assert not asks(lambda: run(x, taps, *rest)), "gradients"
grad, = torch.autograd.grad(run(x, taps, *rest).sum(), x)
again, = torch.autograd.grad(conv_op(x, taps, *rest).sum(), x)
assert torch.equal(plain, conv_op(x, taps, *rest)), "another function"
assert torch.equal(grad, again), "another gradient"
assert "torch._dynamo" in sys.modules
assert not asks(lambda: run(x, taps, *rest)), "a compiler is loaded"
compiled = torch.compile(lambda x: run(x, taps, *rest), backend="aot_eager")
del asked[:]
assert torch.equal(plain, compiled(x)), "compiled"
"""


def test_a_plain_call_skips_the_operator_and_the_compiler_while_watched_calls_do_not() -> None:
    ended = subprocess.run([sys.executable, "-c", CALLS], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-800:]


def test_gradients_of_gradients_are_refused_with_and_without_the_operator() -> None:
    x, taps = torch.randn(1, 60, 4, requires_grad=True), torch.randn(1, 4, 3)
    rest = (None, [3, 4, 5], "raster", "same", [3], False, None)
    for run in (run_conv, conv_op):
        (grad,) = torch.autograd.grad(run(x, taps, *rest).square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError):
            grad.sum().backward()


@pytest.mark.parametrize("watch", ["vmap", "mode", "subclass", "forward_ad"])
def test_transforms_modes_subclasses_and_tangents_are_seen(watch: str) -> None:
    from medseg_kernels import straight as home

    x = torch.randn(2, 3)
    with torch.no_grad():
        assert home._unwatched((x, None, 3))
        if watch == "vmap":
            seen: list[bool] = []
            torch.func.vmap(lambda row: (seen.append(home._unwatched((x,))), row)[1])(x)
            assert seen == [False]
        elif watch == "mode":
            from torch.utils.flop_counter import FlopCounterMode

            with FlopCounterMode(display=False):
                assert not home._unwatched((x,))
        elif watch == "subclass":
            assert not home._unwatched((x.as_subclass(type("Mine", (torch.Tensor,), {})),))
        else:
            with warnings.catch_warnings(), torch.autograd.forward_ad.dual_level():
                assert not home._unwatched((x,))


def test_an_object_without_a_function_of_its_own_is_called_itself() -> None:
    assert straight(conv_op).__name__ == "call"
    with torch.no_grad():
        assert straight(lambda value: value + 1)(2) == 3
