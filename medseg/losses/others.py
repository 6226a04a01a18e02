"""Losses of other libraries, called as ours are: MONAI's and torch's take logits and a target, and know nothing of partial labels."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.errors import ConfigError

from .dice_ce import IGNORE, merge_undeclared
from .over_ranks import mean_of_processes


class OtherLoss(nn.Module):
    """`loss(logits, target)` of another library, or of the user, as `loss(logits, target, present)`.

    Args:
        loss: called with logits (B, K, *space), before softmax, and target (B, 1, *space); torch's own classes get the
            target as they want it, (B, *space). With regions: with logits and masks, both (B, R, *space). A loss whose
            `forward` takes `present` is called as ours are, and gets all that there is.
        regions: label values that each output unites.

    Raises:
        ConfigError: at a batch with voxels that nobody annotated, which such a loss would take for labels.
    """

    def __init__(self, loss: nn.Module, regions: Sequence[Sequence[int]] = ()) -> None:
        super().__init__()
        self.loss = loss
        self.regions = [tuple(int(value) for value in region) for region in regions]
        self.knows_all = "present" in inspect.signature(loss.forward).parameters
        self.of_torch = type(loss).__module__.startswith("torch.")

    def forward(self, logits: Tensor, target: Tensor, present: Tensor | None = None) -> Tensor:
        """A scalar; `target` and `present` as in `DiceCELoss`. With several processes it is the mean of what each has found."""
        return mean_of_processes(self._of_these(logits, target, present))

    def _of_these(self, logits: Tensor, target: Tensor, present: Tensor | None) -> Tensor:
        if self.knows_all:
            found: Tensor = self.loss(logits, target, present)
            return found
        name = type(self.loss).__name__
        if bool((target == IGNORE).any()):
            raise ConfigError(
                f"loss {name} cannot leave out voxels that were not annotated (ignore label); take one of medseg's, such as "
                "train::module::loss=dice_ce, or let its forward take `present`"
            )
        if self.regions:
            if present is not None and not bool(present.all()):
                raise ConfigError(f"loss {name} cannot leave out undeclared labels; take train::module::loss=dice_bce")
            masks = [sum(target == value for value in region) for region in self.regions]
            truth = torch.cat([torch.as_tensor(mask) for mask in masks], dim=1).to(logits.dtype)
            return torch.as_tensor(self.loss(logits.float(), truth))
        logits = logits.float() if present is None else merge_undeclared(logits.float(), present)
        return torch.as_tensor(self.loss(logits, target[:, 0].long() if self.of_torch else target))
