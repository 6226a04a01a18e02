"""Convolution, projections and scan as one op: the parts' numbers, less kept, the contract of an op."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medseg_kernels import convolved_scan, selective_scan, short_conv
from medseg_kernels.convolved_scan.op import convolved_op

C, S, K = 6, 3, 2
ORDERS = ["raster", "reversed raster", "interslice"]


def arguments(mode: str, count: int, separate: bool, dtype: torch.dtype = torch.float64, grid: int = 4) -> list[Tensor]:
    """u, z, taps, taps_bias, project, expand, A, D, delta_bias; u and z are halves of one tensor, as in a mixer."""
    torch.manual_seed(0)
    sets = count if separate else 1
    both = torch.randn(2, grid, 3, 5, 2 * C, dtype=dtype)
    taps, bias = (
        (torch.randn(sets, C, 4), torch.randn(sets, C))
        if mode == "causal"
        else (torch.randn(C, 3, 3, 3), torch.randn(C))
    )
    rest = [torch.randn(sets, K + 2 * S, C), torch.randn(sets, C, K), -torch.rand(sets, C, S), torch.randn(sets, C)]
    made = [*both.chunk(2, -1), taps, bias, *rest, torch.randn(sets, C)]
    return [x.to(dtype).detach().requires_grad_() for x in made]


def parts(given: list[Tensor], mode: str, orders: list[str], merge: str) -> Tensor:
    """The same by the public functions."""
    u, z, taps, taps_bias, project, expand, rate, skip, bias = given
    count = len(orders)
    if mode == "grid":
        v = short_conv(u, taps, taps_bias, mode="grid", silu=True).unsqueeze(1).expand(-1, count, -1, -1, -1, -1)
    else:
        v = short_conv(u, taps.expand(count, -1, -1), taps_bias.expand(count, -1), traversals=orders, silu=True)
    mixed = torch.einsum("brxyzc,roc->brxyzo", v, project.expand(count, -1, -1))
    low, write, read = mixed.split([K, S, S], -1)
    steps = torch.einsum("brxyzk,rck->brxyzc", low, expand.expand(count, -1, -1))
    return selective_scan(
        v, steps, rate.expand(count, -1, -1), write.unsqueeze(-2), read.unsqueeze(-2), skip.expand(count, -1), z,
        bias.expand(count, -1), delta_softplus=True, traversals=orders, merge=merge,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("mode", "count", "separate", "merge"),
    [("causal", 3, True, "sum"), ("causal", 3, False, "mean"), ("causal", 1, False, "sum"), ("grid", 3, True, "mean"),
     ("grid", 2, False, "sum")],
)  # fmt: skip
def test_values_and_gradients_are_those_of_the_parts(
    mode: str, count: int, separate: bool, merge: str, dtype: torch.dtype
) -> None:
    given, orders = arguments(mode, count, separate, dtype), ORDERS[:count]
    found = convolved_scan(*given, mode=mode, traversals=orders, merge=merge)
    expected = parts(given, mode, orders, merge)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    seed = torch.randn_like(found)
    for a, b in zip(*(torch.autograd.grad(out, given, seed) for out in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max()))


def test_the_input_and_a_state_per_64_steps_are_kept() -> None:
    kept: set[tuple[int, ...]] = set()

    def keep(tensor: Tensor) -> Tensor:
        kept.add(tuple(tensor.shape))
        return tensor

    given = arguments("causal", 3, True, torch.float32, grid=16)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        convolved_scan(*given, traversals=ORDERS)
    large = sorted(shape for shape in kept if torch.Size(shape).numel() > 300)
    assert large == [(2, 3, 4, S, C), (2, 240, C)]


@pytest.mark.parametrize("mode", ["causal", "grid"])
def test_op_keeps_its_contract(mode: str) -> None:
    u, z, taps, taps_bias, *rest = arguments(mode, 2, True, torch.float32)
    kernel = list(taps.shape[1:]) if mode == "grid" else [4]
    taps = (taps.flatten(1).unsqueeze(0) if mode == "grid" else taps).detach().requires_grad_()
    offset = (taps_bias.unsqueeze(0) if mode == "grid" else taps_bias).detach().requires_grad_()
    project, expand, rate, skip, bias = rest
    tokens, gate = (x.flatten(1, 3).detach().requires_grad_() for x in (u, z))
    torch.library.opcheck(
        convolved_op,
        (tokens, taps, offset, project, expand, rate, skip, gate, bias, [4, 3, 5], "|".join(ORDERS[:2]), mode, kernel, "sum", True),
    )  # fmt: skip


def test_it_compiles_to_one_graph_for_any_grid() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(convolved_scan, fullgraph=True, dynamic=True, backend="aot_eager")
    for grid in (4, 6):
        given = arguments("causal", 3, True, torch.float32, grid)
        found, expected = (call(*given, traversals=ORDERS) for call in (compiled, convolved_scan))
        torch.testing.assert_close(found, expected)
        for a, b in zip(*(torch.autograd.grad(y.square().sum(), given) for y in (found, expected)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_without_gradients_nothing_is_kept_and_bfloat16_stays() -> None:
    given = [x.detach() for x in arguments("causal", 3, True, torch.float32)]
    wide = convolved_scan(*given, traversals=ORDERS)
    found = convolved_scan(*(x.bfloat16() for x in given[:2]), *given[2:], traversals=ORDERS)
    assert found.dtype == torch.bfloat16
    assert (found.float() - wide).abs().max() < 0.05 * wide.abs().max()


@pytest.mark.parametrize(
    ("index", "change", "name"),
    [(0, (2, 4, 3, C), "u"), (1, (2, 4, 3, 5, C + 1), "z"), (2, (2, C, 4), "taps"), (4, (3, K + S, C), "project"),
     (5, (3, C + 1, K), "expand"), (6, (2, C, S), "A")],
)  # fmt: skip
def test_wrong_sizes_are_refused_by_name(index: int, change: tuple[int, ...], name: str) -> None:
    given = arguments("causal", 3, True, torch.float32)
    given[index] = torch.zeros(change)
    with pytest.raises(ValueError, match=f"^convolved_scan: {name}: found"):
        convolved_scan(*given, traversals=ORDERS)
