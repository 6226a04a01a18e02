"""The drop-in does what MONAI's class does, and what any sliding window must."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.data.utils import compute_importance_map
from monai.inferers import SlidingWindowInferer as Monai

from medseg.inference import SlidingWindowInferer
from medseg.inference.windows.places import axis_starts, importance_map

CASES = [
    ((20, 17, 23), (8, 8, 8), 0.5, 1),
    ((20, 17, 23), (8, 10, 12), 0.25, 3),
    ((5, 30, 9), (8, 8, 8), (0.5, 0.25, 0.7), 2),
    ((7, 6, 5), (16, 16, 16), 0.5, 4),
    ((16, 16, 1), (8, 8, 1), 0.5, 1),
]


@pytest.mark.parametrize("mode", ["gaussian", "constant"])
@pytest.mark.parametrize(("shape", "roi", "overlap", "batch"), CASES)
def test_equals_monai(network, shape, roi, overlap, batch: int, mode: str) -> None:
    volume = torch.randn(2, 1, *shape)
    with torch.no_grad():
        theirs = Monai(roi, batch, overlap, mode)(volume, network)
        ours = SlidingWindowInferer(roi, batch, overlap, mode)(volume, network)
    torch.testing.assert_close(ours.softmax(1), theirs.softmax(1), atol=1e-5, rtol=0)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_monai_takes_it_for_its_own_class_and_a_wrong_word_is_refused() -> None:
    assert isinstance(SlidingWindowInferer((8, 8, 8)), Monai)
    with pytest.raises(ValueError, match="expected 'gaussian'"):
        SlidingWindowInferer((8, 8, 8), mode="gauss")


def test_equals_monai_in_two_dimensions() -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 2, 5, padding=2)
    volume = torch.randn(1, 3, 33, 41)
    with torch.no_grad():
        theirs, ours = (kind((16, 12), 2, 0.5, "gaussian")(volume, network) for kind in (Monai, SlidingWindowInferer))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("roi", [(8, 8, 8), (96, 64, 32), (5, 7, 1)])
def test_importance_map_is_monais(roi) -> None:
    torch.testing.assert_close(importance_map(roi), compute_importance_map(roi, mode="gaussian"), rtol=1e-5, atol=1e-7)


def test_dictionaries_sequences_and_scaled_outputs_are_kept(network) -> None:
    def several(window: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = network(window)
        return {"full": logits, "half": torch.nn.functional.avg_pool3d(logits, 2)}

    volume = torch.randn(1, 1, 20, 16, 12)
    with torch.no_grad():
        theirs, ours = (kind((8, 8, 8), 2, 0.5, "gaussian")(volume, several) for kind in (Monai, SlidingWindowInferer))
        pair = SlidingWindowInferer((8, 8, 8))(volume, lambda window: list(several(window).values()))
    assert set(ours) == set(theirs)
    for key in theirs:
        torch.testing.assert_close(ours[key], theirs[key], atol=1e-5, rtol=1e-4)
    assert isinstance(pair, tuple)
    torch.testing.assert_close(pair[0], ours["full"], atol=1e-5, rtol=1e-4)


def test_metadata_follows_the_input(network) -> None:
    affine = torch.diag(torch.tensor([2.0, 1.0, 3.0, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.randn(1, 1, 9, 9, 9), affine=affine[None])
    with torch.no_grad():
        out = SlidingWindowInferer((4, 4, 4))(image, network)
    assert isinstance(out, MetaTensor)
    torch.testing.assert_close(out.affine, image.affine)


def test_condition_and_coordinates_reach_the_network() -> None:
    volume = torch.randn(1, 1, 9, 8, 7)
    seen = []

    def with_place(window, place, scale, condition):
        seen.extend(place)
        return window * scale + condition

    out = SlidingWindowInferer((4, 4, 4), 2, with_coord=True)(volume, with_place, 3.0, condition=volume * 2)
    torch.testing.assert_close(out, volume * 5)
    assert len(seen) == 4 * 3 * 3


def test_gradients_pass_through() -> None:
    volume = torch.randn(1, 1, 6, 6, 6, requires_grad=True)
    SlidingWindowInferer((4, 4, 4))(volume, lambda window: window).sum().backward()
    torch.testing.assert_close(volume.grad, torch.ones_like(volume))


@pytest.mark.parametrize("mode", ["gaussian", "constant"])
def test_identity_reproduces_the_volume(mode: str) -> None:
    volume = torch.randn(1, 2, 19, 30, 11)
    out = SlidingWindowInferer((8, 16, 12), mode=mode)(volume, lambda window: window)
    torch.testing.assert_close(out, volume, atol=1e-5, rtol=1e-5)


def test_seams_are_invisible_on_a_ramp() -> None:
    ramp = torch.arange(40.0).reshape(1, 1, 40, 1, 1).expand(1, 1, 40, 12, 12)
    out = SlidingWindowInferer((12, 12, 12))(ramp, lambda window: 2 * window + 1)
    torch.testing.assert_close(out.diff(dim=2), torch.full((1, 1, 39, 12, 12), 2.0), atol=1e-4, rtol=0)


def test_starts_cover_every_voxel_and_stay_inside() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        roi = int(rng.integers(1, 20))
        size = roi + int(rng.integers(0, 60))
        starts = axis_starts(size, roi, float(rng.uniform(0, 0.95)))
        covered = np.zeros(size, dtype=bool)
        for start in starts:
            assert 0 <= start <= size - roi
            covered[start : start + roi] = True
        assert covered.all()
        assert len(set(starts)) == len(starts)


@pytest.mark.parametrize("overlap", [1.0, -0.1])
def test_impossible_overlap_is_refused(overlap: float) -> None:
    with pytest.raises(ValueError, match="0 <= overlap < 1"):
        axis_starts(10, 4, overlap)


def test_wrong_number_of_axes_is_named(network) -> None:
    with pytest.raises(ValueError, match="2 spatial axes"):
        SlidingWindowInferer((4, 4, 4))(torch.zeros(1, 1, 8, 8), network)
