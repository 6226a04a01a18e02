"""Tokens that are padding: whatever they hold changes no real token, and leaving them out equals cutting them off."""

import pytest
import torch
from torch import Tensor

from medseg.networks import MIXERS, build_network
from medseg.networks.contract import Context
from tests.networks.agreement import randomise, site, stage

GRID = (5, 4, 6)
REAL = (4, 3, 5)  # tokens of the first sample that are no padding; the second sample fills the grid
OPTIONS: dict[str, dict] = {
    "ssd": {"state": 6, "head_channels": 6},
    "selective_scan": {"traversals": ("raster", "reversed raster", "interslice"), "separate": True, "state": 4},
    "retention": {"order": "octant_pair"},
}


def mask() -> Tensor:
    """(B, 1, X, Y, Z) booleans."""
    valid = torch.ones(2, 1, *GRID, dtype=torch.bool)
    valid[0] = False
    valid[0, :, : REAL[0], : REAL[1], : REAL[2]] = True
    return valid


def make(name: str, **options: object) -> torch.nn.Module:
    place = site(12, dims=3, num_heads=3, window=(3, 3, 3), condition_width=5)
    return randomise(stage(place, (name,), {name: {**OPTIONS.get(name, {}), **options}}))


@pytest.mark.parametrize("name", MIXERS)
def test_what_padding_holds_changes_no_real_token_and_no_gradient(name: str) -> None:
    torch.manual_seed(0)
    module, valid, condition = make(name), mask(), torch.randn(2, 5)
    image = torch.randn(2, 12, *GRID)
    results = []
    for poison in (0.0, 1e4, float("nan")):
        filled = image.masked_fill(~valid, poison)
        out = module(filled, condition, valid).masked_fill(~valid, 0.0)
        parameters = [p for p in module.parameters()]
        seed = torch.ones_like(out)
        grads = torch.autograd.grad(out, parameters, seed, allow_unused=True) if parameters else ()
        results.append((out.detach(), [g for g in grads if g is not None]))
    for out, grads in results[1:]:
        torch.testing.assert_close(out, results[0][0], rtol=0, atol=0)
        torch.testing.assert_close(grads, results[0][1], rtol=0, atol=0)


@pytest.mark.parametrize("name", sorted(set(MIXERS) - {"identity"}))
def test_without_the_mask_padding_would_be_seen(name: str) -> None:
    torch.manual_seed(0)
    module, valid, condition = make(name), mask(), torch.randn(2, 5)
    image = torch.randn(2, 12, *GRID)
    fills = (torch.zeros_like(image), torch.randn_like(image))
    outs = [module(torch.where(valid, image, fill), condition).masked_fill(~valid, 0.0) for fill in fills]
    assert (outs[0] - outs[1]).abs().max() > 1e-4


# Not those whose windows, pools or steps are laid out by the size of the grid.
CUT = ["mambavision", "ssd", "gla", "gated_delta", "mlstm", "window_attention", "full_attention", "retention",
       "sliding_window_attention", "axial_attention", "stripe_attention", "multi_head_scan", "time_attention",
       "hyena_nd"]  # fmt: skip


@pytest.mark.parametrize("name", [*CUT, "selective_scan", "retention_raster", "retention_symmetric"])
def test_planes_of_padding_at_the_far_end_are_as_if_they_were_not_there(name: str) -> None:
    torch.manual_seed(0)
    options: dict[str, object] = {"traversals": ("raster", "reversed raster")} if name == "selective_scan" else {}
    if name.startswith("retention_"):
        name, options = "retention", {"order": name.removeprefix("retention_")}
    module, condition = make(name, **options), torch.randn(2, 5)
    image = torch.randn(2, 12, 6, 4, 5)
    valid = torch.ones(2, 1, 6, 4, 5, dtype=torch.bool)
    valid[:, :, 4:] = False
    found = module(image, condition, valid)[:, :, :4]
    torch.testing.assert_close(found, module(image[:, :, :4].contiguous(), condition), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("preset", ["mambavision", "fastervit", "gcvit", "segmamba", "paratranscnn", "swin_unetr"])
def test_a_network_with_a_mask_does_not_see_what_fills_the_batch_up(preset: str) -> None:
    torch.manual_seed(0)
    network = build_network(preset, spatial_dims=2).eval()
    image, valid = torch.randn(2, 1, 40, 33), torch.ones(2, 1, 40, 33, dtype=torch.bool)
    valid[0, :, 27:], valid[0, :, :, 20:] = False, False
    with torch.no_grad():
        outs = [network(image.masked_fill(~valid, value), None, valid) for value in (0.0, float("nan"))]
        torch.testing.assert_close(outs[0], outs[1], rtol=0, atol=0)
        everything = torch.ones_like(valid)
        torch.testing.assert_close(network(image, None, everything), network(image), rtol=1e-4, atol=1e-4)


def test_published_padding_takes_part_and_masked_padding_does_not() -> None:
    """A map of 5 in windows of 3: the released networks let the zeros around it attend (and be attended to)."""
    torch.manual_seed(0)
    x = torch.randn(1, 5, 4, 1, 8)
    outs = {}
    for padding in ("masked", "published"):
        torch.manual_seed(1)
        mixer = MIXERS["window_attention"](site(8, num_heads=2, window=3, padding=padding))
        outs[padding] = randomise(mixer)(x, Context())[0]
    whole = [slice(None), slice(0, 3), slice(0, 3)]
    torch.testing.assert_close(outs["masked"][whole], outs["published"][whole], rtol=1e-5, atol=1e-5)
    assert (outs["masked"][:, 3:] - outs["published"][:, 3:]).abs().max() > 1e-3
