"""A site's part of a split network with its optimizer, its state after every step, and the file it ends as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medseg.config import read_json
from medseg.errors import BundleError
from medseg.io.atomic import atomic_path, write_json
from medseg.layout import SiteFolder
from medseg.networks import no_weight_decay
from medseg.training.optimization import make_optimizer, parameter_groups

from .split_settings import SplitSettings

KEPT = 2  # states of the last steps: sites that died between two replies have one of them in common


@dataclass(frozen=True)
class Training:
    """Which training a site's states and half are of.

    Args:
        mark: equal for two jobs of which one goes on where the other ended.
        cases: patients that train.
        overwrite: forget another training that is there.
    """

    mark: str
    cases: tuple[str, ...]
    overwrite: bool = False


class Half:
    """A part of the network with its optimizer, and its state after each step.

    Args:
        part: what is trained here.
        settings: see `SplitSettings`.
        folder: of the site; None keeps no states.
    """

    def __init__(self, part: nn.Module, settings: SplitSettings, folder: Path | None) -> None:
        self.part, self.settings, self.folder = part, settings, folder
        groups = parameter_groups(part, settings.optimizer["weight_decay"], no_weight_decay(part))
        self.optimizer = make_optimizer(groups, **settings.optimizer)
        self.done = 0  # steps
        self.every = 1  # steps between two states that are kept
        self.training: Training | None = None  # which one this is, to be noted beside the states

    def claim(self) -> None:
        """Note which training the states are of; those of another one are not gone on from.

        Raises:
            BundleError: another training's states or half are there.
        """
        if self.folder is None or self.training is None:
            return
        place = SiteFolder(self.folder)
        known = read_json(place.training) if place.training.is_file() else {}
        others = [place.state / f"step_{step}.pt" for step in self.kept()]
        others += [place.half] if known and place.half.is_file() else []
        if known.get("training") != self.training.mark and others:
            if not self.training.overwrite:
                raise BundleError(
                    f"site {self.folder.name!r} holds another training, of other patients (--fold) or settings; plan a bundle "
                    "of its own for this one, or give --overwrite, which forgets that one"
                )
            for path in others:
                path.unlink()
        place.state.mkdir(parents=True, exist_ok=True)
        write_json(place.training, {"training": self.training.mark, "cases": sorted(self.training.cases)})

    def update(self, step: int) -> None:
        """Change the weights by the gradients that lie on them, keep the state."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.optimizer["learning_rate"] * self.settings.rate(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.done = step + 1

    def keep(self, **more: Any) -> None:
        """Write the state after the last whole step where its turn has come, and forget old ones."""
        if self.folder is None or (self.done % self.every and self.done < self.settings.steps):
            return
        place = SiteFolder(self.folder).state
        place.mkdir(parents=True, exist_ok=True)
        state = {"part": self.part.state_dict(), "optimizer": self.optimizer.state_dict(), **more}
        with atomic_path(place / f"step_{self.done}.pt") as temporary:
            torch.save(state, temporary)
        for step in self.kept()[:-KEPT]:
            (place / f"step_{step}.pt").unlink(missing_ok=True)

    def kept(self) -> list[int]:
        """Steps whose state is there."""
        if self.folder is None:
            return []
        numbers = (path.stem.removeprefix("step_") for path in SiteFolder(self.folder).state.glob("step_*.pt"))
        return sorted(int(number) for number in numbers if number.isdigit())

    def restore(self, step: int) -> dict[str, Any]:
        """Go back to the state after so many steps, and forget later ones; 0 is the beginning."""
        if step == 0 or self.folder is None:
            return {}
        place = SiteFolder(self.folder).state
        state = torch.load(place / f"step_{step}.pt", weights_only=True)
        self.part.load_state_dict(state["part"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.done = step
        for later in self.kept():
            if later > step:
                (place / f"step_{later}.pt").unlink()
        return dict(state)


def trained_cases(folder: Path) -> list[str]:
    """Patients that the states and the half of a site have learnt from; empty where that was not noted."""
    path = SiteFolder(folder).training
    return [str(name) for name in read_json(path)["cases"]] if path.is_file() else []


def write_half(folder: Path, state: Mapping[str, Tensor], steps: int) -> None:
    """Write a site's own part of the network."""
    with atomic_path(SiteFolder(folder).half) as temporary:
        torch.save(
            {"state": {name: value.detach().cpu().clone() for name, value in state.items()}, "steps": steps}, temporary
        )


def read_half(folder: Path) -> tuple[dict[str, Tensor], int]:
    """State dict and steps of a site's half. Raises BundleError where there is none."""
    path = SiteFolder(folder).half
    if not path.is_file():
        raise BundleError(f"{folder}: has no {path.name}; train with `medseg split run` first")
    content = torch.load(path, weights_only=True)
    return dict(content["state"]), int(content["steps"])
