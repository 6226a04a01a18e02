"""Weights in other shapes: the old function where it can be kept, and a list of every entry."""

from __future__ import annotations

import torch
from torch.nn import functional

from medseg.networks import build_network
from medseg.networks.adapted import Places, adapt_state, missing_statistics


def test_a_flat_kernel_becomes_a_cube_that_computes_the_same() -> None:
    old = {"body.weight": torch.randn(4, 3, 3, 3, 1)}
    moved = adapt_state({"body.weight": torch.zeros(4, 3, 3, 3, 3)}, old, Places((0,), (0,), 1, 1))
    image = torch.randn(1, 3, 6, 6, 6)
    before = functional.conv3d(image, old["body.weight"], padding=(1, 1, 0))
    after = functional.conv3d(image, moved.state["body.weight"], padding=1)
    torch.testing.assert_close(before, after, rtol=1e-5, atol=1e-5)
    assert moved.reshaped == {"body.weight": "kernel 3x3x1 -> 3x3x3"}


def test_one_channel_repeated_answers_as_before_to_the_same_image_in_each() -> None:
    old = {"encoder.levels.0.entry.weight": torch.randn(4, 1, 3, 3, 3)}
    own = {"encoder.levels.0.entry.weight": torch.zeros(4, 2, 3, 3, 3)}
    moved = adapt_state(own, old, Places((0,), (None, None), 1, 1))
    image = torch.randn(1, 1, 6, 6, 6)
    before = functional.conv3d(image, old["encoder.levels.0.entry.weight"])
    after = functional.conv3d(image.expand(1, 2, 6, 6, 6), moved.state["encoder.levels.0.entry.weight"])
    torch.testing.assert_close(before, after, rtol=1e-5, atol=1e-5)


def test_channels_in_another_order_find_their_columns() -> None:
    name = "encoder.levels.0.entry.weight"
    old = torch.randn(4, 2, 3, 3, 3)
    moved = adapt_state({name: torch.zeros(4, 2, 3, 3, 3)}, {name: old}, Places((0,), (1, 0), 1, 2))
    assert torch.equal(moved.state[name], old.flip(1))
    assert moved.reshaped == {name: "channels by name"}


def test_nineteen_classes_become_twenty_nine_and_the_old_ones_keep_their_order_of_logits() -> None:
    torch.manual_seed(0)
    old, new = (build_network("resenc_unet", out_channels=count).eval() for count in (19, 29))
    rows = (*range(19), *[None] * 10)
    moved = adapt_state(new.state_dict(), old.state_dict(), Places(rows, (0,), 19, 1))
    new.load_state_dict(moved.state)
    assert 0.99 < moved.share < 1  # the new rows are not counted as the source's
    assert not moved.skipped
    image = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(new(image)[:, :19], old(image))
        assert torch.all(new(image)[:, 19:] < new(image)[:, :1])


def test_a_table_of_positions_is_resized_along_each_axis() -> None:
    ramp = torch.arange(5.0)
    table = (ramp[:, None, None] + ramp[None, :, None] + ramp[None, None, :]).reshape(-1, 1).repeat(1, 2)
    moved = adapt_state({"body.bias_table": torch.zeros(729, 2)}, {"body.bias_table": table}, Places((0,), (0,), 1, 1))
    grown = moved.state["body.bias_table"][:, 0].reshape(9, 9, 9)
    torch.testing.assert_close(grown[:, 0, 0], torch.linspace(0, 4, 9))
    assert float(grown[8, 8, 8]) == 12


def test_what_does_not_fit_stays_as_made_and_is_named() -> None:
    own = {"a.weight": torch.ones(3, 3), "b.weight": torch.ones(2)}
    moved = adapt_state(own, {"a.weight": torch.zeros(4, 3, 2), "c": torch.zeros(1)}, Places((0,), (0,), 1, 1))
    assert moved.skipped == {"a.weight": "[4, 3, 2] there, [3, 3] here", "b.weight": "not in the source"}
    assert moved.unused == ["c"]
    assert moved.share == 0
    assert torch.equal(moved.state["b.weight"], torch.ones(2))


def test_batch_norms_without_their_statistics_are_named() -> None:
    own = {"norm.weight": torch.ones(2), "norm.running_mean": torch.zeros(2), "norm.running_var": torch.ones(2)}
    assert missing_statistics(own, {"norm.weight": torch.ones(2)}) == ["norm.running_mean", "norm.running_var"]
    assert missing_statistics(own, own) == []
