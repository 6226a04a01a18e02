"""Mamba-2's functions equal the recurrence of heads, outputs, states and gradients, for every option."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medseg_kernels.compat import UnknownOptionError
from medseg_kernels.compat.mamba_ssm.ops.triton.ssd_combined import (
    mamba_chunk_scan_combined,
    mamba_split_conv1d_scan_combined,
)

from .recurrences import assert_equal_to_truth, draw, head_steps, taps

HEADS, PER_HEAD, STATE = 4, 3, 5


def shapes(length: int, groups: int, batch: int = 2, **optional: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    mixed = (batch, length, groups, STATE)
    scan = {"x": (batch, length, HEADS, PER_HEAD), "dt": (batch, length, HEADS), "A": (HEADS,), "B": mixed, "C": mixed}
    return scan | optional


def final_step(t: dict[str, Tensor], softplus: bool, limit: tuple[float, float]) -> Tensor:
    step = t["dt"] if "dt_bias" not in t else t["dt"] + t["dt_bias"]
    return (functional.softplus(step) if softplus else step).clamp(*limit)


OPTIONS = {
    "nothing": {},
    "skip per head": {"D": (HEADS,)},
    "skip per channel": {"D": (HEADS, PER_HEAD)},
    "gate": {"z": (2, 37, HEADS, PER_HEAD)},
    "bias": {"dt_bias": (HEADS,)},
    "start": {"initial_states": (2, HEADS, PER_HEAD, STATE)},
    "all": {
        "D": (HEADS, PER_HEAD), "z": (2, 37, HEADS, PER_HEAD), "dt_bias": (HEADS,),
        "initial_states": (2, HEADS, PER_HEAD, STATE),
    },
}  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("limit", [(0.0, math.inf), (0.4, 0.9)], ids=str)
def test_outputs_and_final_states_equal_the_recurrence(options: str, groups: int, limit: tuple[float, float]) -> None:
    inputs = draw(**shapes(37, groups, **OPTIONS[options]))

    def truth(t: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return head_steps(
            t["x"], final_step(t, True, limit), t["A"], t["B"], t["C"], t.get("D"), t.get("z"), t.get("initial_states")
        )

    assert_equal_to_truth(
        lambda t: mamba_chunk_scan_combined(
            **t, chunk_size=16, dt_softplus=True, dt_limit=limit, return_final_states=True
        ),
        truth, inputs,
    )  # fmt: skip


@pytest.mark.parametrize("same", [True, False], ids=["equal rows", "rows of their own"])
@pytest.mark.parametrize("start", [False, True])
def test_the_state_starts_anew_with_every_packed_sequence(same: bool, start: bool) -> None:
    first = torch.tensor([0] * 5 + [1] * 9 + [2] * 6)
    seq_idx = torch.stack([first, first if same else torch.tensor([0] * 17 + [1] * 3)])
    optional = {"initial_states": (2, HEADS, PER_HEAD, STATE)} if start else {}
    inputs = draw(**shapes(20, 1, **optional))

    def truth(t: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        step = final_step(t, True, (0.0, math.inf))
        return head_steps(
            t["x"], step, t["A"], t["B"], t["C"], start=t.get("initial_states"), seq_idx=seq_idx
        )  # fmt: skip

    assert_equal_to_truth(
        lambda t: mamba_chunk_scan_combined(
            **t, chunk_size=8, seq_idx=seq_idx, dt_softplus=True, return_final_states=True
        ),
        truth, inputs,
    )  # fmt: skip


def test_states_of_packed_sequences_equal_those_of_each_alone() -> None:
    ends = torch.tensor([0, 4, 11, 20])
    inputs = draw(**shapes(20, 2, batch=1))
    numbers = torch.repeat_interleave(torch.arange(3), ends.diff())[None]

    def truth(t: dict[str, Tensor]) -> tuple[Tensor, ...]:
        step, outs, states = final_step(t, True, (0.0, math.inf)), [], []
        for i, j in zip(ends.tolist(), ends[1:].tolist(), strict=False):
            y, state = head_steps(t["x"][:, i:j], step[:, i:j], t["A"], t["B"][:, i:j], t["C"][:, i:j])
            outs.append(y)
            states.append(state)
        return torch.cat(outs, 1), states[-1], torch.cat(states)

    assert_equal_to_truth(
        lambda t: mamba_chunk_scan_combined(
            **t, chunk_size=8, seq_idx=numbers, cu_seqlens=ends, dt_softplus=True, return_final_states=True,
            return_varlen_states=True,
        ),
        truth, inputs,
    )  # fmt: skip


@pytest.mark.parametrize("paired", [0, 4])
@pytest.mark.parametrize("norm", [None, "norm before gate", "gate before norm"])
@pytest.mark.parametrize("projected", [False, True])
def test_the_whole_inner_part_equals_its_parts(paired: int, norm: str | None, projected: bool) -> None:
    groups, inner = 2, HEADS * PER_HEAD
    mixed = inner + 2 * groups * STATE
    optional: dict[str, tuple[int, ...]] = {"rmsnorm_weight": (inner,)} if norm else {}
    if projected:
        optional |= {"outproj_weight": (7, paired + inner), "outproj_bias": (7,)}
    inputs = draw(
        zxbcdt=(2, 11, 2 * paired + inner + mixed + HEADS), conv1d_weight=(mixed, 4), conv1d_bias=(mixed,), dt_bias=(HEADS,),
        A=(HEADS,), D=(HEADS,), **optional,
    )  # fmt: skip

    def truth(t: dict[str, Tensor]) -> Tensor:
        gate0, x0, z, xbc, dt = t["zxbcdt"].split([paired, paired, inner, mixed, HEADS], -1)
        xbc = taps(xbc.transpose(1, 2), t["conv1d_weight"], t["conv1d_bias"], True).transpose(1, 2)
        x, B, C = xbc.split([inner, groups * STATE, groups * STATE], -1)
        y, _ = head_steps(
            x.reshape(2, 11, HEADS, PER_HEAD), functional.softplus(dt + t["dt_bias"]), t["A"],
            B.reshape(2, 11, groups, STATE), C.reshape(2, 11, groups, STATE), t["D"],
        )  # fmt: skip
        y, gate = y.flatten(2), functional.silu(z)
        if norm is None:
            y = y * gate
        else:
            y = y * gate if norm == "gate before norm" else y
            parts = y.reshape(2, 11, groups, -1)
            y = (parts / (parts.square().mean(-1, keepdim=True) + 1e-5).sqrt()).flatten(2) * t["rmsnorm_weight"]
            y = y * gate if norm == "norm before gate" else y
        y = torch.cat([functional.silu(gate0) * x0, y], -1)
        return y @ t["outproj_weight"].T + t["outproj_bias"] if projected else y

    assert_equal_to_truth(
        lambda t: mamba_split_conv1d_scan_combined(
            **t, chunk_size=4, headdim=PER_HEAD, ngroups=groups, rmsnorm_eps=1e-5, norm_before_gate=norm == "norm before gate"
        ),
        truth, inputs,
    )  # fmt: skip


def test_what_is_not_known_is_refused_by_its_name() -> None:
    t = draw(**shapes(3, 1))
    with pytest.raises(UnknownOptionError, match="mamba_chunk_scan_combined has no option state_dtype"):
        mamba_chunk_scan_combined(**t, chunk_size=4, state_dtype=torch.float32)
    with pytest.raises(ValueError, match="expected a batch of 1 and cu_seqlens"):
        mamba_chunk_scan_combined(**t, chunk_size=4, dt_softplus=True, return_varlen_states=True)
