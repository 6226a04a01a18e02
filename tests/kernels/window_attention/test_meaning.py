"""What each option means, told once more in another way: attention over the whole grid with a matrix of who sees whom.

Nothing of the family's geometry is used here; a pair of tokens is judged by its coordinates alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medseg_kernels import (
    cpu_build,
    relative_coordinates,
    window_attention,
    window_attention_with_carriers,
    window_grid,
)

GRID = (5, 6, 4)
needs_compiler = pytest.mark.skipif(
    cpu_build.why_not() is not None, reason=f"compiled CPU kernels: {cpu_build.why_not()}"
)
BACKENDS = ["reference", pytest.param("cpu", marks=needs_compiler)]
Sees = Callable[[tuple[int, ...], tuple[int, ...]], bool]


def matrix(grid: tuple[int, ...], sees: Sees) -> Tensor:
    """(N, N) booleans over a grid's tokens in raster order."""
    places = list(itertools.product(*map(range, grid)))
    return torch.tensor([[sees(p, q) for q in places] for p in places])


def attend(qkv: Tensor, visible: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """Attention over all tokens of a grid, (B, *grid, H * E); visible (N, N) or (H, N, N)."""
    dims = qkv.dim() - 4
    q, k, v = qkv.flatten(1, dims).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-2, -1) * qkv.shape[-1] ** -0.5 + bias
    out = scores.masked_fill(~visible, -math.inf).softmax(-1) @ v
    return out.transpose(1, 2).reshape(*qkv.shape[: 1 + dims], -1)


def compare(found: Tensor, expected: Tensor, leaves: list[Tensor]) -> None:
    """Outputs and all gradients."""
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    tolerance = 1e-10 if found.dtype == torch.float64 else 2e-5
    mine = torch.autograd.grad(found, leaves, direction.to(found.dtype), retain_graph=True)
    theirs = torch.autograd.grad(expected, leaves, direction.to(expected.dtype))
    for a, b in zip([found, *mine], [expected, *theirs], strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1.0)


def make(backend: str, *shape: int) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(*shape, dtype=torch.float64 if backend == "reference" else torch.float32, requires_grad=True)


def same_block(window: tuple[int, ...], shift: tuple[int, ...]) -> Sees:
    """Same window after the shift, and both or neither came around the edge of each axis."""

    def moved(p: tuple[int, ...]) -> list[tuple[int, bool]]:
        found = []
        for place, length, size, step in zip(p, GRID, window, shift, strict=True):
            if length <= size:
                found.append((0, False))
                continue
            padded = -(-length // size) * size
            found.append(((place - step) % padded // size, place < step))
        return found

    return lambda p, q: moved(p) == moved(q)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shift", [(0, 0, 0), (1, 2, 1)], ids=str)
@pytest.mark.parametrize("window", [(2, 3, 2), (3, 4, 3), (2, 8, 4)], ids=str)
def test_blocks(window: tuple[int, ...], shift: tuple[int, ...], backend: str) -> None:
    qkv = make(backend, 2, *GRID, 3, 2, 4)
    found = window_attention(qkv, list(window), list(shift), backend=backend)
    compare(found, attend(qkv, matrix(GRID, same_block(window, shift))), [qkv])


@pytest.mark.parametrize("backend", BACKENDS)
def test_grid_windows_are_spread_evenly(backend: str) -> None:
    qkv, windows = make(backend, 2, *GRID, 3, 2, 4), (3, 2, 2)  # ceil(5 / 2), ceil(6 / 3), ceil(4 / 2) windows
    found = window_attention(qkv, [2, 3, 2], geometry="grid", backend=backend)

    def sees(p: tuple[int, ...], q: tuple[int, ...]) -> bool:
        return all(a % n == b % n for a, b, n in zip(p, q, windows, strict=True))

    compare(found, attend(qkv, matrix(GRID, sees)), [qkv])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("width", [1, 2])
def test_stripes_run_along_an_axis_per_group_of_heads(width: int, backend: str) -> None:
    qkv = make(backend, 2, *GRID, 3, 3, 4)

    def along(axis: int) -> Sees:
        return lambda p, q: all(a == axis or p[a] // width == q[a] // width for a in range(3))

    visible = torch.stack([matrix(GRID, along(axis)) for axis in range(3)])
    compare(window_attention(qkv, width, geometry="stripe", backend=backend), attend(qkv, visible), [qkv])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("causal", [False, True])
def test_sliding_and_causal_windows(causal: bool, backend: str) -> None:
    qkv = make(backend, 2, *GRID, 3, 2, 4)
    found = window_attention(qkv, list(GRID), radius=[1, 2, -1], causal=causal, backend=backend)

    def sees(p: tuple[int, ...], q: tuple[int, ...]) -> bool:
        return abs(p[0] - q[0]) <= 1 and abs(p[1] - q[1]) <= 2 and (not causal or q <= p)

    compare(found, attend(qkv, matrix(GRID, sees)), [qkv])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["table", "dense", "mlp"])
def test_full_attention_with_a_bias(kind: str, backend: str) -> None:
    """A window over the grid is full attention; every kind of bias, with its gradient."""
    qkv = make(backend, 1, *GRID, 3, 2, 4)
    window, tokens = [5, 6, 4], math.prod(GRID)
    offsets = relative_coordinates(window)
    mlp = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).to(qkv.dtype)
    table = mlp(offsets.to(qkv.dtype)) if kind == "mlp" else make(backend, len(offsets), 2)
    dense = make(backend, 2, tokens, tokens)
    row = {tuple(offset): n for n, offset in enumerate(offsets.tolist())}
    places = list(itertools.product(*map(range, GRID)))
    index = torch.tensor([[row[tuple(a - b for a, b in zip(p, q, strict=True))] for q in places] for p in places])
    bias = dense if kind == "dense" else table[index].permute(2, 0, 1)
    given = {"bias": dense} if kind == "dense" else {"bias_table": table}
    leaves = [qkv, *{"dense": [dense], "table": [table], "mlp": list(mlp.parameters())}[kind]]
    everything = torch.ones(tokens, tokens, dtype=torch.bool)
    compare(window_attention(qkv, window, **given, backend=backend), attend(qkv, everything, bias), leaves)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sample_vector_equals_adding_it(backend: str) -> None:
    qkv, sample = make(backend, 2, *GRID, 3, 2, 4), make(backend, 2, 3, 2, 4)
    found = window_attention(qkv, 3, 1, sample_qkv=sample, backend=backend)
    expected = window_attention(qkv + sample[:, None, None, None], 3, 1, backend=backend)
    compare(found, expected, [qkv, sample])


@pytest.mark.parametrize("backend", BACKENDS)
def test_global_query_asks_in_every_window(backend: str) -> None:
    kv, query = make(backend, 2, 4, 6, 4, 2, 2, 4), make(backend, 2, 2, 3, 2, 2, 4)
    found = window_attention(kv, [2, 3, 2], global_query=query, backend=backend)
    repeated = query.repeat(1, 2, 2, 2, 1, 1)  # windows of 2 x 3 x 2 tokens, two along each axis
    compare(found, window_attention(repeated, [2, 3, 2], kv=kv, backend=backend), [kv, query])


@pytest.mark.parametrize("backend", BACKENDS)
def test_carriers_equal_longer_windows(backend: str) -> None:
    """Concatenated by hand: one window per sample, so that carriers are tokens like the others."""
    qkv, carriers = make(backend, 2, 3, 2, 2, 3, 2, 4), make(backend, 2, 1, 2, 3, 2, 4)
    tokens, extra = window_attention_with_carriers(qkv, carriers, 3, backend=backend)
    joined = torch.cat([carriers.flatten(1, 2), qkv.flatten(1, 3)], dim=1)
    expected = attend(joined, torch.ones(14, 14, dtype=torch.bool))
    compare(torch.cat([extra.flatten(1, 2), tokens.flatten(1, 3)], dim=1), expected, [qkv, carriers])


@pytest.mark.parametrize("backend", BACKENDS)
def test_padding_that_takes_part_equals_a_padded_grid(backend: str) -> None:
    qkv, fill = make(backend, 2, 5, 3, 4, 3, 2, 4), make(backend, 3, 2, 4)
    found = window_attention(qkv, [3, 2, 4], [1, 1, 0], pad_mode="input", pad_qkv=fill, backend=backend)
    wide = fill.expand(2, 6, 4, 4, 3, 2, 4).clone()
    wide[:, :5, :3] = qkv
    expected = window_attention(wide, [3, 2, 4], [1, 1, 0], backend=backend)[:, :5, :3]
    compare(found, expected, [qkv, fill])


@pytest.mark.parametrize("backend", BACKENDS)
def test_permuted_axes_permute_outputs_and_gradients(backend: str) -> None:
    qkv, table = make(backend, 1, *GRID, 3, 2, 4), make(backend, 5, 7, 3, 2)
    window, shift, axes = [3, 4, 2], [1, 2, 1], (2, 0, 1)
    expected = window_attention(qkv, window, shift, table.reshape(-1, 2), backend=backend)
    turned = window_attention(
        qkv.permute(0, *[1 + a for a in axes], 4, 5, 6), [window[a] for a in axes], [shift[a] for a in axes],
        table.permute(*axes, 3).reshape(-1, 2), backend=backend,
    )  # fmt: skip
    back = turned.permute(0, *[1 + axes.index(a) for a in range(3)], 4)
    compare(back, expected, [qkv, table])


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_drops_the_same_weights_in_both_directions(backend: str) -> None:
    """With values that tell tokens apart the output shows which weights stayed; the gradient must agree."""
    qkv, seed = make(backend, 1, 2, 2, 2, 3, 1, 8), torch.tensor([5])
    with torch.no_grad():
        qkv[..., 2, :, :] = torch.eye(8).reshape(2, 2, 2, 1, 8)
    out = window_attention(qkv, 2, dropout=0.5, seed=seed, backend=backend)
    stays = out.detach().reshape(8, 8) > 0  # (query, key)
    assert 0 < stays.sum() < 64
    for query in range(8):
        (grad,) = torch.autograd.grad(out.reshape(8, 8)[query].sum(), qkv, retain_graph=True)
        reached = grad[..., 2, :, :].reshape(8, 8).abs().sum(1) > 0
        assert torch.equal(reached, stays[query])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qkv": "queries", "kv": "keys", "global_query": "query"}, "kv is given together with global_query"),
        ({"global_query": "query"}, "shape of qkv is"),
        ({"bias": "dense", "bias_table": "table"}, "bias is given together with bias_table"),
        ({"geometry": "stripe"}, "number of heads is"),
        ({"qkv": "empty"}, "shape of qkv is"),
        ({"carriers": "carriers"}, "shape of carriers is"),
        ({"bias_table": "meta"}, "device of bias_table is"),
        ({"bias_table": "integers"}, "dtype of bias_table is"),
    ],
    ids=str,
)
def test_arguments_that_do_not_fit_together(change: dict[str, str], message: str) -> None:
    tensors = {
        "queries": torch.zeros(1, *GRID, 2, 4), "keys": torch.zeros(1, *GRID, 2, 2, 4), "query": torch.zeros(1, 2, 2, 2, 2, 4),
        "dense": torch.zeros(2, 8, 8),
        "table": torch.zeros(27, 2), "empty": torch.zeros(1, 0, 6, 4, 3, 2, 4), "carriers": torch.zeros(1, 1, 2, 3, 2, 4),
        "meta": torch.zeros(27, 2, device="meta"), "integers": torch.zeros(27, 2, dtype=torch.int64),
    }  # fmt: skip
    given: dict[str, Any] = {name: tensors.get(value, value) for name, value in change.items()}
    arguments = {"qkv": torch.zeros(1, *GRID, 3, 2, 4), "window_size": 2, **given}
    call = window_attention_with_carriers if "carriers" in given else window_attention
    with pytest.raises(ValueError, match=message):
        call(**arguments)


def test_windows_are_counted_with_padding() -> None:
    assert window_grid([5, 6, 4], [2, 8, 4]) == ([2, 6, 4], [3, 1, 1])
