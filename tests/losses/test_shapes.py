"""clDice, skeleton recall and boundary loss: values worked out by hand or by MONAI, and every loss under deep supervision."""

from __future__ import annotations

import pytest
import torch
from monai.losses import SoftclDiceLoss
from torch.nn import functional as F

from medseg.losses import (
    LOSSES,
    DeepSupervisionLoss,
    DiceBoundaryLoss,
    DiceCELoss,
    DiceCLDiceLoss,
    DiceSkeletonLoss,
)
from medseg.losses.deep_supervision import sample_down
from medseg.losses.shapes import signed_distance

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(2, 3, 8, 6, 4, generator=GENERATOR)
TARGET = torch.randint(0, 3, (2, 1, 8, 6, 4), generator=GENERATOR)
ALONE = {"dice_weight": 0.0, "ce_weight": 0.0, "shape_weight": 1.0}


def test_centre_lines_are_monais() -> None:
    truth = F.one_hot(TARGET[:, 0], 3).movedim(-1, 1).float()
    theirs = SoftclDiceLoss(include_background=False)(LOGITS.softmax(1), truth)
    torch.testing.assert_close(DiceCLDiceLoss(**ALONE)(LOGITS, TARGET), theirs)


def test_a_skeleton_is_the_middle_of_a_tube_and_its_recall_is_what_was_found_of_it() -> None:
    target = torch.zeros(1, 1, 9, 9, 20, dtype=torch.long)
    target[:, :, 3:6, 3:6, :] = 1
    skeleton = DiceSkeletonLoss(radius=0).skeleton(target.float())
    assert skeleton[0, 0, 4, 4, 3:17].all()
    assert skeleton[0, 0, :, :, 10].sum() == 1
    logits = torch.zeros(1, 2, 9, 9, 20)
    logits[:, 1] = 40 * (target[:, 0].float() - 0.5)
    assert DiceSkeletonLoss(**ALONE)(logits, target) < 1e-6
    logits[:, 1, :, :, 10:] = -20
    middle = DiceSkeletonLoss(radius=0).skeleton(target.float())[0, 0]
    lost = middle[:, :, 10:].sum() / middle.sum()
    torch.testing.assert_close(DiceSkeletonLoss(radius=0, **ALONE)(logits, target), lost, atol=1e-6, rtol=0)


def test_the_distance_to_a_surface_is_signed_and_the_boundary_loss_is_its_mean_under_the_probability() -> None:
    mask = torch.zeros(1, 2, 1, 9)
    mask[0, 0, :, 3:6] = 1
    distances = signed_distance(mask)
    assert distances[0, 0, 0].tolist() == [3, 2, 1, 0, -1, 0, 1, 2, 3]
    assert not distances[0, 1].any()  # a label that is not there has no surface
    target = mask[:, :1].long()
    logits = torch.zeros(1, 2, 1, 9)  # probability a half everywhere
    wanted = 0.5 * distances[0, 0].sum() / 9
    torch.testing.assert_close(DiceBoundaryLoss(**ALONE)(logits, target), wanted)


def test_a_boundary_loss_is_least_where_the_label_is() -> None:
    target = torch.zeros(1, 1, 10, 10, 10, dtype=torch.long)
    target[:, :, 2:6, 2:6, 2:6] = 1

    def loss(place: torch.Tensor) -> torch.Tensor:
        logits = torch.stack([torch.zeros(1, 10, 10, 10), 40 * (place[:, 0].float() - 0.5)], dim=1)
        return DiceBoundaryLoss(**ALONE)(logits, target)

    near, far = torch.roll(target, 1, dims=2), torch.roll(target, 4, dims=2)
    assert loss(target) < loss(near) < loss(far)


@pytest.mark.parametrize("kind", [DiceCLDiceLoss, DiceSkeletonLoss, DiceBoundaryLoss])
def test_what_was_not_annotated_changes_nothing(kind: type[DiceCELoss]) -> None:
    target = TARGET.clone()
    target[0, :, 4:] = -1
    other = LOGITS.clone()
    other[0, :, 4:] = 7.0 * other[0, :, 4:].flip(1)
    settings = {"iterations": 0} if kind is not DiceBoundaryLoss else {}  # erosion would look over the border
    loss = kind(dice_weight=0.0, **settings)
    if kind is DiceCLDiceLoss:  # the soft skeleton looks one voxel around
        other[0, :, 4] = LOGITS[0, :, 4]
    torch.testing.assert_close(loss(other, target), loss(LOGITS, target))
    declared = torch.tensor([[True, True, False], [True, True, True]])
    partly = TARGET.clone()
    partly[0][partly[0] == 2] = 0
    assert loss(LOGITS, partly, declared).isfinite()


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("dims", [2, 3])
def test_every_loss_works_under_deep_supervision_and_on_crops_without_a_label(name: str, dims: int) -> None:
    loss, shape = LOSSES[name](), (8, 6, 4)[:dims]
    scales = [
        torch.randn(2, 3, *(size // step for size in shape), generator=GENERATOR, requires_grad=True) for step in (1, 2)
    ]
    target = torch.randint(0, 3, (2, 1, *shape), generator=GENERATOR)
    found = DeepSupervisionLoss(loss)(scales, target)
    by_hand = (2 * loss(scales[0], target) + loss(scales[1], sample_down(target, scales[1].shape[2:]))) / 3
    torch.testing.assert_close(found, by_hand)
    for label in (target, torch.zeros_like(target)):
        DeepSupervisionLoss(loss)(scales, label).backward()
        assert all(scale.grad is not None and scale.grad.isfinite().all() for scale in scales)
