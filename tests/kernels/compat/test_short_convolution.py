"""causal_conv1d's functions equal taps on the past, for every option, and their steps equal the whole."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from medseg_kernels.compat import UnknownOptionError
from medseg_kernels.compat.causal_conv1d import causal_conv1d_fn, causal_conv1d_update
from medseg_kernels.compat.causal_conv1d.causal_conv1d_varlen import causal_conv1d_varlen_states

from .recurrences import assert_equal_to_truth, draw, taps


@pytest.mark.parametrize("activation", [None, "silu", "swish"])
@pytest.mark.parametrize("width", [2, 3, 4, 7])
@pytest.mark.parametrize("length", [1, 2, 33])
def test_the_convolution_equals_taps_on_the_past(activation: str | None, width: int, length: int) -> None:
    inputs = draw(x=(2, 5, length), weight=(5, width), bias=(5,))
    assert_equal_to_truth(
        lambda t: causal_conv1d_fn(**t, activation=activation), lambda t: taps(**t, silu=activation is not None), inputs
    )


@pytest.mark.parametrize("channels_last", [False, True])
def test_without_bias_and_in_either_layout(channels_last: bool) -> None:
    inputs = draw(x=(2, 6, 12), weight=(6, 4))

    def call(t: dict[str, Tensor]) -> Tensor:
        x = t["x"].transpose(1, 2).contiguous().transpose(1, 2) if channels_last else t["x"]
        return causal_conv1d_fn(x, t["weight"])

    assert_equal_to_truth(call, lambda t: taps(t["x"], t["weight"], None, silu=False), inputs)


@pytest.mark.parametrize("length", [1, 2, 9])
def test_states_before_and_after_carry_gradients(length: int) -> None:
    inputs = draw(x=(2, 3, length), weight=(3, 4), bias=(3,), initial_states=(2, 3, 3))

    def truth(t: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        whole = torch.cat([t["initial_states"], t["x"]], -1)
        return taps(t["x"], t["weight"], t["bias"], True, t["initial_states"]), whole[..., -3:]

    assert_equal_to_truth(
        lambda t: causal_conv1d_fn(**t, return_final_states=True, activation="silu"), truth, inputs
    )  # fmt: skip


def test_final_states_go_where_they_are_told_with_zeros_before_a_short_sequence() -> None:
    x, place = torch.ones(1, 2, 2), torch.full((1, 2, 3), 9.0)
    _, final = causal_conv1d_fn(x, torch.ones(2, 4), return_final_states=True, final_states_out=place)
    assert final is place
    assert place[0, 0].tolist() == [0.0, 1.0, 1.0]


def test_no_tap_reaches_into_another_sequence() -> None:
    seq_idx = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, 2], [4, 4, 4, 4, 4, 4, 4, 5, 5]], dtype=torch.int32)
    inputs = draw(x=(2, 3, 9), weight=(3, 4), bias=(3,))

    def truth(t: dict[str, Tensor]) -> Tensor:
        rows = []
        for b, ends in enumerate(([0, 3, 5, 9], [0, 7, 9])):
            pieces = [t["x"][b : b + 1, :, i:j] for i, j in pairwise(ends)]
            rows.append(torch.cat([taps(piece, t["weight"], t["bias"], True) for piece in pieces], -1))
        return torch.cat(rows)

    assert_equal_to_truth(lambda t: causal_conv1d_fn(**t, seq_idx=seq_idx, activation="silu"), truth, inputs)


def test_padding_with_a_negative_number_gives_zeros() -> None:
    y = causal_conv1d_fn(
        torch.ones(1, 2, 4), torch.ones(2, 3), torch.ones(2), seq_idx=torch.tensor([[0, 0, -1, -1]]), activation="silu"
    )
    assert (y[..., 2:] == 0).all()
    assert (y[..., :2] != 0).all()


def test_the_activation_of_version_1_0_stands_in_the_fourth_place() -> None:
    x, weight, bias = (t.float() for t in draw(x=(1, 3, 5), weight=(3, 4), bias=(3,)).values())
    torch.testing.assert_close(
        causal_conv1d_fn(x, weight, bias, "silu"), causal_conv1d_fn(x, weight, bias, activation="silu")
    )


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("room", [3, 4, 6])
@pytest.mark.parametrize("ring", [False, True])
def test_steps_equal_the_whole(chunk: int, room: int, ring: bool) -> None:
    x, weight, bias = (t.float() for t in draw(x=(2, 3, 12), weight=(3, 4), bias=(3,)).values())
    state, parts = torch.zeros(2, 3, room), []
    for first in range(0, 12, chunk):
        piece = x[..., first] if chunk == 1 else x[..., first : first + chunk]
        seen = torch.full((2,), first, dtype=torch.int32) if ring else None
        out = causal_conv1d_update(piece, state, weight, bias, "silu", cache_seqlens=seen)
        assert out.shape == piece.shape
        parts.append(out.view(2, 3, -1))
    torch.testing.assert_close(torch.cat(parts, -1), taps(x, weight, bias, True))
    if not ring:
        torch.testing.assert_close(state[..., -3:], x[..., -3:])


def test_a_step_changes_only_the_rows_that_it_is_given() -> None:
    state = torch.zeros(5, 2, 3)
    causal_conv1d_update(torch.ones(2, 2), state, torch.ones(2, 4), conv_state_indices=torch.tensor([3, 1]))
    assert state.sum((1, 2)).tolist() == [0.0, 2.0, 0.0, 2.0, 0.0]


def test_states_of_packed_sequences_are_their_last_inputs_with_zeros_before() -> None:
    x = torch.arange(1.0, 7.0)[:, None]
    states = causal_conv1d_varlen_states(x, torch.tensor([0, 1, 6]), 3)
    assert states.tolist() == [[[0.0, 0.0, 1.0]], [[4.0, 5.0, 6.0]]]


def test_what_is_not_known_is_refused_by_its_name() -> None:
    x, weight = torch.ones(1, 2, 3), torch.ones(2, 4)
    with pytest.raises(UnknownOptionError, match="activation='gelu'"):
        causal_conv1d_fn(x, weight, activation="gelu")
    with pytest.raises(UnknownOptionError, match="causal_conv1d_update has no option pad_slot_id"):
        causal_conv1d_update(x[..., 0], torch.ones(1, 2, 3), weight, pad_slot_id=-1)
    with pytest.raises(ValueError, match="seq_idx or states, not both"):
        causal_conv1d_fn(x, weight, seq_idx=torch.zeros(1, 3), return_final_states=True)
