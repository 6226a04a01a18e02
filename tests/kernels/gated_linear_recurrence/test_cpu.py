"""The compiled CPU form against the recurrent truth in float64: outputs, last states and every gradient."""

from __future__ import annotations

import pytest
import torch

from medseg_kernels.cpu_build import why_not
from medseg_kernels.gated_linear_recurrence import cpu
from tests.kernels.gated_linear_recurrence.cases import DECAYS, WRITES, Case, error, gradients, make_case, weights_for
from tests.kernels.gated_linear_recurrence.test_forms import recurrent_in_pieces

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

FLOAT32 = 1e-5  # largest error over largest value


def run_float32(case: Case, scale: float) -> dict[str, torch.Tensor]:
    """Outputs, states and gradients of the compiled form, by name."""
    args = [None if x is None else x.detach().float() for x in (case.q, case.k, case.v, case.g, case.beta)]
    start = None if case.initial_state is None else case.initial_state.detach().float()
    output, final = cpu.forward(*args, scale, start, case.order, case.pieces, case.delta)
    w_output, w_state = weights_for(output, final)
    grads = cpu.backward(w_output.float(), w_state.float(), *args, scale, start, case.order, case.pieces, case.delta)
    found = {name: grad for name, grad in grads._asdict().items() if grad is not None}
    return {"output": output, "final_state": final, **found}


def compare(case: Case) -> None:
    truth = recurrent_in_pieces(case)
    expected = dict(zip(case.names(), gradients(*truth, case.leaves), strict=True))
    found = run_float32(case, case.q.shape[-1] ** -0.5)
    for name, value in {"output": truth[0], "final_state": truth[1], **expected}.items():
        assert torch.isfinite(found[name]).all(), name
        # a constant's gradient is a sum over all steps whose terms largely cancel
        limit = 10 * FLOAT32 if name == "g" and value.dim() == 1 else FLOAT32
        assert error(found[name], value) < limit, name


@pytest.mark.parametrize("size_n", [1, 63, 190])
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("decay", DECAYS)
def test_equals_the_recurrent_form(decay: str, write: str, size_n: int) -> None:
    compare(make_case(decay, write, size_n=size_n, size_k=24, size_v=40, strength=2.0))


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("decay", DECAYS)
def test_pieces_and_orders(decay: str, write: str) -> None:
    case = make_case(decay, write, size_n=130, size_h=4, pieces=[0, 0, 7, 71, 71, 130, 130], strength=2.0)
    case.order = torch.stack([torch.randperm(130, generator=torch.Generator().manual_seed(s)) for s in (2, 3)]).int()
    compare(case)


@pytest.mark.parametrize("strength", [1e-6, 30.0, 500.0])
@pytest.mark.parametrize("decay", ["scalar", "vector"])
@pytest.mark.parametrize("write", ["plain", "delta"])
def test_weak_and_strong_decays(decay: str, write: str, strength: float) -> None:
    compare(make_case(decay, write, size_n=150, size_k=16, size_v=16, strength=strength))


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("write", WRITES)
def test_segments_change_nothing(decay: str, write: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu.segments, "MIN_CHUNKS", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 40)
    case = make_case(decay, write, size_b=2, size_n=300, size_h=1, pieces=[0, 230, 230, 300])
    bounds, owners = cpu.split(case.pieces or [], case.q)
    assert len(owners) > 4
    assert bounds[-1] == 300
    compare(case)


def test_every_element_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.empty

    def poisoned(*args, **kwargs):  # type: ignore[no-untyped-def]
        fresh = real(*args, **kwargs)
        return fresh.fill_(float("nan")) if fresh.is_floating_point() else fresh

    monkeypatch.setattr(torch, "empty", poisoned)
    for decay in ("scalar", "vector"):
        case = make_case(decay, "delta", size_n=99, pieces=[0, 30, 30, 99])
        for name, value in run_float32(case, 1.0).items():
            assert torch.isfinite(value).all(), name


def test_repeated_runs_are_bit_identical_with_any_number_of_threads() -> None:
    case = make_case("vector", "delta", size_n=300, size_k=32, size_v=32)
    threads = torch.get_num_threads()
    try:
        runs = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            runs.append(run_float32(case, 1.0))
    finally:
        torch.set_num_threads(threads)
    for name, value in runs[0].items():
        assert all(torch.equal(value, other[name]) for other in runs[1:]), name


def test_strides_beyond_32_bits() -> None:
    # 8 GiB of addresses, of which only the few pages that are written become memory
    far = torch.empty(2**31 + 1000, dtype=torch.float32)
    q = far.as_strided((2, 10, 2, 8), (2**31, 16, 8, 1))
    q.copy_(torch.randn(2, 10, 2, 8))
    near = q.contiguous()
    found = cpu.forward(q, q, q, None, None, 1.0, None, None, None, False)
    expected = cpu.forward(near, near, near, None, None, 1.0, None, None, None, False)
    assert torch.equal(found[0], expected[0])
