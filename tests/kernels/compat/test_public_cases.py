"""What the public tests of mamba_ssm and causal_conv1d try, in our words: their lengths, dtypes and tolerances, on a CPU.

Tolerances as there: per dtype for outputs and activations' gradients, a loose one for weights that collect the whole sequence.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medseg_kernels.compat.causal_conv1d import causal_conv1d_fn, causal_conv1d_update
from medseg_kernels.compat.mamba_ssm.ops.selective_scan_interface import (
    mamba_inner_fn,
    selective_scan_fn,
    selective_scan_ref,
)
from medseg_kernels.compat.mamba_ssm.ops.triton.selective_state_update import selective_state_update

from .recurrences import draw, head_steps, inner_steps, scan_steps, taps

TOLERANCE = {torch.float32: (6e-4, 2e-3), torch.float16: (3e-3, 5e-3), torch.bfloat16: (3e-2, 5e-2)}
LENGTHS = [8, 16, 64, 256, 1134, pytest.param(2048, marks=pytest.mark.slow), pytest.param(4096, marks=pytest.mark.slow)]
WEIGHTS = {"A", "D", "delta_bias"}


def gradients(y: Tensor, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    torch.manual_seed(1)
    pull = torch.randn(y.shape).to(y.dtype)  # randn_like would follow the strides
    return dict(zip(leaves, torch.autograd.grad(y, list(leaves.values()), pull), strict=True))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_selective_scan_with_everything_variable(length: int, dtype: torch.dtype, groups: int) -> None:
    torch.manual_seed(0)
    batch, dim, state = 2, 4, 8
    (rtol, atol), activations = TOLERANCE[dtype], (batch, dim, length)
    mixed = (batch, state, length) if groups == 1 else (batch, groups, state, length)
    given = {
        "u": torch.randn(activations), "delta": 0.5 * torch.rand(activations), "A": -0.5 * torch.rand(dim, state),
        "B": torch.randn(mixed), "C": torch.randn(mixed), "D": torch.randn(dim), "z": torch.randn(activations),
        "delta_bias": 0.5 * torch.rand(dim),
    }  # fmt: skip
    typed = {name: x if name in WEIGHTS else x.to(dtype) for name, x in given.items()}
    ours = {name: x.clone().requires_grad_() for name, x in typed.items()}
    theirs = {name: x.clone().requires_grad_() for name, x in typed.items()}
    y, last = selective_scan_fn(**ours, delta_softplus=True, return_last_state=True)
    y_true, last_true = selective_scan_ref(**theirs, delta_softplus=True, return_last_state=True)
    torch.testing.assert_close(y, y_true, rtol=rtol, atol=atol)
    torch.testing.assert_close(last, last_true, rtol=rtol, atol=atol)
    found, expected = gradients(y, ours), gradients(y_true, theirs)
    for name, right in expected.items():
        wide = (1e-2, 5e-2) if name in WEIGHTS else (5 * rtol, 10 * atol)
        torch.testing.assert_close(
            found[name], right, rtol=wide[0], atol=wide[1] * float(max(1, length / 256)), msg=name
        )


@pytest.mark.parametrize("dtype", [torch.float32])
@pytest.mark.parametrize("variable_b", [False, True])
@pytest.mark.parametrize("variable_c", [False, True])
def test_the_inner_function_at_the_size_of_the_public_test(
    dtype: torch.dtype, variable_b: bool, variable_c: bool
) -> None:
    """dim 768, state 8, rank 48, 128 steps there; a quarter of the channels here."""
    dim, state, rank, length = 192, 8, 12, 128
    x = draw(
        xz=(2, 2 * dim, length), conv=(dim, 1, 3), conv_bias=(dim,), x_proj=(rank + 2 * state, dim), dt_proj=(dim, rank),
        out_proj=(dim // 2, dim), A=(dim, state), B=(dim, state), C=(dim, state), D=(dim,), bias=(dim,),
    )  # fmt: skip
    x["x_proj"], x["dt_proj"] = x["x_proj"] / dim**0.5, x["dt_proj"] / rank**0.5
    x["A"], x["bias"] = -torch.rand_like(x["A"]) * 0.5, x["bias"] * 0.1
    B, C = (None if variable_b else x["B"]), (None if variable_c else x["C"])
    weights = [x[name] for name in ("xz", "conv", "conv_bias", "x_proj", "dt_proj")]
    truth = inner_steps(*weights, x["A"], B, C, D=x["D"], delta_bias=x["bias"], delta_softplus=True)
    truth = truth.transpose(1, 2) @ x["out_proj"].T
    cast = [t.to(dtype) for t in weights]
    narrow = [None if t is None else t.to(dtype) for t in (B, C)]
    y = mamba_inner_fn(
        *cast, x["out_proj"].to(dtype), None, x["A"].float(), *narrow, x["D"].float(), delta_bias=x["bias"].float()
    )
    torch.testing.assert_close(y.double(), truth, rtol=1e-3, atol=5e-3)


@pytest.mark.parametrize("length", [1, 2, 8, 129, 372, 784, 1134])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("width", [2, 3, 4])
def test_causal_convolution_at_public_lengths(length: int, dtype: torch.dtype, width: int) -> None:
    rtol, atol = TOLERANCE[dtype]
    x = {name: t.to(dtype) for name, t in draw(x=(2, 17, length), weight=(17, width), bias=(17,)).items()}
    y = causal_conv1d_fn(**x, activation="silu")
    assert y.dtype == dtype
    truth = taps(*(t.double() for t in x.values()), silu=True)
    torch.testing.assert_close(y.double(), truth, rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("dim", [1, 16, 257])
def test_a_convolutions_step_on_chosen_rows_of_a_large_cache(dtype: torch.dtype, dim: int) -> None:
    torch.manual_seed(0)
    rows, cache = torch.tensor([5, 0, 2]), torch.randn(7, dim, 3).to(dtype)
    x, weight, bias = torch.randn(3, dim).to(dtype), torch.randn(dim, 4).to(dtype), torch.randn(dim).to(dtype)
    before, whole = cache.clone(), torch.cat([cache[rows], x[..., None]], -1)
    y = causal_conv1d_update(x, cache, weight, bias, "silu", conv_state_indices=rows)
    truth = functional.silu((whole.double() * weight.double()).sum(-1) + bias.double())
    rtol, atol = TOLERANCE[dtype]
    torch.testing.assert_close(y.double(), truth, rtol=rtol, atol=atol)
    assert cache[rows].equal(whole[..., 1:])
    others = [1, 3, 4, 6]
    assert cache[others].equal(before[others])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("state", [16, 64])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_step_of_the_scan_with_heads(dtype: torch.dtype, state: int, groups: int) -> None:
    x = draw(
        x=(2, 1, 8, 64),
        dt=(2, 1, 8),
        A=(8,),
        B=(2, 1, groups, state),
        C=(2, 1, groups, state),
        D=(8,),
        s=(2, 8, 64, state),
    )
    x = {name: t if name in ("A", "D", "s") else t.to(dtype).double() for name, t in x.items()}
    truth, last = head_steps(x["x"], functional.softplus(x["dt"]), x["A"], x["B"], x["C"], x["D"], start=x["s"])
    held = x["s"].float()
    y = selective_state_update(
        held, x["x"][:, 0].to(dtype), x["dt"][:, 0, :, None].to(dtype).expand(-1, -1, 64),
        x["A"].float()[:, None, None].expand(8, 64, state), x["B"][:, 0].to(dtype), x["C"][:, 0].to(dtype),
        x["D"].float()[:, None].expand(8, 64), dt_softplus=True,
    )  # fmt: skip
    rtol, atol = TOLERANCE[dtype]
    torch.testing.assert_close(held.double(), last, rtol=rtol, atol=atol)
    torch.testing.assert_close(y.double(), truth[:, 0], rtol=rtol, atol=atol)


def test_the_step_by_step_form_is_the_truth_itself() -> None:
    x = draw(
        u=(2, 4, 33), delta=(2, 4, 33), A=(4, 8), B=(2, 2, 8, 33), C=(2, 8, 33), D=(4,), z=(2, 4, 33), delta_bias=(4,)
    )
    torch.testing.assert_close(selective_scan_ref(**x, delta_softplus=True), scan_steps(**x, delta_softplus=True)[0])
