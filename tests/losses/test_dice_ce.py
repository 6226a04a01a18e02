from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from medseg.losses import LOSSES, DeepSupervisionLoss, DiceCELoss
from medseg.losses.deep_supervision import sample_down


def perfect(target: torch.Tensor, K: int) -> torch.Tensor:
    return 100.0 * F.one_hot(target[:, 0], K).movedim(-1, 1).float() - 50.0  # for softmax and sigmoid alike


@pytest.fixture
def target() -> torch.Tensor:
    return torch.randint(0, 3, (2, 1, 5, 4, 3), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", LOSSES)
def test_a_perfect_prediction_is_the_minimum(name: str, target: torch.Tensor) -> None:
    loss = LOSSES[name]()
    best = loss(perfect(target, 3), target)
    assert best == pytest.approx(0.0, abs=1e-4)
    assert loss(torch.randn(2, 3, 5, 4, 3), target) > best


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_finite_on_an_empty_label(name: str) -> None:
    logits = torch.randn(1, 3, 4, 4, 4, requires_grad=True)
    LOSSES[name]()(logits, torch.zeros(1, 1, 4, 4, 4, dtype=torch.long)).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_known_value_of_uniform_logits() -> None:
    # two classes, half of 8 voxels are foreground, all probabilities 1/2: CE = log 2, Dice = 2*2/(4+4)
    target = torch.tensor([0, 1] * 4).view(1, 1, 2, 2, 2)
    loss = DiceCELoss(smooth=0.0)(torch.zeros(1, 2, 2, 2, 2), target)
    assert loss.item() == pytest.approx(math.log(2) + 0.5, abs=1e-6)


def test_ignored_voxels_change_neither_value_nor_gradient(target: torch.Tensor) -> None:
    target[:, :, 0] = -1
    logits = torch.randn(2, 3, 5, 4, 3, requires_grad=True)
    loss = DiceCELoss()(logits, target)
    loss.backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad[:, :, 0], torch.zeros_like(logits.grad[:, :, 0]))
    changed = logits.detach().clone()
    changed[:, :, 0] = 7.0
    assert DiceCELoss()(changed, target).item() == pytest.approx(loss.item(), rel=1e-6)


def test_an_undeclared_label_may_hide_in_the_background(target: torch.Tensor) -> None:
    # sample 0's annotation declares label 1 only; predicting label 2 in its background costs nothing
    annotated = torch.where(target == 2, torch.zeros_like(target), target)
    present = torch.tensor([[True, True, False], [True, True, False]])
    assert DiceCELoss()(perfect(target, 3), annotated, present) == pytest.approx(0.0, abs=1e-4)
    assert DiceCELoss()(perfect(target, 3), annotated) > 1.0


def test_declaring_every_label_equals_declaring_nothing(target: torch.Tensor) -> None:
    logits = torch.randn(2, 3, 5, 4, 3)
    present = torch.ones(2, 3, dtype=torch.bool)
    torch.testing.assert_close(DiceCELoss()(logits, target, present), DiceCELoss()(logits, target))


def test_shapes_that_do_not_fit_are_refused(target: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        DiceCELoss()(torch.zeros(2, 3, 5, 4, 4), target)


def test_deep_supervision_is_the_weighted_mean_of_the_scales(target: torch.Tensor) -> None:
    fine, coarse = torch.randn(2, 3, 5, 4, 3), torch.randn(2, 3, 3, 2, 2)
    loss = DiceCELoss()
    expected = (loss(fine, target) + 0.5 * loss(coarse, sample_down(target, (3, 2, 2)))) / 1.5
    torch.testing.assert_close(DeepSupervisionLoss(loss)([fine, coarse], target), expected)


def test_sampling_down_takes_the_voxel_at_the_centre() -> None:
    line = torch.arange(6).view(1, 1, 6, 1, 1)
    assert sample_down(line, (3, 1, 1)).flatten().tolist() == [1, 3, 5]
    assert sample_down(line, (2, 1, 1)).flatten().tolist() == [1, 4]


def test_label_smoothing_is_torchs_and_leaves_the_dice_term(target: torch.Tensor) -> None:
    logits = torch.randn(2, 3, 5, 4, 3, generator=torch.Generator().manual_seed(1))
    smoothed = DiceCELoss(dice_weight=0.0, label_smoothing=0.1)(logits, target)
    assert smoothed == pytest.approx(F.cross_entropy(logits, target[:, 0], label_smoothing=0.1).item(), abs=1e-6)
    plain, half = DiceCELoss(ce_weight=0.0), DiceCELoss(ce_weight=0.0, label_smoothing=0.5)
    assert plain(logits, target) == half(logits, target)
    with pytest.raises(ValueError, match="label_smoothing is 1"):
        DiceCELoss(label_smoothing=1.0)


def test_label_smoothing_gives_no_share_to_labels_that_a_sample_does_not_declare() -> None:
    target = torch.zeros(1, 1, 4, 4, 4, dtype=torch.long)
    present = torch.tensor([[True, True, False]])
    logits = torch.randn(1, 3, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    found = DiceCELoss(dice_weight=0.0, label_smoothing=0.2)(logits, target, present)
    merged = torch.stack([logits[:, [0, 2]].logsumexp(dim=1), logits[:, 1]], dim=1)
    assert found == pytest.approx(F.cross_entropy(merged, target[:, 0], label_smoothing=0.2).item(), abs=1e-5)
