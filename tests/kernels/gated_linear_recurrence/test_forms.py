"""The recurrent, the parallel and the chunkwise form are one function, in values and in all gradients."""

from __future__ import annotations

import pytest
import torch

from medseg_kernels.gated_linear_recurrence.chunkwise import chunkwise
from medseg_kernels.gated_linear_recurrence.chunkwise_backward import chunkwise_backward
from medseg_kernels.gated_linear_recurrence.reference import parallel, recurrent
from tests.kernels.gated_linear_recurrence.cases import DECAYS, WRITES, Case, error, gradients, make_case, weights_for


def recurrent_in_pieces(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """The truth for packed pieces and visiting orders: every piece and every head alone, tokens really permuted."""
    pieces = case.pieces or [0, case.q.shape[1]]
    size_b, size_n, size_h, _ = case.q.shape
    order = torch.arange(size_n).expand(size_h, -1) if case.order is None else case.order
    order = order.repeat_interleave(size_h // order.shape[0], 0)
    states = case.initial_state.view(size_b, len(pieces) - 1, *case.initial_state.shape[1:])

    def pick(x: torch.Tensor | None, rows: torch.Tensor, head: int) -> torch.Tensor | None:
        if x is None:
            return None
        return x[head : head + 1] if x.dim() == 1 else x[:, rows, head].unsqueeze(2)

    outputs, finals = [], []
    for head in range(size_h):
        parts, ends = [], []
        for w in range(len(pieces) - 1):
            rows = order[head, pieces[w] : pieces[w + 1]]
            args = [pick(x, rows, head) for x in (case.q, case.k, case.v, case.g, case.beta)]
            part, end = recurrent(*args, case.scale, states[:, w, head : head + 1], case.delta)
            parts.append(part)
            ends.append(end)
        inverse = torch.argsort(order[head])
        outputs.append(torch.cat(parts, 1)[:, inverse])
        finals.append(torch.stack(ends, 1))
    return torch.cat(outputs, 2), torch.cat(finals, 2).flatten(0, 1)


@pytest.mark.parametrize("size_n", [1, 63, 130])
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("decay", DECAYS)
def test_three_forms_are_equal_in_float64(decay: str, write: str, size_n: int) -> None:
    case = make_case(decay, write, size_n=size_n, strength=3.0)
    args = (case.q, case.k, case.v, case.g, case.beta, None, case.initial_state)
    truth = recurrent(*args, case.delta)
    expected = [*truth, *gradients(*truth, case.leaves)]
    for found in (parallel(*args, case.delta), chunkwise(*args, None, None, case.delta)):
        for name, a, b in zip(
            ["o", "state", *case.names()], [*found, *gradients(*found, case.leaves)], expected, strict=True
        ):
            assert error(a, b) < 1e-11, name


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("decay", DECAYS)
def test_written_out_gradients_equal_autograds(decay: str, write: str) -> None:
    case = make_case(decay, write, size_n=130, size_h=4, pieces=[0, 0, 7, 71, 71, 130, 130], strength=3.0)
    case.order = torch.stack([torch.randperm(130, generator=torch.Generator().manual_seed(s)) for s in (2, 3)])
    truth = recurrent_in_pieces(case)
    expected = gradients(*truth, case.leaves)
    scale = case.q.shape[-1] ** -0.5
    found = chunkwise(
        case.q, case.k, case.v, case.g, case.beta, scale, case.initial_state, case.order, case.pieces, case.delta
    )
    assert error(found[0], truth[0]) < 1e-12
    assert error(found[1], truth[1]) < 1e-12
    with torch.no_grad():
        w_output, w_state = weights_for(*truth)
        grads = chunkwise_backward(
            w_output, w_state, case.q, case.k, case.v, case.g, case.beta, scale, case.initial_state,
            case.order, case.pieces, case.delta,
        )  # fmt: skip
    given = [x for x in grads if x is not None]
    for name, a, b in zip(case.names(), given, expected, strict=True):
        assert error(a, b) < 1e-11, name
