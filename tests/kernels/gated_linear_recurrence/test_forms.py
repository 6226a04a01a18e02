"""The recurrent, the parallel and the chunkwise form are one function, in values and in all gradients."""

from __future__ import annotations

import pytest
import torch

from medseg_kernels.gated_linear_recurrence.chunked import chunkwise
from medseg_kernels.gated_linear_recurrence.chunked_backward import chunkwise_backward
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


@pytest.mark.parametrize("size_n", [1, 63, 190])
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


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("decay", DECAYS)
def test_float32_chunks_keep_five_digits(decay: str, write: str) -> None:
    case = make_case(decay, write, size_n=300, size_k=16, size_v=16)
    truth = recurrent(case.q, case.k, case.v, case.g, case.beta, None, case.initial_state, case.delta)
    args = [None if x is None else x.detach().float() for x in (case.q, case.k, case.v, case.g, case.beta)]
    start = case.initial_state.detach().float()
    found = chunkwise(*args, None, start, None, None, case.delta)
    assert error(found[0], truth[0]) < 1e-5
    assert error(found[1], truth[1]) < 1e-5


@pytest.mark.parametrize(("decay", "write"), [("scalar", "plain"), ("vector", "plain"), ("scalar", "delta")])
def test_identities_of_the_decays_gradient(decay: str, write: str) -> None:
    """dg_t = sum over i >= t of (q dq - k dk), with the delta rule (q dq - v dv), and <S_end, dS_end> when the state counts."""
    case = make_case(decay, write, size_n=40, size_v=8)
    output, state = recurrent(case.q, case.k, case.v, case.g, case.beta, None, case.initial_state, case.delta)
    w_output, w_state = weights_for(output, state)
    loss = (output * w_output).sum() + (state * w_state).sum()
    dq, dk, dv, dg = torch.autograd.grad(loss, [case.q, case.k, case.v, case.g])
    step = case.q * dq - (case.v * dv if write == "delta" else case.k * dk)
    end = (state * w_state).sum(-1)
    if decay == "scalar":
        step, end = step.sum(-1), end.sum(-1)
    assert error(step.flip(1).cumsum(1).flip(1) + end.unsqueeze(1), dg) < 1e-10
