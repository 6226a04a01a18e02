"""One step at a time is the recurrence, with heads and without, and changes the state in place."""

from __future__ import annotations

import pytest
import torch

from medseg_kernels.compat import UnknownOptionError
from medseg_kernels.compat.mamba_ssm.ops.triton.selective_state_update import selective_state_update

from .recurrences import draw, error, head_steps, scan_steps


@pytest.mark.parametrize("options", [(), ("D",), ("z",), ("delta_bias",), ("D", "z", "delta_bias")], ids=str)
def test_steps_without_heads_equal_the_selective_scan(options: tuple[str, ...]) -> None:
    inputs = draw(
        u=(2, 4, 6), delta=(2, 4, 6), A=(4, 3), B=(2, 3, 6), C=(2, 3, 6), D=(4,), z=(2, 4, 6), delta_bias=(4,)
    )
    inputs = {name: x for name, x in inputs.items() if name in ("u", "delta", "A", "B", "C", *options)}
    truth, last = scan_steps(**inputs, delta_softplus=True)
    x = {name: t.float() for name, t in inputs.items()}
    state, ys = torch.zeros(2, 4, 3), []
    for t in range(6):
        at = {name: x[name][..., t] if name in x else None for name in ("u", "delta", "B", "C", "z")}
        ys.append(
            selective_state_update(
                state,
                at["u"],
                at["delta"],
                x["A"],
                at["B"],
                at["C"],
                x.get("D"),
                at["z"],
                x.get("delta_bias"),
                dt_softplus=True,
            )
        )
    assert error(torch.stack(ys, -1), truth) < 1e-5
    assert error(state, last) < 1e-5


@pytest.mark.parametrize("groups", [1, 2])
def test_steps_with_heads_equal_the_scan_of_heads(groups: int) -> None:
    t = draw(x=(2, 5, 4, 3), dt=(2, 5, 4), A=(4,), B=(2, 5, groups, 6), C=(2, 5, groups, 6), D=(4,), z=(2, 5, 4, 3))
    truth, last = head_steps(t["x"], torch.nn.functional.softplus(t["dt"]), *(t[n] for n in ("A", "B", "C", "D", "z")))
    x = {name: v.float() for name, v in t.items()}
    rate, skip = x["A"].view(4, 1, 1).expand(4, 3, 6), x["D"].view(4, 1).expand(4, 3)
    state, ys = torch.zeros(2, 4, 3, 6), []
    for i in range(5):
        dt = x["dt"][:, i, :, None].expand(-1, -1, 3)
        ys.append(
            selective_state_update(
                state, x["x"][:, i], dt, rate, x["B"][:, i], x["C"][:, i], skip, x["z"][:, i], dt_softplus=True
            )
        )
    assert error(torch.stack(ys, 1), truth) < 1e-5
    assert error(state, last) < 1e-5


def test_only_the_rows_that_are_named_change_and_keep_their_dtype() -> None:
    state = torch.zeros(4, 2, 3, dtype=torch.bfloat16)
    one, mixed = torch.ones(2, 2, dtype=torch.bfloat16), torch.ones(2, 3, dtype=torch.bfloat16)
    out = selective_state_update(
        state, one, one, -torch.ones(2, 3), mixed, mixed, state_batch_indices=torch.tensor([2, 0])
    )  # fmt: skip
    assert out.dtype == state.dtype == torch.bfloat16
    assert state.sum((1, 2)).tolist() == [6.0, 0.0, 6.0, 0.0]
    with pytest.raises(UnknownOptionError, match="pad_slot_id"):
        selective_state_update(state, one, one, -torch.ones(2, 3), mixed, mixed, pad_slot_id=3)
