"""The two ways to augment give the same crops for the same drawn numbers (CPU tensors; not measured on a GPU)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medseg.transforms.crops.augmentation import apply, draw
from medseg.transforms.crops.device_augmentation import cut_box, finish_crops

RECIPES = {
    "flips only": {"preset": "none", "mirror": 1.0},
    "strong": {"preset": "strong", "rotation": 1.0, "scaling": 1.0, "noise": 1.0, "blur": 1.0, "gamma": 1.0},
    "elastic": {"preset": "strong", "elastic": 1.0, "gain": 1.0, "contrast": 1.0, "low_resolution": 1.0},
}


@pytest.fixture(scope="module")
def case() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.normal(size=(2, 30, 26, 40)).astype(np.float32), random.integers(0, 4, (30, 26, 40)).astype(np.uint8)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("center", [(14.5, 12.5, 20.5), (2.0, 24.0, 39.0)], ids=["inside", "at a corner"])
def test_a_box_gives_the_crop_that_the_whole_case_gives(case, name: str, center) -> None:
    image, label = case
    roi = (12, 10, 16)
    boxes, expected = [], []
    for seed in range(3):
        parameters = draw(np.random.default_rng(seed), roi, 2, **RECIPES[name])
        boxes.append(cut_box(image, label, center, roi, parameters).to("cpu"))
        expected.append(apply(image, label, center, roi, parameters))
        assert boxes[-1].label.numel() < label.size or name != "flips only"
    found, found_label = finish_crops(boxes)
    assert found.shape == (3, 2, *roi)
    assert (found_label.shape, found_label.dtype) == ((3, 1, *roi), torch.int64)
    for i, (crop, crop_label) in enumerate(expected):
        np.testing.assert_allclose(found[i].numpy(), crop, atol=2e-4)
        assert np.mean(found_label[i, 0].numpy() == crop_label) > 0.999


def test_slices_have_boxes_too(case) -> None:
    image, label = case[0][..., 3], case[1][..., 3]
    parameters = draw(np.random.default_rng(1), (12, 10), 2, preset="strong", rotation=1.0, elastic=1.0)
    box = cut_box(image, label, (14.0, 13.0), (12, 10), parameters)
    crop, crop_label = apply(image, label, (14.0, 13.0), (12, 10), parameters)
    found, found_label = box.crop()
    np.testing.assert_allclose(found.numpy(), crop, atol=2e-4)
    assert np.mean(found_label.numpy() == crop_label) > 0.999


def test_a_crop_wholly_outside_is_empty(case) -> None:
    parameters = draw(np.random.default_rng(1), (4, 4, 4), 2, preset="none")
    image, label = cut_box(*case, (-40.0, -40.0, -40.0), (4, 4, 4), parameters).crop()
    assert not image.any()
    assert not label.any()
