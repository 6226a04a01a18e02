"""`warp_patch`: known answers, and the compiled form against the readable one on odd, flat and strided sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from medseg_kernels import dispatch
from medseg_kernels.warp import source_box, warp_patch

IDENTITY = np.eye(3, 4)
BACKENDS = ["cpu", "reference"]
GRIDS = [(9, 8, 7), (13, 5, 1), (1, 1, 6), (31, 17, 11)]


def _source(grid: tuple[int, ...], channels: int = 2, dtype: str = "uint8") -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    image = generator.normal(size=(channels, *grid)).astype(np.float32)
    label = (np.add.outer(np.add.outer(np.arange(grid[0]) // 3, np.arange(grid[1]) // 2), np.arange(grid[2]) // 4)) % 5
    return image, label.astype(dtype)


def _rotation(angle: float, zoom: float, source: tuple[int, ...], size: tuple[int, ...]) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    matrix = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) * zoom
    offset = (np.array(source) - 1) / 2 - matrix @ ((np.array(size) - 1) / 2)
    return np.concatenate([matrix, offset[:, None]], axis=1)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "cpu" and (reason := dispatch.refuse_cpu()) is not None:
        pytest.skip(f"no compiler: {reason}")
    return str(request.param)


def test_identity_copies(backend: str) -> None:
    image, label = _source((9, 8, 7))
    patch, label_patch = warp_patch(image, label, IDENTITY, (9, 8, 7), backend=backend)
    np.testing.assert_array_equal(patch, image)
    np.testing.assert_array_equal(label_patch, label)


def test_whole_voxel_shift_and_what_lies_outside(backend: str) -> None:
    image, label = _source((9, 8, 7))
    mapping = IDENTITY.copy()
    mapping[:, 3] = (-2, 3, 0)
    patch, label_patch = warp_patch(
        image, label, mapping, (9, 8, 7), image_outside=[5.0, -5.0], label_outside=77, backend=backend
    )
    np.testing.assert_array_equal(patch[:, 2:, :5], image[:, :-2, 3:])
    np.testing.assert_array_equal(label_patch[2:, :5], label[:-2, 3:])
    assert (patch[0, :2] == 5.0).all()
    assert (patch[1, :, 5:] == -5.0).all()
    assert (label_patch[:2] == 77).all()


def test_flip_undoes_itself(backend: str) -> None:
    image, label = _source((9, 8, 7))
    flip = np.array([[-1.0, 0, 0, 8], [0, 1, 0, 0], [0, 0, -1, 6]])
    once = warp_patch(image, label, flip, (9, 8, 7), backend=backend)
    twice = warp_patch(*once, flip, (9, 8, 7), backend=backend)
    np.testing.assert_array_equal(once[0], image[:, ::-1, :, ::-1])
    np.testing.assert_array_equal(twice[0], image)
    np.testing.assert_array_equal(twice[1], label)


def test_a_plane_of_values_is_interpolated_exactly(backend: str) -> None:
    axes = np.meshgrid(np.arange(12), np.arange(11), np.arange(10), indexing="ij")
    image = (2.0 * axes[0] - axes[1] + 0.5 * axes[2])[None].astype(np.float32)
    mapping = _rotation(0.2, 0.5, (12, 11, 10), (7, 6, 5))
    patch, _ = warp_patch(image, None, mapping, (7, 6, 5), backend=backend)
    voxels = np.stack(np.meshgrid(*map(np.arange, (7, 6, 5)), indexing="ij"), axis=-1)
    position = voxels @ mapping[:, :3].T + mapping[:, 3]
    np.testing.assert_allclose(patch[0], position @ [2.0, -1.0, 0.5], atol=1e-4)


def test_image_equals_torchs_grid_sample(backend: str) -> None:
    image, _ = _source((31, 17, 11))
    mapping = _rotation(0.4, 1.2, (31, 17, 11), (20, 21, 9))
    patch, _ = warp_patch(image, None, mapping, (20, 21, 9), backend=backend)
    voxels = np.stack(np.meshgrid(*map(np.arange, (20, 21, 9)), indexing="ij"), axis=-1)
    position = (voxels @ mapping[:, :3].T + mapping[:, 3]) / (np.array([31, 17, 11]) - 1) * 2 - 1
    grid = torch.from_numpy(position[..., ::-1].copy()).float()[None]
    expected = functional.grid_sample(torch.from_numpy(image)[None], grid, align_corners=True, padding_mode="zeros")
    np.testing.assert_allclose(patch, expected[0].numpy(), atol=2e-5)


def test_vote_is_the_argmax_of_interpolated_one_hot_maps(backend: str) -> None:
    _, label = _source((31, 17, 11))
    mapping = _rotation(0.4, 0.8, (31, 17, 11), (25, 15, 9))
    _, voted = warp_patch(None, label, mapping, (25, 15, 9), backend=backend)
    one_hot = np.stack([label == k for k in range(5)]).astype(np.float32)
    soft, _ = warp_patch(one_hot, None, mapping, (25, 15, 9), backend=backend)
    outside = np.zeros(5, np.float32)
    outside[0] = 1.0
    soft, _ = warp_patch(one_hot, None, mapping, (25, 15, 9), image_outside=outside.tolist(), backend=backend)
    ordered = np.sort(soft, axis=0)
    clear = ordered[-1] - ordered[-2] > 1e-5  # of a tie either answer is right
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(voted[clear], soft.argmax(0)[clear])


@pytest.mark.parametrize("mode", ["vote", "nearest"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "int64"])
@pytest.mark.parametrize("layout", ["C", "F", "strided"])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_compiled_equals_reference(grid: tuple[int, ...], layout: str, dtype: str, mode: str) -> None:
    if (reason := dispatch.refuse_cpu()) is not None:
        pytest.skip(f"no compiler: {reason}")
    image, label = _source(grid, dtype=dtype)
    if layout == "F":
        image, label = np.asfortranarray(image), np.asfortranarray(label)
    elif layout == "strided":
        image, label = np.repeat(image, 2, axis=3)[..., ::2], np.repeat(label, 3, axis=0)[::3]
    size = (11, 10, 13) if min(grid) > 1 else (7, 5, 3)
    mapping = _rotation(0.37, 0.9, grid, size) if min(grid) > 1 else np.c_[np.eye(3), [-1.0, -0.5, 0.0]]
    bumps = np.random.default_rng(1).normal(size=(3, 5, 4, 6)) if grid == (31, 17, 11) else None
    settings: dict[str, Any] = {"bumps": bumps, "image_outside": 0.3, "label_outside": 4, "label_mode": mode}
    fast = warp_patch(image, label, mapping, size, backend="cpu", **settings)
    slow = warp_patch(image, label, mapping, size, backend="reference", **settings)
    np.testing.assert_allclose(fast[0], slow[0], atol=1e-4)
    assert fast[1].dtype == slow[1].dtype == np.dtype(dtype)
    assert (fast[1] != slow[1]).mean() < 2e-3  # ties and positions that round the other way in float32


def test_constant_displacement_is_a_shift(backend: str) -> None:
    image, label = _source((9, 8, 7))
    bumps = np.zeros((3, 4, 5, 6), dtype=np.float32)
    bumps[1] = 2.0
    patch, label_patch = warp_patch(image, label, IDENTITY, (9, 6, 7), bumps=bumps, backend=backend)
    np.testing.assert_allclose(patch, image[:, :, 2:], atol=1e-4)
    np.testing.assert_array_equal(label_patch, label[:, 2:])


def test_threads_change_nothing() -> None:
    if (reason := dispatch.refuse_cpu()) is not None:
        pytest.skip(f"no compiler: {reason}")
    image, label = _source((31, 17, 11))
    mapping = _rotation(0.37, 0.9, (31, 17, 11), (20, 20, 20))
    one, two = (warp_patch(image, label, mapping, (20, 20, 20), threads=n, backend="cpu") for n in (1, 2))
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])


def test_memory_map_and_tensor_give_what_an_array_gives(tmp_path: Path, backend: str) -> None:
    image, label = _source((31, 17, 11))
    np.save(tmp_path / "image.npy", image)
    np.save(tmp_path / "label.npy", label)
    maps = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("image", "label")]
    mapping = _rotation(0.3, 0.5, (31, 17, 11), (8, 9, 10))
    expected = warp_patch(image, label, mapping, (8, 9, 10), backend=backend)
    mapped = warp_patch(*maps, mapping, (8, 9, 10), backend=backend)
    tensors = warp_patch(torch.from_numpy(image), torch.from_numpy(label), mapping, (8, 9, 10), backend=backend)
    for i in (0, 1):
        np.testing.assert_array_equal(mapped[i], expected[i])
        assert isinstance(tensors[i], torch.Tensor)
        np.testing.assert_array_equal(tensors[i].numpy(), expected[i])


def test_far_away_patch_is_all_outside(backend: str) -> None:
    image, label = _source((9, 8, 7))
    mapping = IDENTITY.copy()
    mapping[:, 3] = 1e7
    patch, label_patch = warp_patch(
        image, label, mapping, (4, 4, 4), image_outside=2.0, label_outside=9, backend=backend
    )
    assert (patch == 2.0).all()
    assert (label_patch == 9).all()


def test_source_box_holds_every_voxel_that_is_read() -> None:
    mapping = _rotation(0.3, 0.5, (31, 17, 11), (8, 9, 10))
    box = source_box(mapping, (8, 9, 10), (31, 17, 11), 1.0)
    image, _ = _source((31, 17, 11))
    poisoned = np.full_like(image, np.nan)
    poisoned[(slice(None), *box)] = image[(slice(None), *box)]
    patch, _ = warp_patch(poisoned, None, mapping, (8, 9, 10), backend="reference")
    assert np.isfinite(patch).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": np.zeros((4, 4, 4), np.float32)}, r"image is float32 \(4, 4, 4\), expected float32 \(C, X, Y, Z\)"),
        ({"image": np.zeros((1, 4, 4, 4))}, "image is float64"),
        ({"label": np.zeros((4, 4, 4), np.float32)}, "label is float32"),
        ({"label": np.zeros((4, 4, 5), np.uint8)}, "expected one grid"),
        ({"image": None, "label": None}, "one of them is needed"),
        ({"mapping": np.eye(4)}, r"mapping has shape \(4, 4\)"),
        ({"mapping": np.full((3, 4), np.nan)}, "expected a finite"),
        ({"size": (4, 4)}, "three positive numbers"),
        ({"size": (4, 0, 4)}, "three positive numbers"),
        ({"bumps": np.zeros((3, 3, 4, 4))}, "at least 4 points"),
        ({"label_mode": "linear"}, "'vote' or 'nearest'"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "image": np.zeros((1, 4, 4, 4), np.float32),
        "label": np.zeros((4, 4, 4), np.uint8),
        "mapping": IDENTITY,
        "size": (4, 4, 4),
    }
    with pytest.raises(ValueError, match=message):
        warp_patch(**(arguments | changes))
