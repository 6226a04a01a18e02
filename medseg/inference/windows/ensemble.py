"""Several networks in one pass over the windows: folds of one model, or different networks on one grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .confidence import Votes
from .mirroring import Runner

COMBINE = ("logits", "probabilities", "apart")


class AveragedNetwork(torch.nn.Module):
    """Mean of the logits of several networks: (B, C, X, Y, Z) -> (B, K, X, Y, Z)."""

    def __init__(self, networks: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.networks = torch.nn.ModuleList(networks)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(1)
        for number, network in enumerate(self.networks):  # as `averaged` does, in words that TorchScript knows
            logits = network(image).float()
            total = logits if number == 0 else total + logits
        return total / len(self.networks)


def averaged(
    runners: Sequence[Runner], combine: str = "logits", *, regions: bool = False, votes: Votes | None = None
) -> Runner:
    """The mean of several runners.

    Args:
        runners: each (B, C, X, Y, Z) -> (B, K, X, Y, Z), with the same K.
        combine: `logits` (folds of one network, as nnU-Net does) or `probabilities` (different networks, whose logits
            have different scales); then mean probabilities are returned, whose order of classes is what counts. With
            `apart` nothing is averaged: the logits follow one another, (B, members * K, X, Y, Z).
        regions: overlapping regions, one sigmoid each; mean probabilities are returned as logits, so that 0 stays the limit.
        votes: counts where the runners' labels agree.
    """
    if combine not in COMBINE:
        raise ValueError(f"combine={combine!r}: expected one of {', '.join(COMBINE)}")
    if not runners:
        raise ValueError("an ensemble of no networks; expected at least one")
    if len(runners) == 1:
        return runners[0]
    if combine == "apart":
        return lambda windows: torch.cat([run(windows) for run in runners], dim=1)

    def mean(windows: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor | None = None
        passes = []
        for run in runners:
            logits = run(windows).float()
            if votes is not None:
                passes.append(logits.argmax(1))
            if combine == "logits":
                part = logits
            else:
                part = torch.sigmoid(logits) if regions else torch.softmax(logits, dim=1)
            if total is None:
                total = part.clone() if combine == "logits" else part
            elif total.shape != part.shape:
                raise ValueError(f"networks of an ensemble differ: {total.shape[1]} and {part.shape[1]} classes")
            else:
                total.add_(part)
        assert total is not None
        if votes is not None:
            votes.count(passes, total.shape[1])
        mean_value = total.div_(len(runners))
        # kept off 0 and 1: an infinite logit would stop the prediction
        return torch.logit(mean_value, eps=1e-6) if regions and combine == "probabilities" else mean_value

    return mean
