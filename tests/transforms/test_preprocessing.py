"""The way to the network's grid and back: exact where nothing is resampled, geometrically true where something is."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from medseg.errors import ConfigError, DataError, GeometryError, GridMismatchError
from medseg.transforms.grid import GridMap, closest_axes
from medseg.transforms.preprocessing import Preprocessd, Preprocessing, RestoreLabeld
from medseg.transforms.resampling import resample_image, resample_label
from medseg.transforms.restoring import place_label, restore_label

NONE = [{"kind": "none"}]


def signed_permutations() -> list[np.ndarray]:
    """The 48 ways in which three array axes can lie along the three world axes."""
    found = []
    for axes in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = np.zeros((3, 3))
            for column, axis in enumerate(axes):
                matrix[axis, column] = signs[column]
            found.append(matrix)
    return found


def oblique(degrees: float) -> np.ndarray:
    """A rotation by `degrees` about an axis that no array axis follows."""
    axis = np.array([1.0, 2.0, 3.0]) / np.sqrt(14.0)
    angle = np.deg2rad(degrees)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def affine_of(directions: np.ndarray, spacing: tuple[float, ...], origin: tuple[float, ...]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = directions * np.asarray(spacing)
    affine[:3, 3] = origin
    return affine


@pytest.mark.parametrize("tilt", [0.0, 17.0])
def test_label_returns_to_its_voxels_in_48_orientations(tilt: float) -> None:
    label = np.random.default_rng(0).integers(0, 5, (5, 6, 7)).astype(np.uint8)
    recipe = Preprocessing(None, NONE)
    for directions in signed_permutations():
        affine = affine_of(oblique(tilt) @ directions, (1.0, 1.5, 2.5), (-3.0, 8.0, 1.0))
        prepared = recipe.apply(label[None].astype(np.float32), affine)
        on_grid = recipe.apply_label(label, affine)
        np.testing.assert_array_equal(on_grid, prepared.image[0])
        np.testing.assert_array_equal(place_label(on_grid, prepared.grid), label)


def test_orientation_changes_nothing_but_the_axes() -> None:
    """The same head stored in 48 ways gives the same network input."""
    head = np.random.default_rng(1).normal(size=(4, 5, 6)).astype(np.float32)
    recipe = Preprocessing([1.0, 1.0, 1.0], [{"kind": "zscore"}])
    expected = recipe.apply(head[None], np.eye(4)).image
    for axes in itertools.permutations(range(3)):
        for flips in itertools.product((False, True), repeat=3):
            stored = head.transpose(axes)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
            directions = np.zeros((3, 3))
            for column, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
                directions[axis, column] = -1.0 if flip else 1.0
            np.testing.assert_allclose(
                recipe.apply(stored[None], affine_of(directions, (1, 1, 1), (0, 0, 0))).image, expected
            )


@pytest.mark.parametrize("spacing", [[0.7, 1.3, 4.0], [3.0, 0.5, 1.1], [1.0, 1.0, 1.0]], ids=str)
def test_affine_of_the_network_grid_is_true(spacing: list[float]) -> None:
    """A ramp that holds its own world coordinate holds it after resampling too."""
    affine = affine_of(oblique(12.0) @ signed_permutations()[29], (0.9, 2.0, 1.1), (40.0, -20.0, 7.0))
    index = np.stack(np.meshgrid(*(np.arange(n) for n in (24, 11, 19)), indexing="ij"), axis=-1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    recipe = Preprocessing(spacing, NONE * 3)
    prepared = recipe.apply(np.moveaxis(world, -1, 0).astype(np.float32), affine)
    here = np.stack(np.meshgrid(*(np.arange(n) for n in prepared.grid.shape), indexing="ij"), axis=-1)
    expected = here @ prepared.affine[:3, :3].T + prepared.affine[:3, 3]
    at = here @ prepared.grid.matrix()[:3, :3].T + prepared.grid.matrix()[:3, 3]
    inside = ((at >= 0) & (at <= np.array([23, 10, 18]))).all(axis=-1)  # beyond the outer centres values are held
    assert inside.mean() > 0.3
    np.testing.assert_allclose(np.moveaxis(prepared.image, 0, -1)[inside], expected[inside], atol=2e-4)


def test_spacing_is_the_nearest_that_fits() -> None:
    prepared = Preprocessing([2.0, 2.0, 2.0], NONE).apply(np.zeros((1, 9, 10, 11), np.float32), np.eye(4))
    assert prepared.image.shape == (1, 4, 5, 6)
    np.testing.assert_allclose(np.diag(prepared.affine)[:3], [9 / 4, 2.0, 11 / 6])


def test_equal_spacing_is_identity() -> None:
    image = np.random.default_rng(0).normal(size=(1, 6, 7, 8)).astype(np.float32)
    prepared = Preprocessing([1.0, 1.0, 1.0], NONE).apply(image, np.diag([1.001, 0.999, 1.0, 1.0]))
    assert prepared.grid.identity
    np.testing.assert_array_equal(prepared.image, image)


def test_input_is_not_altered() -> None:
    image = np.random.default_rng(0).normal(size=(1, 6, 7, 8)).astype(np.float32)
    before = image.copy()
    Preprocessing(None, [{"kind": "ct", "lower": 0, "upper": 1, "mean": 0.5, "std": 2}]).apply(image, np.eye(4))
    np.testing.assert_array_equal(image, before)


def test_zscore_has_mean_zero_and_deviation_one() -> None:
    image = (np.random.default_rng(0).gamma(2.0, 1e5, (2, 20, 21, 22))).astype(np.float32)
    out = Preprocessing(None, [{"kind": "zscore"}, {"kind": "zscore"}]).apply(image, np.eye(4)).image
    np.testing.assert_allclose(out.mean(axis=(1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(out.std(axis=(1, 2, 3)), 1, atol=1e-5)


def test_nonzero_zscore_leaves_air_at_zero() -> None:
    image = np.zeros((1, 8, 8, 8), np.float32)
    image[0, 2:6, 2:6, 2:6] = np.random.default_rng(0).uniform(50, 90, (4, 4, 4))
    out = Preprocessing(None, [{"kind": "zscore", "nonzero": True}]).apply(image, np.eye(4)).image
    assert (out[image == 0] == 0).all()
    np.testing.assert_allclose(out[image != 0].mean(), 0, atol=1e-5)


def test_constant_image_becomes_zeros() -> None:
    out = Preprocessing(None, [{"kind": "zscore"}]).apply(np.full((1, 4, 4, 4), 7.0, np.float32), np.eye(4)).image
    assert np.abs(out).max() == 0


def test_ct_clips_and_scales() -> None:
    image = np.array([-2000.0, -100.0, 0.0, 100.0, 3000.0], np.float32).reshape(1, 5, 1, 1)
    entry = {"kind": "ct", "lower": -100, "upper": 100, "mean": 50, "std": 10}
    out = Preprocessing(None, [entry]).apply(image, np.eye(4)).image
    np.testing.assert_allclose(out.ravel(), [-15, -15, -5, 5, 5], rtol=1e-6)


def test_crop_to_nonzero_goes_there_and_back() -> None:
    image = np.zeros((1, 12, 10, 9), np.float32)
    image[0, 3:8, 4:6, 0:9] = 1 + np.arange(5 * 2 * 9).reshape(5, 2, 9)
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])
    recipe = Preprocessing([1.0, 1.0, 1.0], NONE, crop_to_nonzero=True)
    prepared = recipe.apply(image, affine)
    assert prepared.image.shape == (1, 5, 2, 9)
    label = (image[0] > 40).astype(np.uint8)
    on_grid = recipe.apply_label(label, affine, grid=prepared.grid)
    np.testing.assert_array_equal(place_label(on_grid, prepared.grid), label)
    corner = prepared.affine @ [0, 0, 0, 1]
    np.testing.assert_allclose(corner[:3], [-7, 4, 0])


def test_label_vote_is_interpolate_one_hot_then_argmax() -> None:
    label = np.random.default_rng(3).integers(0, 4, (7, 6, 5)).astype(np.int16) * 3
    values = np.unique(label)
    for shape in [(14, 6, 9), (3, 11, 5), (4, 4, 4)]:
        one_hot = np.stack([(label == value).astype(np.float32) for value in values])
        resampled = resample_image(one_hot, shape)
        ordered = np.sort(resampled, axis=0)
        clear = ordered[-1] - ordered[-2] > 1e-5
        voted = resample_label(label, shape)
        assert voted.dtype == label.dtype
        np.testing.assert_array_equal(voted[clear], values[resampled.argmax(axis=0)][clear])


def test_label_vote_keeps_the_volume_of_a_sphere() -> None:
    index = np.stack(np.meshgrid(*(np.arange(n) for n in (40, 40, 20)), indexing="ij")) + 0.5
    distance = ((index - np.array([20, 20, 10]).reshape(3, 1, 1, 1)) * np.array([1, 1, 2]).reshape(3, 1, 1, 1)) ** 2
    sphere = (distance.sum(axis=0) < 15**2).astype(np.uint8)
    finer = resample_label(sphere, (40, 40, 40))
    assert finer.sum() / (2 * sphere.sum()) == pytest.approx(1, abs=0.01)


def test_logits_of_a_plane_come_back_as_the_plane() -> None:
    """Two logits that cross at x = 10.0 mm; the boundary must be there on the finer source grid too."""
    affine = np.diag([0.5, 0.8, -0.8, 1.0])
    prepared = Preprocessing([2.0, 2.0, 2.0], NONE).apply(np.zeros((1, 60, 20, 20), np.float32), affine)
    x = np.arange(prepared.grid.shape[0]) * prepared.affine[0, 0] + prepared.affine[0, 3]
    ramp = torch.from_numpy(np.broadcast_to((x - 10.1)[:, None, None], prepared.grid.shape).astype(np.float32))
    label = restore_label(torch.stack([torch.zeros_like(ramp), ramp]), prepared.grid)
    expected = np.broadcast_to((np.arange(60) * 0.5 > 10.1)[:, None, None], (60, 20, 20))
    np.testing.assert_array_equal(label, expected)


def test_landmark_returns_to_its_voxel_through_resampling() -> None:
    """A blob's logits, placed on the network's grid by world coordinates, peak at the voxel it was drawn at."""
    for number, directions in enumerate(signed_permutations()):
        affine = affine_of(oblique(9.0) @ directions, (1.0, 1.2, 1.9), (5.0, -7.0, 30.0))
        recipe = Preprocessing([1.4, 1.4, 1.4], NONE)
        prepared = recipe.apply(np.zeros((1, 17, 18, 13), np.float32), affine)
        voxel = np.array([5 + number % 7, 6 + number % 5, 4 + number % 4])
        world = affine[:3, :3] @ voxel + affine[:3, 3]
        index = np.stack(np.meshgrid(*(np.arange(n) for n in prepared.grid.shape), indexing="ij"), axis=-1)
        here = index @ prepared.affine[:3, :3].T + prepared.affine[:3, 3]
        blob = 2.5**2 - ((here - world) ** 2).sum(axis=-1)
        label = restore_label(torch.from_numpy(np.stack([np.zeros_like(blob), blob])).float(), prepared.grid)
        centre = np.argwhere(label == 1).mean(axis=0)
        assert np.abs(centre - voxel).max() < 0.5, (number, centre, voxel)


def test_grid_map_survives_json() -> None:
    prepared = Preprocessing([2.0, None, 1.0], NONE).apply(np.zeros((1, 4, 5, 6), np.float32), np.eye(4))
    assert GridMap.from_dict(prepared.grid.to_dict()) == prepared.grid


def test_oblique_axes_choose_the_closest() -> None:
    directions = oblique(40.0)
    axes, flips = closest_axes(affine_of(directions, (1, 1, 1), (0, 0, 0)))
    assert axes == (0, 1, 2)
    assert flips == (False, False, False)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: Preprocessing([1, 1], NONE), ConfigError, "three positive values"),
        (lambda: Preprocessing(None, [{"kind": "z-score"}]), ConfigError, "Did you mean zscore"),
        (lambda: Preprocessing(None, [{"kind": "ct", "lower": 0}]), ConfigError, "mean, std, upper"),
        (
            lambda: Preprocessing(None, NONE).apply(np.zeros((2, 3, 3, 3), np.float32), np.eye(4)),
            ConfigError,
            "1 channel",
        ),
        (
            lambda: Preprocessing(None, NONE).apply(np.zeros((1, 3, 3, 3), np.float32), np.zeros((4, 4))),
            GeometryError,
            "singular",
        ),
        (
            lambda: Preprocessing(None, NONE).apply(np.full((1, 3, 3, 3), np.nan, np.float32), np.eye(4)),
            DataError,
            "27 NaN",
        ),
        (
            lambda: Preprocessing(None, NONE, "RAR").apply(np.zeros((1, 3, 3, 3), np.float32), np.eye(4)),
            GeometryError,
            "RAS",
        ),
    ],
)
def test_refusals_name_the_cause(call, error, words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_label_of_another_shape_is_refused() -> None:
    recipe = Preprocessing(None, NONE)
    prepared = recipe.apply(np.zeros((1, 3, 4, 5), np.float32), np.eye(4))
    with pytest.raises(GridMismatchError, match=r"\(3, 4, 6\)"):
        recipe.apply_label(np.zeros((3, 4, 6), np.uint8), np.eye(4), grid=prepared.grid)


def test_importing_needs_no_monai() -> None:
    code = "import sys, medseg.transforms.preprocessing; sys.exit('monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_monai_transforms_do_the_same_and_survive_a_loader() -> None:
    from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch

    affine = affine_of(oblique(5.0) @ signed_permutations()[11], (1.0, 1.5, 0.8), (3.0, 2.0, 1.0))
    image = np.random.default_rng(0).normal(size=(1, 14, 9, 12)).astype(np.float32)
    recipe = Preprocessing([1.2, 1.2, 1.2], [{"kind": "zscore"}])
    prepared = recipe.apply(image, affine)
    sample = {"image": MetaTensor(torch.from_numpy(image), affine=torch.from_numpy(affine))}
    loader = DataLoader(Dataset([sample], Preprocessd("image", recipe)), batch_size=1)
    batch = next(iter(loader))
    np.testing.assert_array_equal(batch["image"][0].numpy(), prepared.image)
    np.testing.assert_allclose(batch["image"].affine[0], prepared.affine)
    batch["pred"] = torch.cat([batch["image"], -batch["image"]], dim=1)
    item = RestoreLabeld("pred", labels=[0, 3])(decollate_batch(batch)[0])
    values = torch.from_numpy(prepared.image[0])
    expected = restore_label(torch.stack([values, -values]), prepared.grid) * 3
    np.testing.assert_array_equal(item["pred"][0].numpy(), expected)
    np.testing.assert_allclose(item["pred"].affine, affine)


def test_monai_inverse_returns_to_the_source_grid() -> None:
    from monai.data import MetaTensor

    image = np.random.default_rng(0).normal(size=(2, 5, 6, 7)).astype(np.float32)
    affine = np.diag([-1.0, 1.0, -2.0, 1.0])
    transform = Preprocessd("image", Preprocessing(None, NONE * 2))
    forward = transform({"image": MetaTensor(torch.from_numpy(image), affine=torch.from_numpy(affine))})
    back = transform.inverse(forward)["image"]
    np.testing.assert_array_equal(back.numpy(), image)
    np.testing.assert_allclose(back.affine, affine)


@pytest.mark.data
def test_real_volumes_return_exactly(real_data) -> None:
    """Oblique, permuted and flipped real files: labels drawn on them return to their voxels bit for bit."""
    nibabel = pytest.importorskip("nibabel")
    files = sorted((real_data / "odd_geometry").rglob("*.nii.gz"))
    assert files
    for path in files:
        stored = nibabel.load(path)
        if len(stored.shape) != 3:
            continue
        label = (np.indices(stored.shape).sum(axis=0) % 7).astype(np.uint8)
        recipe = Preprocessing(None, NONE)
        grid = recipe.apply(label[None].astype(np.float32), stored.affine).grid
        np.testing.assert_array_equal(place_label(recipe.apply_label(label, stored.affine), grid), label)


@pytest.mark.parametrize("unit", [1e-12, 1e-9, 1e-3, 1.0, 1e6])
@pytest.mark.parametrize("entry", [{"kind": "zscore"}, {"kind": "zscore", "nonzero": True}])
def test_a_z_score_does_not_depend_on_the_unit(unit: float, entry: dict[str, Any]) -> None:
    values = np.random.default_rng(0).normal(3.0, 0.5, (1, 8, 8, 8))
    found = Preprocessing(None, [entry]).apply((values * unit).astype(np.float32), np.eye(4)).image
    np.testing.assert_allclose(found.std(), 1.0, rtol=1e-4)


@pytest.mark.parametrize("value", [0.0, 1e-9, 0.1, 12345.678])
def test_a_constant_channel_becomes_zeros_in_any_unit(value: float) -> None:
    constant = np.full((1, 7, 8, 9), value, np.float32)
    assert not Preprocessing(None, [{"kind": "zscore"}]).apply(constant, np.eye(4)).image.any()
