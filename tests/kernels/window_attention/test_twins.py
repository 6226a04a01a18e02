"""Every CPU backend against the float64 reference, and the reference's written-out backward against autograd."""

from __future__ import annotations

import pytest
import torch

from medseg_kernels import cpu_build, window_attention
from tests.kernels.window_attention.cases import CASES, Case, errors, run, tensors

needs_compiler = pytest.mark.skipif(
    cpu_build.why_not() is not None, reason=f"compiled CPU kernels: {cpu_build.why_not()}"
)


@needs_compiler
@pytest.mark.parametrize("case", CASES, ids=str)
def test_compiled_equals_reference(case: Case) -> None:
    found = errors(case, torch.float32, "cpu")
    assert max(found.values()) < 1e-5, found


@pytest.mark.parametrize("case", CASES[:9], ids=str)
def test_reference_in_float32(case: Case) -> None:
    found = errors(case, torch.float32, "reference")
    assert max(found.values()) < 1e-5, found


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES[1:8], ids=str)
def test_sixteen_bits(case: Case, dtype: torch.dtype) -> None:
    found = errors(case, dtype, "cpu")
    assert max(found.values()) < 2e-2, found


@needs_compiler
def test_swin_window() -> None:
    found = errors(Case((14, 14, 7), (7, 7, 7), (3, 3, 3), 2, 16), torch.float32, "cpu", batch=1)
    assert max(found.values()) < 1e-5, found


@needs_compiler
def test_bias_too_large_to_lay_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from medseg_kernels.window_attention import cpu

    monkeypatch.setattr(cpu, "BIAS_BYTES", 0)
    for case in (CASES[1], CASES[4], CASES[5], CASES[11], CASES[12]):
        found = errors(case, torch.float32, "cpu")
        assert max(found.values()) < 1e-5, (str(case), found)


@needs_compiler
@pytest.mark.parametrize("case", [CASES[1], CASES[3], CASES[12]], ids=str)
def test_bit_identical_whatever_the_threads(case: Case) -> None:
    inputs, before = tensors(case, torch.float32), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            results.append(run(case, inputs, torch.float32, "cpu"))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(results[0][name], value) for name, value in other.items())


@pytest.mark.parametrize("options", [{}, {"pad_mode": "input"}, {"causal": True}], ids=str)
def test_written_out_backward_equals_autograd(options: dict[str, object]) -> None:
    qkv = torch.randn(1, 3, 3, 2, 3, 1, 2, dtype=torch.float64, requires_grad=True)
    table = torch.randn(27, 1, dtype=torch.float64, requires_grad=True)

    def call(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return window_attention(a, [2, 2, 2], [1, 1, 1], b, backend="reference", **options)

    assert torch.autograd.gradcheck(call, (qkv, table))


@needs_compiler
def test_every_element_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    empty, empty_like, new_empty = torch.empty, torch.empty_like, torch.Tensor.new_empty

    def poison(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(torch, "empty", lambda *a, **k: poison(empty(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: poison(empty_like(*a, **k)))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: poison(new_empty(*a, **k)))
    for case in CASES:
        found = run(case, tensors(case, torch.float32), torch.float32, "cpu")
        assert all(value.isfinite().all() for value in found.values()), str(case)


@needs_compiler
def test_strides_beyond_int32() -> None:
    small = torch.randn(2, 4, 4, 3, 1, 4)
    far = torch.empty(2**31 + 1024, dtype=torch.float16)  # untouched pages take no memory
    view = far.as_strided((2, 4, 4, 3, 1, 4), (2**31, 48, 12, 4, 4, 1))
    view.copy_(small.half())
    expected = window_attention(small.half(), 2, 1, backend="cpu")
    assert torch.equal(window_attention(view, 2, 1, backend="cpu"), expected)


def test_any_strides() -> None:
    qkv = torch.randn(2, 5, 3, 7, 3, 2, 8).permute(0, 2, 1, 3, 4, 6, 5)[..., ::2, :].transpose(-1, -2)
    expected = window_attention(qkv.contiguous(), [3, 3, 3], [1, 1, 1])
    assert torch.allclose(window_attention(qkv, [3, 3, 3], [1, 1, 1]), expected, atol=1e-6)
