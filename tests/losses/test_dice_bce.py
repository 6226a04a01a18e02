from __future__ import annotations

import math

import pytest
import torch

from medseg.losses import DiceBCELoss

REGIONS = [(1, 2, 3), (2, 3), (3,)]


@pytest.fixture
def target() -> torch.Tensor:
    return torch.randint(0, 4, (2, 1, 5, 4, 3), generator=torch.Generator().manual_seed(0))


def masks_of(target: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.isin(target, torch.tensor(values)) for values in REGIONS], dim=1)


def test_overlapping_regions_can_all_be_right_at_once(target: torch.Tensor) -> None:
    logits = 100.0 * masks_of(target).float() - 50.0
    assert DiceBCELoss(REGIONS)(logits, target).item() == pytest.approx(0.0, abs=1e-4)


def test_known_value_of_uniform_logits() -> None:
    # half of 8 voxels belong to the region, all probabilities 1/2: BCE = log 2, Dice = 2*2/(4+4)
    target = torch.tensor([0, 1] * 4).view(1, 1, 2, 2, 2)
    loss = DiceBCELoss([(1, 2)], smooth=0.0)(torch.zeros(1, 1, 2, 2, 2), target)
    assert loss.item() == pytest.approx(math.log(2) + 0.5, abs=1e-6)


def test_ignored_voxels_change_neither_value_nor_gradient(target: torch.Tensor) -> None:
    target[:, :, 0] = -1
    logits = torch.randn(2, 3, 5, 4, 3, requires_grad=True)
    DiceBCELoss(REGIONS)(logits, target).backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad[:, :, 0], torch.zeros_like(logits.grad[:, :, 0]))
    assert logits.grad[:, :, 1:].abs().sum() > 0


def test_a_region_counts_only_where_all_its_labels_are_declared(target: torch.Tensor) -> None:
    # sample 0 declares labels 1 and 2 only: every region here holds 3, so nothing can be said of it
    present = torch.tensor([[True, True, True, False], [True, True, True, True]])
    logits = torch.randn(2, 3, 5, 4, 3, requires_grad=True)
    DiceBCELoss(REGIONS)(logits, target, present).backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad[0], torch.zeros_like(logits.grad[0]))
    assert logits.grad[1].abs().sum() > 0


def test_a_wrong_number_of_outputs_is_refused(target: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="3 regions do not fit logits"):
        DiceBCELoss(REGIONS)(torch.zeros(2, 4, 5, 4, 3), target)
