"""Overlapping regions: blended as logits, reduced in the class order, whatever the slab, the spacing or the ensemble."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medseg.inference import Execution, LabelSettings, Predictor, SlidingWindowInferer
from medseg.inference.windows.ensemble import averaged
from medseg.transforms.preprocessing import Preprocessing
from medseg.transforms.regions import labels_of_regions, region_masks
from medseg.transforms.restoring import restore_regions
from tests.inference.test_predictor import volume_of

WRITES = [4, 2, 9]
SETTINGS = LabelSettings((12, 12, 12), label_values=tuple(WRITES), regions=True)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Conv3d(1, 3, 5, padding=2), torch.nn.InstanceNorm3d(3)).eval()


@pytest.fixture(scope="module")
def scan():
    affine = np.diag([-1.0, 1.2, 0.9, 1.0])
    return volume_of(np.random.default_rng(0).normal(size=(1, 23, 20, 30)), affine)


@pytest.mark.parametrize("spacing", [None, [1.5, 1.5, 1.5]], ids=str)
@pytest.mark.parametrize("planes", [None, 30], ids=str)
def test_equals_full_logits_then_the_class_order(network, scan, spacing, planes) -> None:
    recipe = Preprocessing(spacing, [{"kind": "zscore"}])
    made = Predictor(network, recipe, SETTINGS, Execution(engine="eager", slab_planes=planes))
    label = made.predict(scan)
    prepared = recipe.apply(scan.array, scan.affine)
    with torch.no_grad():
        logits = SlidingWindowInferer((12, 12, 12))(torch.from_numpy(prepared.image)[None], network)
    expected = restore_regions(logits[0], prepared.grid, WRITES)
    assert set(np.unique(label)) == {0, 2, 4, 9}
    assert (label == expected).mean() > 0.9999


def test_probabilities_are_those_of_each_region(network, scan) -> None:
    recipe = Preprocessing(None, [{"kind": "zscore"}])
    made = Predictor(network, recipe, SETTINGS, Execution(engine="eager", keep_probabilities=True))
    label = made.predict(scan)
    found = made.probabilities
    assert found is not None
    assert ((label == 9) == (found[2] > 0.5)).mean() > 0.999  # float16 rounds a few voxels to one half
    assert float(found.sum(axis=0).max()) > 1.0  # they overlap: no softmax


def test_later_regions_write_over_earlier_ones() -> None:
    masks = region_masks(torch.tensor([0, 1, 2, 3, -1]), [(1, 2, 3), (2, 3), (3,)])
    assert masks.int().tolist() == [[0, 1, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 0]]
    assert labels_of_regions(masks.float() - 0.5, [1, 2, 3]).tolist() == [0, 1, 2, 3, 0]


def test_an_ensemble_averages_the_probability_of_each_region() -> None:
    first, second = torch.tensor([[[4.0]]]), torch.tensor([[[-1.0]]])
    mean = averaged([lambda _: first, lambda _: second], "probabilities", regions=True)(first)
    assert torch.sigmoid(mean) == pytest.approx(float((first.sigmoid() + second.sigmoid()) / 2))


def test_regions_need_the_labels_they_write(network) -> None:
    with pytest.raises(ValueError, match="regions need label_values"):
        Predictor(network, Preprocessing(None, [{"kind": "none"}]), LabelSettings((8, 8, 8), regions=True))
