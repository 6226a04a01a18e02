"""A causal convolution follows the order of its recurrence: turning the grid round and the order round changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medseg.errors import ConfigError
from medseg.networks.contract import Context
from medseg.networks.mixers.gated_delta import GatedDelta
from medseg.networks.mixers.mlstm import MLSTM
from medseg.networks.mixers.parts import LocalMix
from medseg.networks.mixers.ssd import SSD
from tests.networks.agreement import site

KINDS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "mlstm": (MLSTM, {}),
    "ssd": (SSD, {"state": 4, "head_channels": 4, "groups": 2}),
    "gated_delta": (GatedDelta, {}),
}
TURNED = {"raster": "reversed raster", "reversed raster": "raster", "raster:YXZ": "reversed raster:YXZ"}


def run(kind: str, traversals: tuple[str, ...], x: Tensor) -> Tensor:
    """The mixer with the same random parameters whatever its traversals, in float64."""
    cls, options = KINDS[kind]
    made = cls(site(8, dims=3, num_heads=2, kernel_size=(3, 3, 3)), traversals=traversals, **options).double()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=random, dtype=torch.float64))
        return made(x, Context(None, None, None, None))[0]


@pytest.mark.parametrize(
    "traversals", [("raster",), ("reversed raster",), ("raster", "reversed raster"), ("raster", "raster:YXZ")], ids=str
)
@pytest.mark.parametrize("kind", KINDS)
def test_turning_grid_and_order_round_gives_the_same(kind: str, traversals: tuple[str, ...]) -> None:
    x = torch.randn(1, 3, 4, 2, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    turned = run(kind, tuple(TURNED[order] for order in traversals), x.flip(1, 2, 3)).flip(1, 2, 3)
    torch.testing.assert_close(turned, run(kind, traversals, x), rtol=0, atol=2e-6)  # states are float32


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_before_a_changed_token_changes(kind: str) -> None:
    x = torch.randn(1, 1, 1, 9, 8, dtype=torch.float64)
    other = x.clone()
    other[..., 4, :] += 1.0
    for order, untouched in (("raster", slice(0, 4)), ("reversed raster", slice(5, 9))):
        moved = (run(kind, (order,), other) - run(kind, (order,), x)).abs().amax(-1)[0, 0, 0]
        assert float(moved[untouched].max()) == 0.0
        assert float(moved[4]) > 1e-3


def test_channels_of_two_orders_are_those_of_their_heads() -> None:
    mix = LocalMix(site(8, dims=3), 12, traversals=("raster", "reversed raster"), parts=(8, 4), bias=True)
    x = torch.randn(2, 3, 2, 2, 12)
    with torch.no_grad():
        found, forwards, backwards = mix(x), mix.along(x, ["raster"]), mix.along(x, ["reversed raster"])
    first = [0, 1, 2, 3, 8, 9]
    second = [4, 5, 6, 7, 10, 11]
    assert torch.equal(found[..., first], forwards[..., first])
    assert torch.equal(found[..., second], backwards[..., second])


def test_channels_that_orders_cannot_share_are_refused() -> None:
    with pytest.raises(ConfigError, match="local_mix='grid'"):
        LocalMix(site(8, dims=3), 9, traversals=("raster", "reversed raster"))
    with pytest.raises(ConfigError, match="multiple of them"):
        SSD(site(8, dims=3), state=4, head_channels=4, traversals=("raster", "reversed raster"))
