"""New appearances of a crop: what gin and paint keep, what they change, and that they move no other random number."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from medseg.transforms.crops.appearance import gin, paint
from medseg.transforms.crops.augmentation import apply, draw
from medseg.transforms.crops.recipes import RECIPES


def crop() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    label = torch.zeros(12, 10, 9, dtype=torch.int64)
    label[3:9, 2:8, 2:7] = 1
    label[5:7, 4:6, 3:5] = 2
    return label + 0.2 * torch.randn(label.shape, generator=generator), label


@pytest.mark.parametrize("seed", range(12))
def test_gin_keeps_the_frobenius_norm_and_is_its_seeds_own(seed: int) -> None:
    image, _ = crop()
    first, again, other = image.clone(), image.clone(), image.clone()
    gin(first, seed)
    gin(again, seed)
    gin(other, seed + 100)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float(first.norm()) == pytest.approx(float(image.norm()), rel=1e-3)


def test_gin_turns_the_contrast_round_in_a_good_share_of_draws_and_leaves_air_alone() -> None:
    image, label = crop()
    turned = 0
    for seed in range(200):
        changed = image.clone()
        gin(changed, seed)
        turned += int(changed[label == 1].mean() < changed[label == 0].mean())
    assert 10 <= turned <= 100
    nothing = torch.zeros(4, 4, 4)
    gin(nothing, 3)
    assert torch.equal(nothing, torch.zeros(4, 4, 4))


def test_paint_gives_every_part_of_a_label_one_shade_and_forgets_the_old_ones() -> None:
    image, label = crop()
    painted = image.clone()
    paint(painted, label, 5)
    assert float(painted.mean()) == pytest.approx(0, abs=1e-5)
    assert float(painted.std()) == pytest.approx(1, abs=1e-4)
    brighter = 0
    for seed in range(60):
        one = image.clone()
        paint(one, label, seed)
        brighter += int(one[label == 2].mean() > one[label == 1].mean())
    assert 15 <= brighter <= 45


def test_paint_takes_what_is_not_annotated_for_background() -> None:
    image, label = crop()
    unknown = torch.where(label == 0, torch.where(image > 0, -1, 0), label)
    first, second = image.clone(), image.clone()
    paint(first, label, 2)
    paint(second, unknown, 2)
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", ["gin", "paint"])
def test_a_recipe_with_an_appearance_draws_every_other_number_as_without(name: str) -> None:
    plain = draw(np.random.default_rng(3), (8, 8, 8), 2, recipe=RECIPES["default"])
    with_it = draw(
        np.random.default_rng(3), (8, 8, 8), 2, recipe=dataclasses.replace(RECIPES["default"], **{name: 1.0})
    )
    assert np.array_equal(plain.matrix, with_it.matrix)
    bare = tuple(dataclasses.replace(each, **{f"{name}_seed": None}) for each in with_it.channels)
    assert bare == plain.channels
    assert all(getattr(each, f"{name}_seed") is not None for each in with_it.channels)


@pytest.mark.parametrize("name", ["gin", "paint"])
def test_arrays_and_tensors_get_the_same_appearance_and_labels_stay(name: str) -> None:
    image, label = crop()
    parameters = draw(np.random.default_rng(0), (8, 8, 8), 1, preset="none", **{name: 1.0})
    center = (5.5, 4.5, 4.5)
    array, label_crop = apply(image[None].numpy(), label.numpy(), center, (8, 8, 8), parameters)
    tensor, tensor_label = apply(image[None], label, center, (8, 8, 8), parameters)
    plain, plain_label = apply(
        image[None], label, center, (8, 8, 8), draw(np.random.default_rng(0), (8, 8, 8), 1, preset="none")
    )
    assert torch.allclose(torch.from_numpy(array), tensor, atol=1e-5)
    assert torch.equal(tensor_label, plain_label)
    assert np.array_equal(label_crop, plain_label.numpy())
    assert not torch.allclose(tensor, plain)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm device")
@pytest.mark.parametrize("seed", range(3))
def test_a_gpu_makes_the_same_picture(seed: int) -> None:
    image, label = crop()
    for change in (lambda x, y: gin(x, seed), lambda x, y: paint(x, y, seed)):
        here, there = image.clone(), image.clone().cuda()
        change(here, label)
        change(there, label.cuda())
        assert torch.allclose(here, there.cpu(), atol=1e-4)
