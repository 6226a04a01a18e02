"""Losses, optimizers and augmentation by name, by name with settings, and as objects of other libraries."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import monai.losses
import monai.transforms
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medseg.errors import ConfigError
from medseg.losses import DeepSupervisionLoss, DiceFocalLoss
from medseg.training.chosen_parts import choose_augmentation, make_loss, make_optimizer_of
from medseg.training.module import SegmentationModule, scales_of
from medseg.training.optimization import make_optimizer
from medseg.transforms.crops.recipes import RECIPES

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(2, 3, 6, 4, 4, generator=GENERATOR)
TARGET = torch.randint(0, 3, (2, 1, 6, 4, 4), generator=GENERATOR)


def test_a_loss_takes_its_settings_by_name() -> None:
    made = make_loss({"name": "dice_focal", "gamma": 3.0})
    torch.testing.assert_close(made(LOGITS, TARGET), DiceFocalLoss(gamma=3.0)(LOGITS, TARGET))
    with pytest.raises(ConfigError, match="Did you mean dice_focal"):
        make_loss("dice_focl")
    with pytest.raises(ConfigError, match="gama"):
        make_loss({"name": "dice_focal", "gama": 3.0})
    with pytest.raises(ConfigError, match="loss=dice_bce"):
        make_loss("focal", [[1, 2], [2]])


def test_a_loss_of_monai_or_torch_gives_the_value_that_it_gives_there_also_under_deep_supervision() -> None:
    theirs = monai.losses.DiceFocalLoss(softmax=True, to_onehot_y=True)
    ours = make_loss(theirs)
    torch.testing.assert_close(ours(LOGITS, TARGET), theirs(LOGITS, TARGET))
    torch.testing.assert_close(make_loss(nn.CrossEntropyLoss())(LOGITS, TARGET), F.cross_entropy(LOGITS, TARGET[:, 0]))
    coarse = LOGITS[..., ::2, ::2, ::2]
    by_hand = (2 * ours(LOGITS, TARGET) + ours(coarse, TARGET[..., 1::2, 1::2, 1::2])) / 3
    torch.testing.assert_close(DeepSupervisionLoss(ours)([LOGITS, coarse], TARGET), by_hand)


def test_a_loss_of_others_is_told_of_undeclared_labels_by_the_logits_and_refuses_ignored_voxels() -> None:
    ours = make_loss(nn.CrossEntropyLoss())
    target, sure = torch.zeros_like(TARGET), torch.zeros_like(LOGITS)
    sure[:, 2] = 30.0
    assert ours(sure, target, torch.tensor([[True, True, False]] * 2)) < 1e-3
    with pytest.raises(ConfigError, match="loss=dice_ce"):
        ours(LOGITS, torch.full_like(TARGET, -1))


def test_a_loss_of_others_gets_masks_where_there_are_regions() -> None:
    theirs = nn.BCEWithLogitsLoss()
    regions = [[1, 2], [2]]
    truth = torch.cat([TARGET > 0, TARGET == 2], dim=1).float()
    torch.testing.assert_close(make_loss(theirs, regions)(LOGITS[:, :2], TARGET), theirs(LOGITS[:, :2], truth))


def test_a_loss_that_takes_present_gets_everything() -> None:
    class Knowing(nn.Module):
        def forward(self, logits: Tensor, target: Tensor, present: Tensor | None = None) -> Tensor:
            return logits.sum() * 0 + target.sum() + (0 if present is None else present.sum())

    declared = torch.ones(2, 3, dtype=torch.bool)
    target = torch.full_like(TARGET, -1)
    assert make_loss(Knowing())(LOGITS, target, declared) == target.sum() + 6


def test_an_optimizer_of_the_user_gets_the_groups_and_the_learning_rate() -> None:
    groups: list[dict[str, Any]] = [{"params": [nn.Parameter(torch.zeros(2))], "weight_decay": 0.5}]
    made = make_optimizer(groups, name=torch.optim.RAdam, learning_rate=0.3, weight_decay=0.5)
    assert isinstance(made, torch.optim.RAdam)
    assert (made.param_groups[0]["lr"], made.param_groups[0]["weight_decay"]) == (0.3, 0.5)
    own_rate = functools.partial(torch.optim.RMSprop, lr=0.1, alpha=0.5)
    assert make_optimizer_of(own_rate, groups, 0.3).param_groups[0]["lr"] == 0.1
    with pytest.raises(ConfigError, match="bogus"):
        make_optimizer_of(functools.partial(torch.optim.RMSprop, bogus=1), groups, 0.3)


def sample() -> dict[str, Tensor]:
    return {"image": torch.randn(1, 6, 6, 6, generator=GENERATOR), "label": torch.ones(1, 6, 6, 6, dtype=torch.int64)}


def test_augmentation_of_monai_changes_the_crop_and_is_drawn_from_the_seed() -> None:
    chosen = choose_augmentation(monai.transforms.RandGaussianNoised(keys="image", prob=1.0))
    assert chosen.recipe == RECIPES["none"]
    crop = sample()
    first, label = chosen.changed(crop, 5)
    again, _ = chosen.changed(crop, 5)
    other, _ = chosen.changed(crop, 6)
    torch.testing.assert_close(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, crop["image"])
    assert torch.equal(label, crop["label"])


def test_augmentation_that_gives_another_size_is_told() -> None:
    def halved(crop: dict[str, Tensor]) -> Mapping[str, Tensor]:
        return {name: value[:, ::2] for name, value in crop.items()}

    with pytest.raises(ConfigError, match=r"\(1, 3, 6, 6\)"):
        choose_augmentation(halved).changed(sample(), 0)


def test_a_network_without_scales_gives_what_it_gives_when_called() -> None:
    network = nn.Conv3d(1, 2, 1)
    image = torch.randn(1, 1, 4, 4, 4)
    assert [tuple(scale.shape) for scale in scales_of(network, image)] == [(1, 2, 4, 4, 4)]


def test_the_weights_of_coarse_scales_are_a_setting_of_the_module() -> None:
    network, inferer = torch.nn.Conv3d(1, 2, 1), torch.nn.Identity()
    assert SegmentationModule(network, {0: "background", 1: "ball"}, inferer).loss.decay == 0.5
    made = SegmentationModule(network, {0: "background", 1: "ball"}, inferer, deep_supervision=0.25)
    assert made.loss.decay == 0.25
