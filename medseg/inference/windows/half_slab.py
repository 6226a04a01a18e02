"""nnU-Net's arithmetic for imported networks: sums, division and resampled logits are each rounded to float16.

Near boundaries many voxels have two logits that float16 cannot tell apart; nnU-Net then takes the lower label, float32
the larger logit. That is 0.1 to 0.4 % of all voxels, and nothing else differs: with its two accumulators changed to float32,
nnU-Net's labels are ours voxel by voxel. To give the labels that the network's owner knows, every rounding is repeated.

Source: nnunetv2 2.8, `predict_from_raw_data.py` and `default_resampling.py` (behaviour only).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from medseg_kernels import AxisTable, stitch_labels, stitch_logits

from .slab import Slab, Start, WindowPlan


class HalfSlab(Slab):
    """A slab of float16 whose planes are divided by their weights, in float16, when they are complete.

    Args:
        classes: outputs of all networks together, `members` times K.
        plan: of the windows.
        weights: importance map of one window.
        planes, device: as in `Slab`.
        members: networks whose logits follow one another; their means are taken after blending, as nnU-Net takes them.
    """

    def __init__(
        self,
        classes: int,
        plan: WindowPlan,
        weights: torch.Tensor,
        *,
        planes: int | None = None,
        device: torch.device | str = "cpu",
        members: int = 1,
    ) -> None:
        super().__init__(classes, plan, weights, planes=planes, dtype=torch.float16, device=device, absolute=True)
        self.members = members
        self.divided = 0  # planes below this one hold logits, not sums

    @property
    def classes(self) -> int:
        return int(self.values.shape[0]) // self.members

    def add(self, logits: torch.Tensor, start: Start) -> None:
        """Add one window; the sum of the weights is rounded as well."""
        super().add(logits, start)
        axis = self.plan.axis
        box = [slice(first, first + size) for first, size in zip(start, self.plan.roi, strict=True)]
        for at, count in self._runs(start[axis], start[axis] + self.plan.roi[axis]):
            box[axis] = slice(at, at + count)
            self.weight[tuple(box)] = self.weight[tuple(box)].half().float()

    def complete(self, upto: int) -> None:
        """Divide the planes below `upto`, and take the mean of the members."""
        axis = self.plan.axis
        for at, count in self._runs(self.divided, min(upto, self.plan.shape[axis])):
            sums, weight = self.values.narrow(axis + 1, at, count), self.weight.narrow(axis, at, count).half()
            torch.div(sums, weight, out=sums)
            if self.members > 1:
                mean = sums[: self.classes]
                for member in range(1, self.members):
                    mean += sums[member * self.classes : (member + 1) * self.classes]
                mean /= self.members
        self.divided = max(self.divided, upto)

    def labels(self, tables: Sequence[AxisTable]) -> torch.Tensor:
        """As `Slab.labels`, of planes that are complete."""
        return stitch_labels(self.values[: self.classes], None, *tables, rounded=True).cpu()

    def logits(self, tables: Sequence[AxisTable]) -> torch.Tensor:
        """As `Slab.logits`, of planes that are complete."""
        return stitch_logits(self.values[: self.classes], None, *tables).cpu()
