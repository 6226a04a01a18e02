"""Every order visits every token once; the closed forms, pieces, moves and the scripted form agree with it."""

from __future__ import annotations

from itertools import pairwise
from math import prod

import pytest
import torch

from medseg_kernels.traversals.curves import traversal_order
from medseg_kernels.traversals.orders import TRAVERSALS, Traversal

GRIDS = [(8, 8, 8), (7, 5, 3), (16, 16, 1), (1, 1, 1), (1, 13, 2), (4, 6, 9)]
TEXTS = [
    "raster", "raster:ZYX", "raster:YZX", "reversed raster:ZXY", "snake", "snake:ZYX", "reversed snake:YXZ",
    "interslice", "interslice:Y", "hilbert", "reversed hilbert", "morton", "windowed:4,4,4", "windowed:3,2,5:snake:ZYX",
    "reversed windowed:2,4,4:hilbert", "tiled:4,4,4:morton",
]  # fmt: skip


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("text", [*TEXTS, *TRAVERSALS.values()])
def test_every_order_visits_every_token_once(text: str, grid: tuple[int, int, int]) -> None:
    for head in Traversal.parse(text).heads:
        assert sorted(head.order(grid).tolist()) == list(range(prod(grid)))
        assert torch.equal(head.order(grid)[head.inverse(grid)], torch.arange(prod(grid)))
        assert torch.equal(head.reversed().order(grid), head.order(grid).flip(0))
        assert head.reversed().reversed() == head


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize(
    "text", [t for t in TEXTS if t.removeprefix("reversed ").startswith(("raster", "snake", "inter"))]
)
def test_closed_form_names_the_same_tokens(text: str, grid: tuple[int, int, int]) -> None:
    form = Traversal.parse(text).closed_form(grid)
    assert form is not None
    tokens = []
    for step in range(prod(grid)):
        t = prod(grid) - 1 - step if form.reversed else step
        i, j, k = t // (form.n1 * form.n2), t // form.n2 % form.n1, t % form.n2
        if form.snake and i % 2:
            j = form.n1 - 1 - j
        if form.snake and (i + j) % 2:
            k = form.n2 - 1 - k
        tokens.append(i * form.s0 + j * form.s1 + k * form.s2)
    assert tokens == Traversal.parse(text).order(grid).tolist()


def test_index_orders_have_no_closed_form() -> None:
    assert Traversal.parse("hilbert").closed_form((4, 4, 4)) is None
    assert Traversal.parse("windowed:2,2,2").closed_form((4, 4, 4)) is None


def test_raster_is_a_permutation_of_the_axes() -> None:
    tokens = torch.arange(2 * 3 * 5).view(2, 3, 5)
    assert torch.equal(Traversal.parse("raster:ZXY").order((2, 3, 5)), tokens.permute(2, 0, 1).flatten())
    assert torch.equal(Traversal.parse("interslice").order((2, 3, 5)), tokens.permute(1, 2, 0).flatten())


@pytest.mark.parametrize(("text", "grid"), [("snake", (4, 3, 5)), ("snake:ZXY", (5, 2, 3)), ("hilbert", (8, 8, 8))])
def test_steps_of_continuous_curves_are_neighbours(text: str, grid: tuple[int, int, int]) -> None:
    moves = Traversal.parse(text).moves(grid)
    assert int((moves == 0).sum()) == 1
    assert int(moves.max()) <= 6


def test_moves_name_the_direction_of_each_step() -> None:
    assert Traversal.parse("snake").moves((1, 2, 3)).tolist() == [0, 5, 5, 6, 6, 3]
    assert Traversal.parse("reversed raster").moves((2, 1, 2)).tolist() == [6, 0, 6, 0]


@pytest.mark.parametrize("grid", [(4, 4, 4), (5, 3, 7)], ids=str)
@pytest.mark.parametrize("flip", ["", "reversed "])
def test_each_piece_is_one_window(grid: tuple[int, int, int], flip: str) -> None:
    traversal = Traversal.parse(f"{flip}windowed:2,3,4:snake")
    pieces, order = traversal.pieces(grid), traversal.order(grid)
    assert pieces[0] == 0
    assert pieces[-1] == prod(grid)
    x, y, z = order // (grid[1] * grid[2]), order // grid[2] % grid[1], order % grid[2]
    window = torch.stack([x // 2, y // 3, z // 4], 1)
    for start, stop in pairwise(pieces):
        assert len(window[start:stop].unique(dim=0)) == 1
    assert Traversal.parse("tiled:2,3,4:snake").pieces(grid) == (0, prod(grid))


@pytest.mark.parametrize("text", [*TEXTS, TRAVERSALS["heads"]])
def test_scripted_order_is_the_same(text: str) -> None:
    scripted = torch.jit.script(traversal_order)
    assert torch.equal(scripted(text, [5, 3, 4]), traversal_order(text, [5, 3, 4]))


def test_heads_are_separate_traversals() -> None:
    heads = Traversal.parse("heads(raster;  reversed   raster:ZYX)").heads
    assert [head.text for head in heads] == ["raster", "reversed raster:ZYX"]
    with pytest.raises(ValueError, match="2 heads"):
        Traversal.parse("heads(raster; snake)").order((2, 2, 2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rastr", "did you mean 'raster'"),
        ("raster:XXZ", "each of X, Y, Z once"),
        ("interslice:W", "expected X, Y or Z"),
        ("windowed:4,4", "three lengths"),
        ("windowed:4,0,4", "three lengths"),
        ("windowed:4,4,4:spiral", "unknown 'spiral'"),
        ("hilbert:XYZ", "takes no axes"),
        ("heads(raster; what)", "unknown 'what'"),
    ],
)
def test_a_wrong_text_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Traversal.parse(text)


def test_a_wrong_grid_says_what_was_expected() -> None:
    with pytest.raises(ValueError, match="three lengths"):
        Traversal.parse("raster").order((4, 4))
