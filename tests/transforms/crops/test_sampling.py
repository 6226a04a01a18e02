from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from medseg.errors import ConfigError
from medseg.transforms.crops.sampling import SampleKey, Sampling, draw_case, draw_center, draw_labelled_case

NOTHING = np.zeros((0, 4), dtype=np.int32)


def test_every_case_is_drawn_equally_often() -> None:
    seen = Counter(draw_case(SampleKey(3, epoch, index), 7, 14) for epoch in range(5) for index in range(14))
    assert seen == Counter({case: 10 for case in range(7)})


def test_the_draw_depends_on_seed_epoch_and_index_alone() -> None:
    first = draw_center(SampleKey(1, 2, 3), (50, 60, 70), (16, 16, 16), NOTHING)
    draw_center(SampleKey(9, 9, 9), (50, 60, 70), (16, 16, 16), NOTHING)
    assert draw_center(SampleKey(1, 2, 3), (50, 60, 70), (16, 16, 16), NOTHING) == first
    assert draw_center(SampleKey(1, 2, 4), (50, 60, 70), (16, 16, 16), NOTHING) != first


@pytest.mark.parametrize("shape", [(50, 60, 70), (16, 16, 16), (17, 90, 16)], ids=str)
def test_a_crop_never_leaves_a_volume_that_is_large_enough(shape: tuple[int, int, int]) -> None:
    foreground = np.array([[1, 0, 0, 0], [1, *(extent - 1 for extent in shape)]], dtype=np.int32)
    for index in range(60):
        center = draw_center(SampleKey(0, 0, index), shape, (16, 16, 16), foreground, share=0.5)
        start = [middle - 7.5 for middle in center]
        assert all(0 <= begin <= extent - 16 for begin, extent in zip(start, shape, strict=True))


def test_an_axis_shorter_than_the_crop_is_centred() -> None:
    assert draw_center(SampleKey(0, 0, 0), (9, 40, 40), (16, 40, 40), NOTHING) == (4.0, 19.5, 19.5)


def test_small_labels_are_centred_as_often_as_large_ones() -> None:
    large = np.column_stack([np.ones(999, dtype=int), np.tile([20, 20, 20], (999, 1))])
    small = np.array([[2, 60, 60, 60]])
    foreground = np.concatenate([large, small]).astype(np.int32)
    centers = [draw_center(SampleKey(0, 0, i), (80, 80, 80), (8, 8, 8), foreground, share=1.0)[0] for i in range(200)]
    assert 70 <= sum(center > 40 for center in centers) <= 130


HOLDERS = {1: list(range(9)), 2: [3]}


def drawn(power: float) -> Counter[int]:
    pairs = [draw_labelled_case(SampleKey(0, epoch, 0), HOLDERS, power) for epoch in range(600)]
    assert all(case in HOLDERS[label] for label, case in pairs)
    return Counter(label for label, _ in pairs)


def test_a_label_is_drawn_first_in_proportion_to_a_power_of_how_many_cases_hold_it() -> None:
    assert 0.4 < drawn(0.0)[2] / 600 < 0.6
    assert 0.05 < drawn(1.0)[2] / 600 < 0.15
    assert 0.85 < drawn(-1.0)[2] / 600 < 0.95


def test_the_place_is_on_the_label_that_was_drawn() -> None:
    foreground = np.array([[1, 20, 20, 20], [2, 60, 60, 60]], dtype=np.int32)
    for index in range(20):
        center = draw_center(SampleKey(0, 0, index), (80, 80, 80), (16, 16, 16), foreground, share=1.0, label=2)
        assert np.allclose(center, 59.5)


def test_settings_of_sampling_are_checked() -> None:
    assert Sampling.of(None) == Sampling()
    with pytest.raises(ConfigError, match="Did you mean power"):
        Sampling.of({"powr": 1})
    with pytest.raises(ConfigError, match="Known: case, label"):
        Sampling.of({"by": "voxel"})
    with pytest.raises(ConfigError, match="share"):
        Sampling.of({"foreground": 2})
