"""Volume Fusion: the target says how much of the second crop is where."""

from __future__ import annotations

import numpy as np

from medseg.transforms.crops.fusion import LEVELS, draw_levels, fuse


def test_the_level_of_a_voxel_is_its_share_of_the_second_image() -> None:
    levels = draw_levels(np.random.default_rng(0), (24, 20, 16))
    first, second = np.zeros((2, 24, 20, 16)), np.ones((2, 24, 20, 16))
    assert np.array_equal(fuse(first, second, levels)[1] * 4, levels)
    assert set(np.unique(levels)) == set(LEVELS)


def test_a_draw_repeats_itself_and_fits_crops_smaller_than_a_box() -> None:
    a, b = (draw_levels(np.random.default_rng(3), (6, 4, 1)) for _ in range(2))
    assert np.array_equal(a, b)
    assert a.shape == (6, 4, 1)
