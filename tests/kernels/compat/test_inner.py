"""Mamba's inner functions equal the recurrence, outputs and gradients, for every option."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medseg_kernels.compat import UnknownOptionError
from medseg_kernels.compat.mamba_ssm.ops.selective_scan_interface import (
    bimamba_inner_fn,
    mamba_inner_fn,
    mamba_inner_fn_no_out_proj,
)

from .recurrences import assert_equal_to_truth, draw, inner_steps, scan_steps, taps

DIM, STATE, RANK, LENGTH, OUT = 6, 4, 2, 19, 3
SHAPES = {
    "xz": (2, 2 * DIM, LENGTH), "conv": (DIM, 1, 4), "conv_bias": (DIM,), "x_proj": (RANK + 2 * STATE, DIM),
    "dt_proj": (DIM, RANK), "A": (DIM, STATE), "D": (DIM,), "delta_bias": (DIM,),
}  # fmt: skip
WEIGHTS = ("xz", "conv", "conv_bias", "x_proj", "dt_proj")
GIVEN = {
    "B and C of the projection": {},
    "constant B": {"B": (DIM, STATE)},
    "variable C": {"C": (2, STATE, LENGTH)},
    "grouped B": {"B": (2, 3, STATE, LENGTH)},
    "biases": {"B_proj_bias": (STATE,), "C_proj_bias": (STATE,)},
}


def split(t: dict[str, Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
    return [t[name] for name in WEIGHTS], {name: x for name, x in t.items() if name not in WEIGHTS}


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("softplus", [True, False], ids=["softplus", "plain"])
def test_without_the_projection_out(given: str, softplus: bool) -> None:
    inputs = draw(**SHAPES, **GIVEN[given])
    if not softplus:  # a step size is positive
        inputs["delta_bias"] = inputs["delta_bias"].abs() + 8.0

    def call(t: dict[str, Tensor]) -> Tensor:
        weights, rest = split(t)
        return mamba_inner_fn_no_out_proj(*weights, **rest, delta_softplus=softplus)

    def truth(t: dict[str, Tensor]) -> Tensor:
        weights, rest = split(t)
        return inner_steps(*weights, **rest, delta_softplus=softplus)

    assert_equal_to_truth(call, truth, inputs)


@pytest.mark.parametrize("biased", [False, True])
def test_with_the_projection_out(biased: bool) -> None:
    inputs = draw(**SHAPES, out_proj=(OUT, DIM), **({"out_bias": (OUT,)} if biased else {}))

    def call(t: dict[str, Tensor]) -> Tensor:
        weights, rest = split(t)
        return mamba_inner_fn(*weights, rest.pop("out_proj"), rest.pop("out_bias", None), **rest, delta_softplus=True)

    def truth(t: dict[str, Tensor]) -> Tensor:
        weights, rest = split(t)
        project, bias = rest.pop("out_proj"), rest.pop("out_bias", None)
        y = inner_steps(*weights, **rest, delta_softplus=True).transpose(1, 2) @ project.T
        return y if bias is None else y + bias

    assert_equal_to_truth(call, truth, inputs)


def test_without_biases_and_skip() -> None:
    inputs = draw(**{name: shape for name, shape in SHAPES.items() if name not in ("conv_bias", "D", "delta_bias")})
    assert_equal_to_truth(
        lambda t: mamba_inner_fn_no_out_proj(t["xz"], t["conv"], None, t["x_proj"], t["dt_proj"], t["A"]),
        lambda t: inner_steps(t["xz"], t["conv"], None, t["x_proj"], t["dt_proj"], t["A"], delta_softplus=True),
        inputs,
    )


def test_both_ways_with_shared_projections() -> None:
    """Vim's first form: the convolution runs forward for both, only the scan turns round."""
    inputs = draw(**SHAPES, A_b=(DIM, STATE), out_proj=(OUT, DIM))

    def call(t: dict[str, Tensor]) -> Tensor:
        weights, rest = split(t)
        return bimamba_inner_fn(*weights, rest.pop("out_proj"), None, rest.pop("A"), rest.pop("A_b"), **rest)

    def truth(t: dict[str, Tensor]) -> Tensor:
        x, z = t["xz"].chunk(2, 1)
        v = taps(x, t["conv"][:, 0], t["conv_bias"], silu=True)
        low, write, read = torch.einsum("oi,bil->bol", t["x_proj"], v).split([RANK, STATE, STATE], 1)
        step, total = torch.einsum("dk,bkl->bdl", t["dt_proj"], low), torch.zeros_like(x)
        for rates, back in ((t["A"], False), (t["A_b"], True)):
            turned = [p.flip(-1) if back else p for p in (v, step, write, read, z)]
            y, _ = scan_steps(
                turned[0],
                turned[1],
                rates,
                turned[2],
                turned[3],
                t["D"],
                turned[4],
                t["delta_bias"],
                delta_softplus=True,
            )
            total = total + (y.flip(-1) if back else y)
        return total.transpose(1, 2) @ t["out_proj"].T

    assert_equal_to_truth(call, truth, inputs)


def test_what_is_not_known_is_refused_by_its_name() -> None:
    t = draw(**SHAPES)
    weights, rest = split(t)
    with pytest.raises(UnknownOptionError, match="b_rms_weight"):
        mamba_inner_fn_no_out_proj(*weights, **rest, b_rms_weight=torch.ones(STATE))
    assert mamba_inner_fn_no_out_proj(*weights, **rest, b_rms_weight=None).shape == (2, DIM, LENGTH)
