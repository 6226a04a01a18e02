"""Crops: drawn from the key alone, label and image move together, only what is needed is read."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from medseg.errors import ConfigError
from medseg.transforms.crops import augmentation
from medseg.transforms.crops.augmentation import ChannelParameters, apply, build_recipe, draw
from medseg.transforms.crops.sampling import SampleKey

ROI = (12, 10, 8)


def _case(shape: tuple[int, ...] = (30, 28, 26), channels: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Channel 0 holds the label's own values, so that any disagreement between image and label shows."""
    label = np.zeros(shape, dtype=np.uint8)
    label[8:20, 7:19, 6:18] = 1
    label[12:16, 10:14, 9:15] = 3
    image = np.random.default_rng(0).normal(size=(channels, *shape)).astype(np.float32)
    image[0] = label
    return image, label


def _generator(index: int) -> np.random.Generator:
    return SampleKey(seed=7, epoch=2, index=index).generator(2)


@pytest.mark.parametrize("preset", augmentation.RECIPES)
def test_same_key_same_crop_whatever_came_before(preset: str) -> None:
    image, label = _case()
    crops = {}
    for order in (range(6), reversed(range(6))):
        for i in order:
            parameters = draw(_generator(i), ROI, 2, preset=preset)
            crop = apply(image, label, (15.0, 14.0, 13.0), ROI, parameters)
            for new, old in zip(crop, crops.setdefault(i, crop), strict=True):
                np.testing.assert_array_equal(new, old)
    assert crop[0].shape == (2, *ROI)
    assert crop[1].shape == ROI


def test_drawing_fixes_everything() -> None:
    image, label = _case()
    parameters = draw(_generator(0), ROI, 2, preset="strong")
    first, second = (apply(image, label, (15.0, 14.0, 13.0), ROI, parameters) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])


def test_without_changes_the_crop_is_a_copy() -> None:
    image, label = _case()
    parameters = draw(_generator(0), ROI, 2, preset="none")
    crop, label_crop = apply(image, label, (10.5, 9.5, 8.5), ROI, parameters)
    np.testing.assert_array_equal(crop, image[:, 5:17, 5:15, 5:13])
    np.testing.assert_array_equal(label_crop, label[5:17, 5:15, 5:13])
    assert crop.flags.owndata


def test_a_crop_larger_than_the_case_is_centred_and_filled() -> None:
    image, label = _case((7, 28, 26))
    parameters = draw(_generator(0), (12, 10, 8), 2, preset="none")
    crop, label_crop = apply(image, label, (3.0, 14.0, 13.0), ROI, parameters, image_outside=-9.0, label_outside=5)
    assert (crop[:, :2] == -9.0).all()
    assert (crop[:, 9:] == -9.0).all()
    assert (label_crop[:2] == 5).all()
    np.testing.assert_array_equal(crop[:, 2:9], image[:, :, 10:20, 10:18])  # moved by half a voxel along each axis


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)], ids=str)
def test_the_copied_crop_equals_the_interpolated_one(signs: tuple[int, ...]) -> None:
    image, label = _case()
    nothing = draw(_generator(0), ROI, 2, preset="none")
    parameters = augmentation.AugmentationParameters(np.diag(signs).astype(float), None, nothing.channels)
    for center in ((10.5, 9.5, 8.5), (2.5, 26.5, 13.5)):
        copied = apply(image, label, center, ROI, parameters)
        tensors = apply(torch.from_numpy(image), torch.from_numpy(label), center, ROI, parameters)
        np.testing.assert_allclose(copied[0], tensors[0].numpy(), atol=1e-6)
        np.testing.assert_array_equal(copied[1], tensors[1].numpy())


def test_image_and_label_move_together() -> None:
    image, label = _case()
    recipe = build_recipe("spatial", rotation=1.0, scaling=1.0, elastic=1.0, label_mode="vote")
    for i in range(8):
        parameters = draw(_generator(i), ROI, 2, recipe=recipe)
        crop, label_crop = apply(
            (image[:1] > 0).astype(np.float32),
            label,
            (15.0, 14.0, 13.0),
            ROI,
            augmentation.AugmentationParameters(parameters.matrix, parameters.bumps, (ChannelParameters(),)),
        )
        clear = np.abs(crop[0] - 0.5) > 0.01
        np.testing.assert_array_equal((label_crop > 0)[clear], (crop[0] > 0.5)[clear])


def test_rotation_is_rigid_in_millimetres() -> None:
    recipe = build_recipe("spatial", rotation=1.0, scaling=0.0, mirror=0.0, spacing=[1.0, 1.0, 2.5])
    spacing = np.diag([1.0, 1.0, 2.5])
    for i in range(5):
        in_mm = spacing @ draw(_generator(i), ROI, 1, recipe=recipe).matrix @ np.linalg.inv(spacing)
        np.testing.assert_allclose(in_mm @ in_mm.T, np.eye(3), atol=1e-12)


def test_thick_slices_are_turned_within_their_plane_only() -> None:
    recipe = build_recipe("spatial", rotation=1.0, scaling=0.0, mirror=0.0, spacing=[0.5, 5.0, 0.5])
    matrix = draw(_generator(1), ROI, 1, recipe=recipe).matrix
    assert matrix[1].tolist() == [0.0, 1.0, 0.0]
    assert abs(matrix[0, 2]) > 0


def test_zoom_enlarges() -> None:
    recipe = build_recipe("spatial", rotation=0.0, scaling=1.0, scaling_range=[2.0, 2.0], mirror=0.0)
    np.testing.assert_allclose(draw(_generator(0), ROI, 1, recipe=recipe).matrix, np.eye(3) / 2)


def test_two_axes_stay_in_their_plane() -> None:
    image, label = _case()
    recipe = build_recipe("spatial", rotation=1.0, scaling=1.0, elastic=1.0, rotation_degrees=90)
    for i in range(4):
        parameters = draw(_generator(i), (12, 10), 2, recipe=recipe)
        crop, label_crop = apply(image[..., 13], label[..., 13], (15.0, 14.0), (12, 10), parameters)
        assert crop.shape == (2, 12, 10)
        assert label_crop.shape == (12, 10)
        assert crop[0].max() > 0.5


def test_mirror_axes_are_kept_to() -> None:
    recipe = build_recipe("none", mirror=0.5, mirror_axes=[1])
    signs = np.array([np.diag(draw(_generator(i), ROI, 1, recipe=recipe).matrix) for i in range(60)])
    assert (signs[:, [0, 2]] == 1).all()
    assert 0.25 < (signs[:, 1] < 0).mean() < 0.75


def test_events_happen_as_often_as_the_recipe_says() -> None:
    drawn = [draw(_generator(i), ROI, 1).channels[0] for i in range(600)]
    for name, probability in (("gamma", 0.3), ("noise_std", 0.1), ("low_resolution", 0.25), ("offset", 0.0)):
        share = np.mean([getattr(entry, name) is not None for entry in drawn])
        assert abs(share - probability) <= 3 * math.sqrt(probability * (1 - probability) / 600), name


def test_only_the_pages_of_the_crop_are_read(tmp_path: Path) -> None:
    image, _ = _case((64, 64, 64), channels=1)
    far = np.full_like(image, np.nan)
    far[:, 8:44, 8:44, 8:44] = image[:, 8:44, 8:44, 8:44]  # what is beyond the crop's reach would poison it
    np.save(tmp_path / "image.npy", far)
    mapped = np.load(tmp_path / "image.npy", mmap_mode="r")
    recipe = build_recipe("spatial", rotation=1.0, scaling=1.0)
    for i in range(5):
        crop, _ = apply(mapped, None, (25.0, 25.0, 25.0), ROI, draw(_generator(i), ROI, 1, recipe=recipe))
        assert np.isfinite(crop).all()


def test_settings_from_json_and_typing_errors() -> None:
    assert build_recipe("default", gain_range=[0.9, 1.1]).gain_range == (0.9, 1.1)
    with pytest.raises(ConfigError, match="Did you mean rotation"):
        draw(_generator(0), ROI, 1, rotatoin=0.2)
    with pytest.raises(ConfigError, match="Did you mean default"):
        build_recipe("defualt")
    with pytest.raises(ConfigError, match=r"probability in \[0, 1\]"):
        build_recipe(noise=1.5)
    with pytest.raises(ConfigError, match="smaller first"):
        build_recipe(gain_range=[1.2, 0.8])
    with pytest.raises(ConfigError, match="above 0"):
        build_recipe(scaling_range=[0.0, 1.0])
    with pytest.raises(ConfigError, match="'vote' or 'nearest'"):
        build_recipe(label_mode="linear")
