"""Several networks in one pass over the windows: folds of one model, or different networks on one grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .mirroring import Runner

COMBINE = ("logits", "probabilities")


def averaged(runners: Sequence[Runner], combine: str = "logits") -> Runner:
    """The mean of several runners.

    Args:
        runners: each (B, C, X, Y, Z) -> (B, K, X, Y, Z), with the same K.
        combine: `logits` (folds of one network, as nnU-Net does) or `probabilities` (different networks, whose logits
            have different scales); then mean probabilities are returned, whose order of classes is what counts.
    """
    if combine not in COMBINE:
        raise ValueError(f"combine={combine!r}: expected one of {', '.join(COMBINE)}")
    if not runners:
        raise ValueError("an ensemble of no networks; expected at least one")
    if len(runners) == 1:
        return runners[0]

    def mean(windows: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor | None = None
        for run in runners:
            logits = run(windows).float()
            part = logits if combine == "logits" else torch.softmax(logits, dim=1)
            if total is None:
                total = part.clone() if combine == "logits" else part
            elif total.shape != part.shape:
                raise ValueError(f"networks of an ensemble differ: {total.shape[1]} and {part.shape[1]} classes")
            else:
                total.add_(part)
        assert total is not None
        return total.div_(len(runners))

    return mean
