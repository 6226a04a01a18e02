"""A 16-bit slab gives the labels of a 32-bit one."""

from __future__ import annotations

import numpy as np
import torch

from medseg.inference.windows.places import importance_map
from medseg.inference.windows.slab import ProbabilityMap, Slab, Target, plan_windows, stream_labels
from medseg.transforms.grid import make_grid_map

SHAPE, ROI = (20, 14, 12), (8, 8, 8)


def labels_and_probabilities(dtype: torch.dtype, *, absolute: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """105 classes whose logits lie close together at a large value, on a finer source grid."""
    torch.manual_seed(0)
    field = 40 + 0.05 * torch.randn(105, *SHAPE)
    plan = plan_windows(SHAPE, ROI, (0.5, 0.5, 0.5))
    grid = make_grid_map([n * 3 // 2 for n in SHAPE], np.eye(4), spacing=[1.5] * 3)
    assert grid.shape == SHAPE

    def logits_of(starts: tuple[tuple[int, int, int], ...]) -> torch.Tensor:
        boxes = [tuple(slice(a, a + n) for a, n in zip(start, ROI, strict=True)) for start in starts]
        return torch.stack([field[(slice(None), *box)] for box in boxes])

    def make_slab(classes: int) -> Slab:
        return Slab(classes, plan, importance_map(ROI), dtype=dtype, absolute=absolute)

    kept = ProbabilityMap()
    labels = stream_labels(plan, Target.whole(grid, plan), logits_of, make_slab, watchers=[kept])
    assert kept.values is not None
    return labels, kept.values


def test_sixteen_bits_give_the_labels_of_thirty_two() -> None:
    exact, probabilities = labels_and_probabilities(torch.float32)
    half, half_probabilities = labels_and_probabilities(torch.float16)
    plain, _ = labels_and_probabilities(torch.float16, absolute=True)
    assert (half == exact).mean() >= 0.999
    assert np.abs(half_probabilities.astype(np.float32) - probabilities).max() < 1e-4
    assert (plain == exact).mean() < 0.99, "the case is too easy to show what relative values are for"
