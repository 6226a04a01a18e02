"""An operator's function without the operator: only where nobody could tell."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch

from medseg_kernels.short_conv.op import conv_op
from medseg_kernels.straight import straight

CALLS = """
import sys, torch
from torch.utils.flop_counter import FlopCounterMode
from torch.profiler import profile
from medseg_kernels import straight as home
from medseg_kernels.short_conv.op import conv_op
asked = []
def op(*arguments): asked.append(True); return conv_op(*arguments)
op._init_fn = conv_op._init_fn
run = home.straight(op)
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
with torch.inference_mode():
    assert not home._unwatched((x,)) or "torch._dynamo" not in sys.modules
assert asks(lambda: run(x, taps, *rest)), "gradients"
assert torch.equal(plain, conv_op(x, taps, *rest)), "another function"
assert "torch._dynamo" in sys.modules
with torch.no_grad():
    assert asks(lambda: run(x, taps, *rest)), "a compiler is loaded"
"""


def test_a_plain_call_skips_the_operator_and_the_compiler_while_watched_calls_do_not() -> None:
    ended = subprocess.run([sys.executable, "-c", CALLS], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-800:]


@pytest.mark.parametrize("watch", ["vmap", "mode", "subclass", "forward_ad"])
def test_transforms_modes_subclasses_and_tangents_are_seen(watch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from medseg_kernels import straight as home

    monkeypatch.setattr(home.sys, "modules", {k: v for k, v in sys.modules.items() if k != "torch._dynamo"})
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
