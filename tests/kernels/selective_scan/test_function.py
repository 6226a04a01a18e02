"""What users call: equalities between its forms, the semantics known from mamba, numbers at the edge, bad input."""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medseg_kernels import cpu_build, selective_scan, selective_scan_fn
from medseg_kernels.dispatch import BackendError
from medseg_kernels.traversals.orders import TRAVERSALS, Traversal
from tests.kernels.selective_scan.cases import error

BACKENDS = [
    "reference",
    pytest.param("cpu", marks=pytest.mark.skipif(cpu_build.why_not() is not None, reason="no compiler")),
]
GRID = (3, 4, 5)


def arguments(
    grid: tuple[int, ...] = GRID, channels: int = 12, state: int = 4, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "u": torch.randn(2, *grid, channels, dtype=dtype),
        "delta": torch.randn(2, *grid, channels, dtype=dtype),
        "A": -torch.rand(channels, state) - 0.2,
        "B": torch.randn(2, *grid, state, dtype=dtype),
        "C": torch.randn(2, *grid, state, dtype=dtype),
        "D": torch.randn(channels),
        "z": torch.randn(2, *grid, channels, dtype=dtype),
        "delta_bias": torch.randn(channels),
        "delta_softplus": True,
    }


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("text", TRAVERSALS.values())
def test_a_traversal_equals_permute_scan_unpermute(text: str, backend: str) -> None:
    given = arguments()
    whole = selective_scan(**given, traversals=[text], backend=backend)
    heads = Traversal.parse(text).heads
    width = 12 // len(heads)
    for h, head in enumerate(heads):
        c, order, pieces = slice(h * width, (h + 1) * width), head.order(GRID), head.pieces(GRID)
        flat = {n: x.flatten(1, 3)[:, order] for n, x in given.items() if n in ("u", "delta", "B", "C", "z")}
        parts = []
        for start, stop in pairwise(pieces):
            piece = {n: x[:, start:stop, None, None] for n, x in flat.items()}
            for name in ("u", "delta", "z"):
                piece[name] = piece[name][..., c]
            parts.append(
                selective_scan(**piece, A=given["A"][c], D=given["D"][c], delta_bias=given["delta_bias"][c], delta_softplus=True,
                               backend=backend)
            )  # fmt: skip
        expected = torch.cat(parts, 1).flatten(1, 3)[:, head.inverse(GRID)]
        assert error(whole[..., c].flatten(1, 3), expected.double()) < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("merge", ["sum", "mean", "concat", "weights"])
def test_many_traversals_equal_single_calls(merge: str, backend: str) -> None:
    given, names = arguments(), ["raster", "snake:ZYX", "reversed hilbert"]
    each = torch.randn(2, 3, *GRID, 1, 4)
    weights = torch.tensor([0.5, -1.0, 2.0]) if merge == "weights" else None
    together = selective_scan(
        **{**given, "B": each}, traversals=names, merge=merge, merge_weights=weights, backend=backend
    )
    alone = [selective_scan(**{**given, "B": each[:, r]}, traversals=[n], backend=backend) for r, n in enumerate(names)]
    expected = torch.cat(alone, -1)
    if merge != "concat":
        factors = torch.full((3,), 1 / 3) if merge == "mean" else torch.ones(3) if weights is None else weights
        expected = sum(a * f for a, f in zip(alone, factors, strict=True))
    assert error(together, expected.double()) < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_state_carried_over_equals_one_scan(backend: str) -> None:
    given = arguments(grid=(6, 2, 3))
    whole, last = selective_scan(**given, return_last_state=True, backend=backend)
    halves = [
        {n: (x[:, h] if torch.is_tensor(x) and x.dim() == 5 else x) for n, x in given.items()}
        for h in (slice(2), slice(2, 6))
    ]
    first, state = selective_scan(**halves[0], return_last_state=True, backend=backend)
    second, end = selective_scan(**halves[1], initial_state=state, return_last_state=True, backend=backend)
    assert error(torch.cat([first, second], 1), whole.double()) < 1e-5
    assert error(end, last.double()) < 1e-5


def test_low_rank_delta_equals_its_product() -> None:
    given, weight = arguments(), torch.randn(12, 3)
    factor = torch.randn(2, *GRID, 3)
    low = selective_scan(**{**given, "delta": factor}, delta_weight=weight)
    full = selective_scan(**{**given, "delta": factor @ weight.T})
    assert error(low, full.double()) < 1e-5
    each = torch.stack([weight, 2 * weight])
    low = selective_scan(**{**given, "delta": factor}, delta_weight=each, traversals=["raster", "snake"])
    full = selective_scan(
        **{**given, "delta": torch.stack([factor @ w.T for w in each], 1)}, traversals=["raster", "snake"]
    )
    assert error(low, full.double()) < 1e-5


def test_step_write_is_added_by_the_direction_of_the_step() -> None:
    given, added = arguments(), torch.randn(7, 4)
    moves = Traversal.parse("snake").moves(GRID).view(GRID)
    with_term = selective_scan(**given, step_write=added, traversals=["snake"])
    by_hand = selective_scan(**{**given, "B": given["B"] + added[moves]}, traversals=["snake"])
    assert torch.equal(with_term, by_hand)


# ------------------------------------------------------------------------------------------- semantics known from mamba


def mamba_reference(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Any, z: Any, bias: Any, softplus: bool
) -> Any:
    """The published definition on (B, D, L) tensors, written from the paper's equations, in float64."""
    u, delta, A, B, C = (x.double() for x in (u, delta, A, B, C))
    delta = delta if bias is None else delta + bias.double()[:, None]
    delta = functional.softplus(delta) if softplus else delta
    size_b, size_d, length = u.shape

    def at(x: Tensor, t: int) -> Tensor:
        if x.dim() == 2:
            return x
        return x[:, None, :, t] if x.dim() == 3 else x[..., t].repeat_interleave(size_d // x.shape[1], 1)

    state, ys = u.new_zeros(size_b, size_d, A.shape[1]), []
    for t in range(length):
        step = delta[:, :, t, None]
        state = torch.exp(step * A) * state + step * at(B, t) * u[:, :, t, None]
        ys.append((state * at(C, t)).sum(-1))
    y = torch.stack(ys, -1)
    y = y if D is None else y + D.double()[:, None] * u
    return (y if z is None else y * functional.silu(z.double())), state


@pytest.mark.parametrize("length", [1, 8, 63, 130])
@pytest.mark.parametrize("kind", ["constant", "variable", "groups", "mixed"])
@pytest.mark.parametrize("extras", ["", "softplus bias", "softplus bias D z"])
def test_mamba_semantics(length: int, kind: str, extras: str) -> None:
    torch.manual_seed(0)
    size_b, size_d, size_s = 2, 6, 4
    u, z, A = torch.randn(size_b, size_d, length), torch.randn(size_b, size_d, length), -torch.rand(size_d, size_s)
    delta = torch.rand(size_b, size_d, length)
    forms = {
        "constant": (size_d, size_s), "variable": (size_b, size_s, length), "groups": (size_b, 2, size_s, length),
    }  # fmt: skip
    B = torch.randn(forms.get(kind, forms["constant"]))
    C = torch.randn(forms.get(kind, forms["groups"]))
    D = torch.randn(size_d) if "D" in extras else None
    gate = z if "z" in extras else None
    bias = torch.randn(size_d) if "bias" in extras else None
    out, last = selective_scan_fn(u, delta, A, B, C, D, gate, bias, "softplus" in extras, return_last_state=True)
    expected, state = mamba_reference(u, delta, A, B, C, D, gate, bias, "softplus" in extras)
    assert out.shape == u.shape
    assert error(out, expected) < 1e-5
    assert error(last, state) < 1e-5


# ------------------------------------------------------------------------------------------------- numbers at the edge


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_extreme_values_stay_finite(backend: str, dtype: torch.dtype) -> None:
    given = arguments(dtype=dtype)
    given["u"] = given["u"] * 1e-4  # else the result itself is beyond float16
    given["A"] = -torch.linspace(0, 20, 48).view(12, 4)  # zero among them
    given["delta"] = torch.linspace(-100, 50, given["delta"].numel()).view_as(given["delta"]).to(dtype)
    given["z"] = torch.linspace(-1e4, 1e4, given["z"].numel()).view_as(given["z"]).to(dtype)
    for name in ("u", "delta", "z"):
        given[name].requires_grad_()
    out = selective_scan(**given, backend=backend)
    assert out.isfinite().all()
    out.float().mean().backward()
    assert all(given[name].grad.isfinite().all() for name in ("u", "delta", "z"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_inputs_are_computed_in_float32(backend: str, dtype: torch.dtype) -> None:
    given = arguments(dtype=dtype)
    out = selective_scan(**given, backend=backend)
    assert out.dtype == dtype
    exact = {n: x.double() if torch.is_tensor(x) else x for n, x in given.items()}
    assert error(out, selective_scan(**exact, backend="reference")) < 2e-2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_gradients(backend: str, dtype: torch.dtype) -> None:
    results = []
    for kind in (dtype, torch.float64):
        given = {
            n: x.to(kind) if torch.is_tensor(x) and x.dtype == dtype else x for n, x in arguments(dtype=dtype).items()
        }
        if kind == torch.float64:
            given = {n: x.double() if torch.is_tensor(x) else x for n, x in given.items()}
        leaves = {n: x.requires_grad_() for n, x in given.items() if torch.is_tensor(x)}
        out = selective_scan(**given, backend=backend if kind == dtype else "reference")
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).bfloat16().to(out.dtype)
        results.append([out.detach(), *torch.autograd.grad(out, tuple(leaves.values()), weights)])
    assert max(error(a, b) for a, b in zip(*results, strict=True)) < 2e-2


@pytest.mark.parametrize("backend", BACKENDS)
def test_repeated_runs_are_bit_identical(backend: str) -> None:
    results = []
    for _ in range(2):
        given = arguments(grid=(9, 8, 7))
        leaves = [x.requires_grad_() for x in given.values() if torch.is_tensor(x)]
        selective_scan(**given, traversals=["raster", "snake"], backend=backend).square().sum().backward()
        results.append([x.grad for x in leaves])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_views_give_what_copies_give(backend: str) -> None:
    given = arguments()
    joined = torch.cat([given["u"], given["delta"], given["B"]], -1)
    u, delta, write = joined.split([12, 12, 4], -1)
    strided = torch.randn(2, 12, *GRID).permute(0, 2, 3, 4, 1)  # channels first in memory
    views = {**given, "u": u, "delta": delta, "B": write, "z": strided}
    copies = {n: x.contiguous() if torch.is_tensor(x) else x for n, x in views.items()}
    assert torch.equal(selective_scan(**views, backend=backend), selective_scan(**copies, backend=backend))


def test_autocast_keeps_rates_in_float32() -> None:
    given = arguments(dtype=torch.bfloat16)
    given["A"] = torch.full((12, 4), -1e-3)  # exp(-1e-3 * delta) rounds to 1 in bfloat16: the state would never fade
    with torch.autocast("cpu", torch.bfloat16):
        out, last = selective_scan(**given, return_last_state=True)
    assert out.dtype == torch.bfloat16
    assert last.dtype == torch.float32


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": torch.randn(2, 60, 12)}, "u: found .*, expected .*B, X, Y, Z, C"),
        ({"u": torch.randn(2, 3, 4, 0, 12)}, "u: found .*, expected no empty axis"),
        ({"u": torch.ones(2, *GRID, 12, dtype=torch.int64)}, "u: found torch.int64"),
        ({"delta": torch.randn(2, *GRID, 11)}, "delta: found"),
        ({"A": torch.randn(11, 4)}, "A: found"),
        ({"A": torch.randn(12, 4, dtype=torch.complex64)}, "A: found torch.complex64"),
        ({"B": torch.randn(2, *GRID, 5)}, "B: found"),
        ({"C": torch.randn(2, *GRID, 5, 4)}, "C: found 5 groups, expected a divisor of 12"),
        ({"D": torch.randn(3)}, "D: found"),
        ({"z": torch.randn(2, *GRID, 1)}, "z: found"),
        ({"delta_bias": torch.randn(1, 2)}, "delta_bias: found"),
        ({"initial_state": torch.randn(2, 12, 5)}, "initial_state: found"),
        ({"delta": torch.randn(2, *GRID, 12, device="meta")}, "delta: found device meta"),
        ({"traversals": []}, "traversals: found"),
        ({"traversals": "raster"}, "traversals: found 'raster', expected a list"),
        ({"traversals": ["rastr"]}, "did you mean 'raster'"),
        ({"traversals": ["heads(raster; snake; hilbert; morton; raster:ZYX)"]}, "5 heads"),
        ({"merge": "max"}, "merge: found 'max'"),
        ({"merge": "weights"}, "merge_weights: found"),
        ({"merge_weights": torch.ones(1)}, "merge_weights: found"),
        ({"step_write": torch.ones(6, 4)}, "step_write: found"),
        ({"delta_weight": torch.ones(12, 3)}, "delta: found"),
        ({"backend": "fast"}, "unknown backend 'fast'"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        selective_scan(**{**arguments(), **change})


def test_a_backend_that_cannot_run_says_why() -> None:
    with pytest.raises(BackendError, match="float64"):
        selective_scan(**{**arguments(), "u": torch.randn(2, *GRID, 12, dtype=torch.float64)}, backend="cpu")


def test_without_a_compiler_the_torch_form_runs_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    from medseg_kernels import dispatch

    expected = selective_scan(**arguments(), backend="reference")
    monkeypatch.setattr(cpu_build, "why_not", lambda: "no compiler in this test")
    dispatch._warn_no_compiler.cache_clear()
    with pytest.warns(UserWarning, match="no compiler in this test"):
        first = selective_scan(**arguments())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = selective_scan(**arguments())
    assert torch.equal(first, expected)
    assert torch.equal(second, expected)


def test_wrong_sequences_are_refused() -> None:
    u = torch.randn(2, 6, 8)
    with pytest.raises(ValueError, match=r"delta: found \(2, 6, 7\)"):
        selective_scan_fn(u, u[..., :7], -torch.rand(6, 4), torch.randn(6, 4), torch.randn(6, 4))
    with pytest.raises(ValueError, match="complex"):
        selective_scan_fn(u, u, -torch.rand(6, 4), torch.randn(6, 4, dtype=torch.complex64), torch.randn(6, 4))


def test_a_float16_output_stops_at_its_largest_number_and_keeps_nan() -> None:
    u = torch.full((1, 1, 1, 2, 1), 200.0).half()
    gate, b = torch.full_like(u, 4000.0), torch.ones(1, 1, 1, 2, 1).half()
    for backend in ("reference", *(["cpu"] if cpu_build.why_not() is None else [])):
        out = selective_scan(u, u, torch.zeros(1, 1), b, b, z=gate, backend=backend)
        assert out.flatten().tolist() == [65504.0, 65504.0]
        assert selective_scan(u * float("nan"), u, torch.zeros(1, 1), b, b, z=gate, backend=backend).isnan().all()
