"""Loss, optimizer and changes of crops as a configuration names them: by name, by name with settings, or as a component."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from medseg.errors import ConfigError, nearest
from medseg.losses import LOSSES, DiceBCELoss, OtherLoss
from medseg.own_parts import Parts
from medseg.transforms.crops.recipes import RECIPES, Recipe, build_recipe

Loss = str | Mapping[str, Any] | nn.Module


def make_loss(loss: Loss, regions: Sequence[Sequence[int]] = (), project: str | None = None) -> nn.Module:
    """A loss, told of the regions where there are any.

    Args:
        loss: a name of `LOSSES`, of the project or of an installed package; {"name": name, setting: value}; or a module.
        regions: label values that each output unites.
        project: package of the user's own parts.

    Raises:
        ConfigError: an unknown name or setting, or regions with a loss of labels that exclude each other.
    """
    if isinstance(loss, nn.Module):
        return loss if type(loss) in _ours() else OtherLoss(loss, regions)
    settings = {} if isinstance(loss, str) else {key: value for key, value in loss.items() if key != "name"}
    name = loss if isinstance(loss, str) else str(loss.get("name", "dice_ce"))
    known = Parts("losses", LOSSES, project)
    if name not in known:
        raise ConfigError(f"unknown loss {name!r}. {nearest(name, known)}")
    if name in LOSSES and regions and name != "dice_bce":
        raise ConfigError(f"loss {name!r} cannot learn overlapping regions; set train::module::loss=dice_bce")
    try:
        made = DiceBCELoss(regions, **settings) if name == "dice_bce" and regions else known[name](**settings)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"loss {name!r} cannot be made: {error}") from error
    return made if name in LOSSES else OtherLoss(made, regions)


def _ours() -> set[Any]:
    return {kind for kind in LOSSES.values() if isinstance(kind, type)}


def make_optimizer_of(
    choice: Callable[..., torch.optim.Optimizer], groups: list[dict[str, Any]], learning_rate: float
) -> torch.optim.Optimizer:
    """An optimizer of the user's own: called with the groups of parameters, and the learning rate unless it has one.

    Raises:
        ConfigError: it cannot be made, or what is made is no optimizer.
    """
    given = getattr(choice, "keywords", {})
    name = getattr(getattr(choice, "func", choice), "__name__", "optimizer")
    try:
        made = choice([dict(group) for group in groups], **({} if "lr" in given else {"lr": learning_rate}))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"train::module::optimizer: {name} cannot be made: {error}") from error
    if not isinstance(made, torch.optim.Optimizer):
        raise ConfigError(f"train::module::optimizer: {name} makes a {type(made).__name__}, expected an optimizer")
    return made


@dataclass(frozen=True)
class Augmentation:
    """How training crops change.

    Args:
        recipe: of medseg's own changes.
        transform: of the user's own; called with {"image": (C, *crop) float32, "label": (1, *crop) int64}, gives the same.
    """

    recipe: Recipe
    transform: Callable[[dict[str, torch.Tensor]], Mapping[str, torch.Tensor]] | None = None

    def changed(self, sample: dict[str, torch.Tensor], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Image and label after the user's own changes, whose random numbers come from `seed` where it lets them.

        Raises:
            ConfigError: what it gives is no crop of that size.
        """
        if self.transform is None:
            return sample["image"], sample["label"]
        if hasattr(self.transform, "set_random_state"):
            self.transform.set_random_state(seed=seed % 2**32)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = self.transform(dict(sample))
        for name, before in sample.items():
            after = made[name] if isinstance(made, Mapping) and name in made else None
            if not isinstance(after, torch.Tensor) or after.shape != before.shape:
                found = tuple(after.shape) if isinstance(after, torch.Tensor) else type(after).__name__
                raise ConfigError(
                    f"augmentation {type(self.transform).__name__}: gave {found} for {name!r}, expected a tensor of "
                    f"{tuple(before.shape)}"
                )
        return torch.as_tensor(made["image"]), torch.as_tensor(made["label"])


def choose_augmentation(settings: Any, project: str | None = None) -> Augmentation:
    """What `train::dataset::augmentation` says.

    Args:
        settings: {"preset": name, setting: value}, or a transform.
        project: package of the user's own parts.

    Raises:
        ConfigError: an unknown name or setting.
    """
    if callable(settings):
        return Augmentation(RECIPES["none"], settings)
    changes = dict(settings or {})
    name = str(changes.pop("preset", "default"))
    if name in RECIPES:
        return Augmentation(build_recipe(name, **changes))
    known = Parts("augmentations", RECIPES, project)
    if name not in known:
        raise ConfigError(f"augmentation preset {name!r} does not exist. {nearest(name, known)}")
    part = known[name]
    if isinstance(part, Recipe):
        return Augmentation(build_recipe(part, **changes))
    changes = {key: value for key, value in changes.items() if key not in ("spacing", "mirror_axes", "mirror")}
    try:
        return Augmentation(RECIPES["none"], part(**changes))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"augmentation {name!r} cannot be made: {error}") from error
