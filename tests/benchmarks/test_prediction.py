"""What the table of predictions compares: both chains lie on one grid, prepare one image, and the weights have a name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from torch import Tensor, nn

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SHAPE, STEPS = (50, 50, 32), np.array([0.9, 0.9, 1.5])  # 50 * 0.9 / 1.5 is whole, as 250 * 0.9 / 1.5 in the table
AFFINE = np.diag([-0.9, -0.9, 1.5, 1.0])


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("prediction_worker")


class Sign(nn.Module):
    """Label 1 where the prepared image is above 0; keeps the windows it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, windows: Tensor) -> Tensor:
        self.seen.append(torch.as_tensor(windows.detach().clone()))
        return torch.cat([-windows, windows], dim=1)


def both(worker: ModuleType, folder: Path, hu: np.ndarray, roi: tuple[int, ...]) -> dict[str, tuple[Any, list[Tensor]]]:
    """Label map and windows of MONAI's chain and of ours."""
    source = folder / "image.nii.gz"
    nibabel.save(nibabel.Nifti1Image(hu.astype(np.float32), AFFINE), source)
    found = {}
    for name, make in (
        ("monai", lambda network: worker.monai_chain(network, worker.SPACING, roi)),
        ("ours", lambda network: worker.our_chain(network, worker.SPACING, roi, "eager", "fp32")),
    ):
        run: Callable[[str, str], Any] = make(network := Sign())
        run(str(source), str(folder / f"{name}.nii.gz"))
        image = nibabel.load(folder / f"{name}.nii.gz")
        assert np.allclose(image.affine, AFFINE)
        found[name] = (np.asanyarray(image.dataobj), network.seen)
    return found


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_on_a_ramp_both_chains_put_the_border_where_it_is_in_world_coordinates(
    worker: ModuleType, axis: int, tmp_path: Path
) -> None:
    """Linear interpolation of a linear ramp is exact, there and back: every voxel's label is known."""
    at_mm = np.indices(SHAPE)[axis] * STEPS[axis]
    length = SHAPE[axis] * STEPS[axis]
    border_mm = 0.371 * length
    middle = (worker.UPPER + worker.LOWER) / 2
    hu = middle + (at_mm - border_mm) / length * (worker.UPPER - worker.LOWER) * 0.45
    for label, _ in both(worker, tmp_path, hu, (24, 24, 24)).values():
        assert np.array_equal(label == 1, at_mm > border_mm)


def test_the_image_that_both_chains_prepare_is_one(worker: ModuleType, tmp_path: Path) -> None:
    """The 0.3 % of labels that differed lay where air below the window met skin: one side clipped before it resampled."""
    phantom = importlib.import_module("prediction_phantom").phantom
    hu, _ = phantom(SHAPE, STEPS)
    found = both(worker, tmp_path, hu, (30, 30, 32))
    monai, ours = found["monai"][1][0][0, 0], found["ours"][1][0][0, 0]
    torch.testing.assert_close(ours, monai, rtol=0, atol=2e-5)
    # the other order, which the bundles of the model zoo have: other values where air below the window has a share, and only there
    half, middle = (worker.UPPER - worker.LOWER) / 2, (worker.UPPER + worker.LOWER) / 2
    source = torch.from_numpy(hu[::-1, ::-1].astype(np.float32))[None, None]

    def resampled(values: Tensor) -> Tensor:
        return nn.functional.interpolate(values, monai.shape, mode="trilinear")[0, 0]

    late = (resampled(source).clamp(worker.LOWER, worker.UPPER) - middle) / half
    differs, air = (late - monai).abs() > 1e-3, resampled((source < worker.LOWER).float())
    assert 0.01 < differs.float().mean() < 0.1
    assert ((air > 0) & (air < 1))[differs].all()
    assert np.array_equal(found["monai"][0], found["ours"][0])


def test_weights_are_named_by_their_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    weights = importlib.import_module("prediction_weights")
    state = {"b": torch.arange(4.0), "a": torch.ones(2, 2)}
    torch.save(dict(reversed(state.items())), tmp_path / "one.pt")
    assert weights.checksum_of(tmp_path / "one.pt") == weights.checksum(state)
    assert weights.checksum(state) != weights.checksum({**state, "b": torch.arange(4.0) + 1e-6})
    with pytest.raises(SystemExit, match=r"make them once with python benchmarks/prediction_weights\.py"):
        weights.checksum_of(tmp_path / "none.pt")
    monkeypatch.setattr(weights, "unet", lambda: nn.Conv3d(1, 15, 1))
    with pytest.raises(SystemExit, match="has not converged: a loss of"):
        weights.make(tmp_path / "new.pt", steps=2)
