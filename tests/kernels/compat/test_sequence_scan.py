"""The selective scan of sequences and the extension's pair equal the recurrence, outputs and gradients, for every option."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from medseg_kernels.compat import (
    UnknownOptionError,
    selective_scan_cuda,
    selective_scan_cuda_core,
    selective_scan_cuda_oflex,
)
from medseg_kernels.compat.mamba_ssm.ops.selective_scan_interface import selective_scan_fn, selective_scan_ref

from .recurrences import assert_equal_to_truth, draw, error, scan_steps

BATCH, DIM, STATE = 2, 4, 8
FORMS = {
    "constant": (DIM, STATE), "variable": (BATCH, STATE, -1), "one group": (BATCH, 1, STATE, -1),
    "two groups": (BATCH, 2, STATE, -1),
}  # fmt: skip


def shapes(length: int, form_b: str, form_c: str, **optional: bool) -> dict[str, tuple[int, ...]]:
    named = {"u": (BATCH, DIM, length), "delta": (BATCH, DIM, length), "A": (DIM, STATE)}
    for name, form in (("B", form_b), ("C", form_c)):
        named[name] = tuple(length if side == -1 else side for side in FORMS[form])
    kinds = {"D": (DIM,), "z": (BATCH, DIM, length), "delta_bias": (DIM,)}
    return named | {name: kinds[name] for name, given in optional.items() if given}


@pytest.mark.parametrize("length", [1, 8, 130])
@pytest.mark.parametrize("form_b", FORMS)
@pytest.mark.parametrize("form_c", ["constant", "two groups"])
def test_scan_and_last_state_equal_the_recurrence(length: int, form_b: str, form_c: str) -> None:
    inputs = draw(**shapes(length, form_b, form_c, D=True, z=True, delta_bias=True))
    assert_equal_to_truth(
        lambda x: selective_scan_fn(**x, delta_softplus=True, return_last_state=True),
        lambda x: scan_steps(**x, delta_softplus=True), inputs,
    )  # fmt: skip


@pytest.mark.parametrize("function", [selective_scan_fn, selective_scan_ref], ids=lambda f: f.__name__)
@pytest.mark.parametrize("softplus", [False, True], ids=["plain", "softplus"])
@pytest.mark.parametrize("given", [{}, {"D": True}, {"z": True}, {"delta_bias": True}], ids=str)
def test_every_optional_part_alone_equals_the_recurrence(function, softplus: bool, given: dict[str, bool]) -> None:
    inputs = draw(**shapes(17, "variable", "one group", **given))
    inputs["delta"] = inputs["delta"].abs() * 0.3  # without softplus a step size is positive
    assert_equal_to_truth(
        lambda x: function(**x, delta_softplus=softplus), lambda x: scan_steps(**x, delta_softplus=softplus)[0], inputs
    )


def pair_through(module, with_gate: bool):
    """The extension called as published autograd functions call it."""

    class Published(torch.autograd.Function):
        @staticmethod
        def forward(ctx, u, delta, A, B, C, D, delta_bias, z=None):
            if module is selective_scan_cuda:
                out, x, *rest = module.fwd(u, delta, A, B, C, D, z, delta_bias, True)
            else:
                out, x, *rest = module.fwd(u, delta, A, B, C, D, delta_bias, True, 1)
            ctx.save_for_backward(u, delta, A, B, C, D, delta_bias, z, x, out)
            return rest[0] if with_gate else out, x[:, :, -1, 1::2].clone()

        @staticmethod
        def backward(ctx, dout, *unused):
            u, delta, A, B, C, D, delta_bias, z, x, out = ctx.saved_tensors
            if module is selective_scan_cuda:
                grads = module.bwd(u, delta, A, B, C, D, z, delta_bias, dout, x, out, None, True, False)
            else:
                grads = module.bwd(u, delta, A, B, C, D, delta_bias, dout, x, True, 1)
            return (*grads, None)[:8] if with_gate else (*grads[:7], None)

    return Published.apply


@pytest.mark.parametrize("module", [selective_scan_cuda, selective_scan_cuda_core, selective_scan_cuda_oflex],
                         ids=lambda m: m.__name__.rpartition(".")[2])  # fmt: skip
@pytest.mark.parametrize("form", FORMS)
def test_the_pair_of_the_extension_equals_the_recurrence(module, form: str) -> None:
    inputs = draw(**shapes(70, form, form, D=True, delta_bias=True))
    call = pair_through(module, with_gate=False)
    state = call(*(x.float() for x in inputs.values()))[1]
    assert error(state, scan_steps(**inputs, delta_softplus=True)[1]) < 1e-5
    assert_equal_to_truth(lambda x: call(*x.values())[0], lambda x: scan_steps(**x, delta_softplus=True)[0], inputs)


def test_the_pair_with_a_gate_equals_the_recurrence() -> None:
    inputs = draw(**shapes(33, "one group", "one group", D=True, delta_bias=True), z=(BATCH, DIM, 33))
    call = pair_through(selective_scan_cuda, with_gate=True)
    assert_equal_to_truth(lambda x: call(*x.values())[0], lambda x: scan_steps(**x, delta_softplus=True)[0], inputs)


def test_the_pair_writes_the_gates_gradient_where_it_is_told_and_gives_the_gated_output_again() -> None:
    x = {n: t.float() for n, t in draw(**shapes(9, "variable", "variable", z=True)).items()}
    out, kept, gated = selective_scan_cuda.fwd(*(x[n] for n in ["u", "delta", "A", "B", "C"]), None, x["z"], None, True)
    place = torch.empty_like(x["z"])
    *grads, dz, again = selective_scan_cuda.bwd(
        *(x[n] for n in ["u", "delta", "A", "B", "C"]),
        None,
        x["z"],
        None,
        torch.ones_like(out),
        kept,
        out,
        place,
        True,
        True,
    )
    assert dz is place
    assert grads[5] is None  # no D, no bias
    assert grads[6] is None
    torch.testing.assert_close(again, gated)
    torch.testing.assert_close(gated, out * functional.silu(x["z"]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_oflex_returns_float32_sums_of_16_bit_inputs(dtype: torch.dtype) -> None:
    x = [t.to(dtype) for t in draw(**shapes(40, "two groups", "two groups")).values()]
    wide = selective_scan_cuda_oflex.fwd(*x[:2], x[2].float(), *x[3:], None, None, True, 1, True)[0]
    narrow = selective_scan_cuda_oflex.fwd(*x[:2], x[2].float(), *x[3:], None, None, True, 1, False)[0]
    truth = scan_steps(*(t.double() for t in x), delta_softplus=True)[0]
    assert wide.dtype == torch.float32
    assert narrow.dtype == dtype
    assert error(wide, truth) < 1e-5
    assert error(narrow, truth) < 1e-2


def test_what_is_not_known_is_refused_by_its_name() -> None:
    x = list(draw(**shapes(3, "variable", "variable")).values())
    with pytest.raises(UnknownOptionError, match="selective_scan_fn has no option position_indices"):
        selective_scan_fn(*x, position_indices=None)
    with pytest.raises(NotImplementedError, match=r"A=torch\.complex128"):
        selective_scan_fn(*x[:2], x[2].to(torch.complex128), *x[3:])
    with pytest.raises(ValueError, match="delta: found"):
        selective_scan_fn(x[0], x[1][..., :-1], *x[2:])
