"""Tversky, focal, top-k and cross-entropy alone: equal to MONAI's and torch's where those can compute the same."""

from __future__ import annotations

import pytest
import torch
from monai.losses import FocalLoss, TverskyLoss
from torch.nn import functional as F

from medseg.losses import CELoss, DiceCELoss, DiceFocalLoss, DiceTopKLoss, TverskyCELoss

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(2, 3, 5, 6, 4, generator=GENERATOR)
TARGET = torch.randint(0, 3, (2, 1, 5, 6, 4), generator=GENERATOR)
CE = F.cross_entropy(LOGITS, TARGET[:, 0], reduction="none")


def test_cross_entropy_alone_is_torchs() -> None:
    torch.testing.assert_close(CELoss()(LOGITS, TARGET), CE.mean())


def test_focal_is_monais_and_cross_entropy_at_gamma_zero() -> None:
    theirs = FocalLoss(to_onehot_y=True, use_softmax=True, gamma=2.0, reduction="none")(LOGITS, TARGET)
    ours = DiceFocalLoss(dice_weight=0.0)(LOGITS, TARGET)
    torch.testing.assert_close(ours, theirs.sum(1).mean())
    torch.testing.assert_close(DiceFocalLoss(dice_weight=0.0, gamma=0.0)(LOGITS, TARGET), CE.mean())


def test_top_k_is_the_mean_of_the_worst_voxels_that_count() -> None:
    target = TARGET.clone()
    target[0] = -1
    worst = CE[1].flatten().sort(descending=True).values[: round(0.1 * CE[1].numel())]
    torch.testing.assert_close(DiceTopKLoss(dice_weight=0.0)(LOGITS, target), worst.mean())
    torch.testing.assert_close(DiceTopKLoss(share=1.0)(LOGITS, TARGET), DiceCELoss()(LOGITS, TARGET))
    assert DiceTopKLoss()(LOGITS, torch.full_like(TARGET, -1)).isfinite()
    with pytest.raises(ValueError, match="share"):
        DiceTopKLoss(share=0.0)


def test_tversky_is_monais_and_dice_at_equal_weights() -> None:
    theirs = TverskyLoss(
        include_background=False,
        to_onehot_y=True,
        softmax=True,
        alpha=0.3,
        beta=0.7,
        batch=True,
        smooth_nr=1e-5,
        smooth_dr=1e-5,
    )
    torch.testing.assert_close(TverskyCELoss(ce_weight=0.0)(LOGITS, TARGET), theirs(LOGITS, TARGET))
    equal = TverskyCELoss(alpha=0.5, beta=0.5)(LOGITS, TARGET)
    torch.testing.assert_close(equal, DiceCELoss()(LOGITS, TARGET), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [CELoss, DiceFocalLoss, DiceTopKLoss, TverskyCELoss])
def test_a_label_that_was_not_annotated_costs_nothing_where_it_is_found(kind: type[DiceCELoss]) -> None:
    target = torch.zeros(1, 1, 4, 4, 4, dtype=torch.long)
    present = torch.tensor([[True, True, False]])
    sure = torch.zeros(1, 3, 4, 4, 4)
    sure[:, 2] = 30.0
    assert kind()(sure, target, present) < 1e-3
    assert kind()(sure, target) > 1
