"""Gated norms and norms with a residual equal their formulas, outputs and gradients, for every option."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medseg_kernels.compat import UnknownOptionError
from medseg_kernels.compat.mamba_ssm.ops.triton.layer_norm import RMSNorm, layer_norm_fn, rms_norm_fn
from medseg_kernels.compat.mamba_ssm.ops.triton.layernorm_gated import LayerNorm, layernorm_fn, rmsnorm_fn
from medseg_kernels.compat.mamba_ssm.ops.triton.layernorm_gated import RMSNorm as RMSNormGated

from .recurrences import assert_equal_to_truth, draw


def formula(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, rms: bool, groups: int = 1) -> Tensor:
    rows = []
    for part in x.chunk(groups, -1):
        part = part if rms else part - part.mean(-1, keepdim=True)
        rows.append(part / torch.sqrt((part**2).mean(-1, keepdim=True) + eps))
    y = torch.cat(rows, -1) * weight
    return y if bias is None else y + bias


@pytest.mark.parametrize("rms", [True, False], ids=["rms", "layer"])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("before", [True, False], ids=["norm first", "gate first"])
@pytest.mark.parametrize("names", [("bias", "z"), ("z",), ("bias",)], ids=str)
def test_gated_norms(rms: bool, groups: int, before: bool, names: tuple[str, ...]) -> None:
    shapes = {"x": (2, 5, 12), "weight": (12,), "bias": (12,), "z": (2, 5, 12)}
    inputs = draw(**{name: shape for name, shape in shapes.items() if name in ("x", "weight", *names)})

    def call(t: dict[str, Tensor]) -> Tensor:
        given = {"bias": None} | t
        size = 12 // groups if groups > 1 else None
        if rms:
            return rmsnorm_fn(**given, eps=1e-5, group_size=size, norm_before_gate=before)
        return layernorm_fn(**given, eps=1e-5, group_size=size, norm_before_gate=before)

    def truth(t: dict[str, Tensor]) -> Tensor:
        gate = functional.silu(t["z"]) if "z" in t else torch.ones_like(t["x"])
        x = t["x"] if before else t["x"] * gate
        y = formula(x, t["weight"], t.get("bias"), 1e-5, rms, groups)
        return y * gate if before else y

    assert_equal_to_truth(call, truth, inputs)


@pytest.mark.parametrize("rms", [True, False], ids=["rms", "layer"])
@pytest.mark.parametrize("centred", [True, False])
def test_the_residual_is_added_first_and_returned(rms: bool, centred: bool) -> None:
    inputs = draw(x=(2, 5, 8), weight=(8,), bias=(8,), residual=(2, 5, 8))

    def truth(t: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        total = t["x"] + t["residual"]
        return formula(total, t["weight"] + (1.0 if centred else 0.0), t["bias"], 1e-6, rms), total

    function = rms_norm_fn if rms else layer_norm_fn
    assert_equal_to_truth(lambda t: function(**t, prenorm=True, zero_centered_weight=centred), truth, inputs)


def test_the_sum_has_the_residuals_dtype_or_float32_where_asked() -> None:
    x, weight = torch.ones(1, 4, dtype=torch.bfloat16), torch.ones(4, dtype=torch.bfloat16)
    y, total = layer_norm_fn(x, weight, None, prenorm=True, residual_in_fp32=True)
    assert (y.dtype, total.dtype) == (torch.bfloat16, torch.float32)
    assert layer_norm_fn(x, weight, None, x, prenorm=True, residual_in_fp32=True)[1].dtype == torch.bfloat16
    assert layer_norm_fn(x, weight, None).dtype == torch.bfloat16


def test_modules_have_the_published_parameters() -> None:
    assert list(RMSNormGated(6, group_size=3).state_dict()) == ["weight"]
    assert list(LayerNorm(6).state_dict()) == ["weight", "bias"]
    assert list(RMSNorm(6).state_dict()) == ["weight"]
    assert RMSNorm(6).bias is None
    x = torch.randn(2, 6)
    torch.testing.assert_close(RMSNorm(6)(x), functional.rms_norm(x, (6,), eps=1e-5))
    torch.testing.assert_close(LayerNorm(6)(x), functional.layer_norm(x, (6,), eps=1e-5))


def test_what_is_not_known_is_refused_by_its_name() -> None:
    x, weight = torch.ones(2, 4), torch.ones(4)
    with pytest.raises(UnknownOptionError, match=r"dropout_p=0\.1"):
        layer_norm_fn(x, weight, None, dropout_p=0.1)
    with pytest.raises(UnknownOptionError, match="rowscale"):
        rms_norm_fn(x, weight, None, rowscale=2.0)
    with pytest.raises(UnknownOptionError, match="dropout_p"):
        RMSNorm(4, dropout_p=0.5)
    with pytest.raises(UnknownOptionError, match="fused"):
        RMSNormGated(4, fused=True)
