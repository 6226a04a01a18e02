"""Axis permutation: turning the volume, the windows, the tables, the kernels and the orders turns the output."""

import pytest
import torch
from torch import Tensor, nn

from medseg.networks import MIXERS
from medseg.networks.contract import Context
from tests.networks.agreement import randomise, site, stage

TURN = (2, 0, 1)  # axis a of the turned volume is axis TURN[a] of the straight one
WINDOW = (2, 3, 4)


def turned_letters(text: str) -> str:
    """`raster:XYZ` for the turned volume: the axis X of the straight one is called by its place in `TURN`."""
    return "".join("XYZ"[TURN.index("XYZ".index(letter))] if letter in "XYZ" else letter for letter in text)


def turn_weights(straight: nn.Module, turned: nn.Module, window: tuple[int, ...]) -> None:
    """The weights of `straight` in `turned`, with spatial axes permuted."""
    theirs = dict(straight.named_parameters())
    with torch.no_grad():
        for name, parameter in turned.named_parameters():
            value = theirs[name]
            if name.endswith("table"):
                sides = [2 * side - 1 for side in window]
                value = value.view(*sides, -1).permute(*TURN, 3).reshape(value.shape)
            elif name.endswith(("position.first.weight", "bias.first.weight")):
                value = value[:, list(TURN)]
            elif value.dim() == 5:
                value = value.permute(0, 1, *(axis + 2 for axis in TURN))
            elif value.dim() == 4:
                value = value.permute(0, *(axis + 1 for axis in TURN))
            parameter.copy_(value)


def turn_image(image: Tensor) -> Tensor:
    """(B, C, X, Y, Z) with its spatial axes permuted."""
    return image.permute(0, 1, *(axis + 2 for axis in TURN))


CASES = [
    ("window_attention", {}),
    ("shifted_window_attention", {}),
    ("grid_attention", {}),
    ("sliding_window_attention", {"radius": 2}),
    ("full_attention", {}),
    ("time_attention", {}),
    ("carrier_attention", {"per_axis": 2}),
    ("global_query_attention", {"steps": 2}),
    ("retention", {"order": "octant"}),
    ("retention", {"order": "octant_pair"}),
    ("retention", {"order": "symmetric"}),
    ("retention", {"order": "octant", "decay": "mm", "spacing_mm": (1.0, 2.0, 3.0)}),
    ("selective_scan", {"state": 4, "local_mix": "grid", "traversals": ("raster:XYZ", "reversed raster:ZYX")}),
    ("selective_scan", {"state": 4, "traversals": ("snake:XYZ", "raster:XZY"), "separate": True}),
    ("ssd", {"state": 6, "head_channels": 6, "local_mix": "grid", "traversals": ("raster:XYZ", "reversed snake:ZXY")}),
    ("gated_delta", {"local_mix": "grid", "traversals": ("raster:XYZ", "reversed raster:YZX", "snake:ZYX")}),
    ("mlstm", {"local_mix": "grid", "traversals": ("raster:XYZ", "raster:ZYX")}),
]


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_turning_everything_turns_the_output(name: str, options: dict) -> None:
    torch.manual_seed(0)
    other = dict(options)
    if "traversals" in options:
        other["traversals"] = tuple(
            f"{head}:{turned_letters(letters)}" for head, letters in (text.split(":") for text in options["traversals"])
        )
    if "spacing_mm" in options:
        other["spacing_mm"] = tuple(options["spacing_mm"][axis] for axis in TURN)
    sizes = [WINDOW, tuple(WINDOW[axis] for axis in TURN)]
    straight, turned = (
        stage(site(12, dims=3, num_heads=3, window=window, condition_width=5), (name,), {name: each})
        for window, each in zip(sizes, (options, other), strict=True)
    )
    turn_weights(randomise(straight), turned, WINDOW)
    image, condition = torch.randn(2, 12, 5, 6, 7), torch.randn(2, 5)
    found = turned(turn_image(image), condition)
    torch.testing.assert_close(found, turn_image(straight(image, condition)), rtol=1e-4, atol=2e-5)


def test_head_groups_of_stripes_turn_with_the_axes() -> None:
    torch.manual_seed(0)
    mixers = [MIXERS["axial_attention"](site(12, dims=3, num_heads=3)) for _ in range(2)]
    first = randomise(mixers[0])
    with torch.no_grad():  # head group a looks along axis a, so that the groups change places too
        rows = torch.cat([torch.arange(4) + 4 * axis for axis in TURN])
        three = torch.cat([rows, rows + 12, rows + 24])
        mixers[1].qkv.weight.copy_(first.qkv.weight[three])
        mixers[1].qkv.bias.copy_(first.qkv.bias[three])
        mixers[1].project.weight.copy_(first.project.weight[:, rows])
        mixers[1].project.bias.copy_(first.project.bias)
    x = torch.randn(2, 3, 4, 5, 12)
    swap = (0, *(axis + 1 for axis in TURN), 4)
    found = mixers[1](x.permute(swap), Context())[0]
    torch.testing.assert_close(found, first(x, Context())[0].permute(swap), rtol=1e-4, atol=1e-5)
