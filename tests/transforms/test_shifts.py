"""Each shift of `medseg.transforms.shifts` changes what it says, by the strength it says, and takes the reference along."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medseg.transforms.shifts import SHIFTS, Scan, shifts_for
from tests.volumes import ball

AFFINE = np.array([[0, -1.5, 0, 7.0], [1, 0, 0, -3.0], [0, 0, 3.0, 11.0], [0, 0, 0, 1]])
SHAPE = (26, 22, 14)


def _scan(channels: int = 1, seed: int = 0) -> Scan:
    random = np.random.default_rng(seed)
    reference = ball(SHAPE, 5).astype(np.uint8)
    smooth = ndimage.gaussian_filter(random.standard_normal((channels, *SHAPE)), (0, 2, 2, 2))
    image = 300 + 80 * smooth / smooth.std() + 400.0 * reference
    return Scan(image.astype(np.float32), AFFINE.copy(), reference)


def _applied(name: str, strength: float, scan: Scan | None = None, seed: int = 3) -> Scan:
    return SHIFTS[name].apply(scan or _scan(SHIFTS[name].channels), strength, np.random.default_rng(seed))


def _range(channel: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(channel, (0.5, 99.5))
    return float(low), float(high)


@pytest.mark.parametrize("name", SHIFTS)
def test_at_the_untouched_strength_nothing_changes(name: str) -> None:
    scan = _scan(SHIFTS[name].channels)
    same = _applied(name, SHIFTS[name].untouched, scan)
    for channel, found in zip(scan.image, same.image, strict=True):
        low, high = _range(channel)
        inside = (channel >= low) & (channel <= high)  # the outermost 1 % of the intensities may be folded or cut
        assert np.allclose(found[inside], channel[inside], atol=1e-4 * (high - low))
    assert np.array_equal(same.reference, scan.reference)
    assert np.array_equal(same.affine, scan.affine)


@pytest.mark.parametrize("name", SHIFTS)
def test_the_stronger_the_more_it_differs_and_the_scan_itself_is_left_alone(name: str) -> None:
    scan = _scan(SHIFTS[name].channels)
    before, reference = scan.image.copy(), scan.reference.copy()
    found = [_applied(name, strength, scan) for strength in SHIFTS[name].strengths]
    assert np.array_equal(scan.image, before)
    assert np.array_equal(scan.reference, reference)
    assert all(one.image.dtype == np.float32 and np.isfinite(one.image).all() for one in found)
    assert all(one.on_reference(np.zeros(one.image.shape[1:], np.uint8)).shape == one.reference.shape for one in found)
    if name == "field_of_view":
        distances = [-one.reference.size for one in found]
    elif name == "thickness":
        distances = [-one.image.size for one in found]
    else:
        distances = [float(np.abs(one.image - before).mean()) for one in found]
    assert distances == sorted(distances)
    assert distances[0] < distances[-1]


def test_full_contrast_reverses_the_order_of_the_intensities() -> None:
    scan = _scan()
    low, high = _range(scan.image)
    found = _applied("contrast", 1.0, scan).image
    inside = (scan.image > low) & (scan.image < high)
    assert np.corrcoef(scan.image[inside], found[inside])[0, 1] == pytest.approx(-1, abs=1e-5)


def test_noise_has_the_share_of_the_range_and_a_bias_field_its_largest_factor() -> None:
    scan = _scan()
    low, high = _range(scan.image)
    difference = _applied("noise", 0.1, scan).image - scan.image
    assert difference.std() == pytest.approx(0.1 * (high - low), rel=0.05)
    factor = (_applied("bias_field", 1.0, scan).image - low) / (scan.image - low)
    inside = scan.image > low + 1
    assert max(factor[inside].max(), 1 / factor[inside].min()) == pytest.approx(2.0, rel=0.02)


def test_blur_is_as_wide_in_mm_along_every_axis() -> None:
    image = np.zeros((1, *SHAPE), np.float32)
    image[0, 13, 11, 7] = 1.0
    image[0, 0, 0, :] = (0, 1) * 7  # gives the percentiles a range
    found = SHIFTS["blur"].apply(Scan(image, AFFINE, np.zeros(SHAPE, np.uint8)), 9.0, np.random.default_rng(0)).image[0]
    for axis, step in enumerate((1.0, 1.5, 3.0)):
        place = [13, 11, 7]
        line = np.moveaxis(found, axis, 0)[(slice(None), *(p for i, p in enumerate(place) if i != axis))]
        below = np.interp(0.5, line[place[axis] :][::-1] / line[place[axis]], np.arange(len(line) - place[axis])[::-1])
        assert 2 * below * step == pytest.approx(9.0, rel=0.1)


def test_thick_slices_are_means_that_lie_in_the_middle_of_theirs() -> None:
    scan = _scan()
    found = _applied("thickness", 3.0, scan)
    assert found.image.shape[1:] == (26, 22, 5)
    assert np.allclose(found.image[..., 1], scan.image[..., 3:6].mean(axis=-1), rtol=1e-6)
    assert np.allclose(found.affine @ [4, 5, 1, 1], scan.affine @ [4, 5, 4, 1])
    label = found.on_reference(np.arange(5, dtype=np.uint8)[None, None].repeat(26, 0).repeat(22, 1))
    assert label.shape == SHAPE
    assert label[0, 0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4]


def test_a_smaller_field_of_view_keeps_every_voxel_where_it_was_in_the_world() -> None:
    scan = _scan()
    found = _applied("field_of_view", 0.3, scan)
    moved = np.linalg.inv(scan.affine) @ found.affine @ [2, 3, 1, 1]
    place = tuple(np.round(moved[:3]).astype(int))
    assert np.allclose(moved[:3], place)
    assert found.image[0, 2, 3, 1] == scan.image[(0, *place)]
    assert found.reference[2, 3, 1] == scan.reference[place]
    assert found.image.shape[1:] == found.reference.shape == (18, 15, 10)


def test_turned_tissue_keeps_its_reference_and_its_size_on_an_uneven_grid() -> None:
    reference = np.zeros((40, 30, 20), np.uint8)
    reference[6:34, 12:18, 8:12] = 1  # a bar of 28 x 9 x 12 mm
    affine = np.diag([1.0, 1.5, 3.0, 1.0])
    scan = Scan(1000.0 * reference[None].astype(np.float32), affine, reference)
    found = _applied("orientation", 20.0, scan)
    assert found.reference.sum() == pytest.approx(reference.sum(), rel=0.1)
    again = found.image[0] > 500
    assert 2 * (again & (found.reference > 0)).sum() / (again.sum() + found.reference.sum()) > 0.9

    def long_axis(label: np.ndarray) -> np.ndarray:
        places = np.argwhere(label) * (1.0, 1.5, 3.0)
        return np.linalg.svd(places - places.mean(0), full_matrices=False)[2][0]

    turned = np.degrees(np.arccos(abs(long_axis(found.reference) @ long_axis(reference))))
    assert 3 < turned <= 20.5


def test_registration_moves_the_later_channels_by_so_many_mm() -> None:
    blob = ndimage.gaussian_filter(ball(SHAPE, 4).astype(np.float32), 1)
    scan = Scan(np.stack([blob, blob]), AFFINE.copy(), ball(SHAPE, 4).astype(np.uint8))
    found = _applied("registration", 4.0, scan)
    assert np.array_equal(found.image[0], scan.image[0])
    assert np.array_equal(found.reference, scan.reference)
    middles = [
        np.asarray(ndimage.center_of_mass(np.clip(x, 0.05, None) - 0.05)) for x in (scan.image[1], found.image[1])
    ]
    assert np.linalg.norm(AFFINE[:3, :3] @ (middles[1] - middles[0])) == pytest.approx(4.0, rel=0.05)


def test_the_same_seed_gives_the_same_shift_and_ct_is_spared_what_only_mr_has() -> None:
    for name in SHIFTS:
        first, second = (_applied(name, SHIFTS[name].strengths[1]).image for _ in range(2))
        assert np.array_equal(first, second)
    assert set(SHIFTS) - set(shifts_for({0: "CT"})) == {"bias_field", "ghosting", "registration"}
    assert set(shifts_for({0: "T1", 1: "T2"})) == set(SHIFTS)
