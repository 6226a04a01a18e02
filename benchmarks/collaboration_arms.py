"""Trainings on the sarcoma patients for benchmarks/collaboration.py: across the sites, pooled in one place, and one site alone.

All three take the same crops, seeds, steps and optimizer, and predict the same unseen patients on the grid of the PET image.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medseg.collaboration.across import predict_across
from medseg.collaboration.cut import Defence
from medseg.collaboration.exchange import begin, train
from medseg.collaboration.half import Half
from medseg.collaboration.image_site import ImageSite
from medseg.collaboration.label_site import LabelSite
from medseg.collaboration.leakage import Attack, attack_site
from medseg.collaboration.opening import open_image_site, open_label_site
from medseg.collaboration.site_images import Crop
from medseg.collaboration.split_settings import SplitSettings, encoders_of
from medseg.commands.split import run_split, split_job
from medseg.commands.split_leakage import map_dice, mean_dice
from medseg.commands.split_plan import WantedSplit, plan_split
from medseg.config import read_json
from medseg.io.atomic import write_json
from medseg.layout import Layout
from medseg.planning.folds import read_splits

SITES = {"ct": ["CT"], "mr": ["MR_T1"], "pet": ["PET"]}
LABEL_SITE = "pet"
SPACING = (1.95, 1.95, 6.54)  # mm: twice that of CT and MR; PET has 3.9 to 5.5 x 3.27
ROI = [32, 32, 8]
PRESET = "resenc_unet"


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Args:
        finest: level from which CT and MR send.
        defence: theirs.
        kind: `split`, `pooled` (all images in one place, joined at the first layer) or `alone` (the label site's only).
    """

    finest: int = 2
    defence: Defence = dataclasses.field(default_factory=Defence)
    kind: str = "split"


def planned(data: Path, folder: Path, arm: Arm, *, folds: int, steps: int) -> Path:
    """A split bundle with this benchmark's grid, crops and steps."""
    finest = {"finest_of": {"ct": 0, "mr": 0}} if arm.finest == 0 else {"finest": arm.finest}
    wanted = WantedSplit(preset=PRESET, folds=folds, defence=arm.defence, spacing=SPACING, **finest)  # type: ignore[arg-type]
    plan_split(data, SITES, LABEL_SITE, folder, wanted)
    layout = Layout(folder)
    for each in (folder, *(layout.site(name).folder for name in SITES)):
        own = Layout(each)
        words = {"roi_size": ROI, "batch_size": 2, "max_epochs": 1, "steps_per_epoch": steps}
        write_json(own.train, read_json(own.train) | words)
        write_json(own.inference, read_json(own.inference) | {"roi_size": ROI})
    return folder


def dice_of_arm(bundle: Path, arm: Arm, fold: int) -> dict[str, float]:
    """Train a fold of a planned bundle; unseen patient -> Dice."""
    for site in SITES:
        shutil.rmtree(Layout(bundle).site(site).state, ignore_errors=True)
    names = read_splits(bundle)[fold]["val"]
    if arm.kind == "split":
        run_split(bundle, fold=fold, here=True, keep_every=10**6)
        return mean_dice(bundle, names, fold)
    layout, job = split_job(bundle, {}, fold)
    split = open_label_site(layout.site(LABEL_SITE).folder, job)
    known = {n: open_image_site(layout.site(n).folder, job) for n in job.image_sites} if arm.kind == "pooled" else {}
    others: dict[str, Any] = {name: SendsImages(party) for name, party in known.items()}
    whole = OnePlace(split, job.cases, channels=1 + len(others))
    train(whole, others, begin(whole, others, job.cases))
    whole.half.folder = layout.site(LABEL_SITE).folder  # where its settings are read; no state is kept
    for other in others.values():
        other.geometry(whole.references(names))
    with tempfile.TemporaryDirectory() as output:
        made = predict_across(whole, others, names, Path(output))
        return {
            name: map_dice(path, whole.cases[name].label)  # type: ignore[arg-type]
            for name, path in zip(names, made, strict=True)
        }


def leaks_of(bundle: Path, site: str, level: int, attack: Attack, fold: int = 0) -> list[dict[str, Any]]:
    """The rows of one site and level, of a trained split bundle: under its defence where it has one, else without."""
    layout, job = split_job(bundle, {}, fold)
    splits = read_splits(layout.folder)[fold]
    label = open_label_site(layout.site(LABEL_SITE).folder, job)
    party = open_image_site(layout.site(site).folder, job)
    party.load()
    party.geometry(label.references([*splits["train"], *splits["val"]]))
    rows = attack_site(party, splits["train"], splits["val"], dataclasses.replace(attack, levels=(level,)))
    kept = [row for row in rows if row.defence == party.defence.words()]
    drop = ("original", "rebuilt")
    return [{key: value for key, value in dataclasses.asdict(row).items() if key not in drop} for row in kept]


class SendsImages:
    """A site that hands its images over: what pooling means."""

    def __init__(self, party: ImageSite) -> None:
        self.party = party

    def __getattr__(self, name: str) -> Any:
        return getattr(self.party, name)

    def forward(self, step: int, crops: list[dict[str, Any]]) -> list[Tensor]:
        return [self.party.images.batch([Crop(**{**crop, "center": tuple(crop["center"])}) for crop in crops])]

    def window(self, case: str, starts: list[list[int]], roi_size: list[int]) -> list[Tensor]:
        return [self.party.images.windows(case, starts, roi_size)]

    def backward(self, step: int, gradients: list[Tensor]) -> int:
        return step + 1

    def load(self) -> int:
        return 0

    finish = load


class OnePlace(LabelSite):
    """The label site with one encoder for all channels that are there.

    Args:
        split: the label site of the split bundle, whose grid, crops and settings are taken.
        training: patients.
        channels: its own, and one of every site that hands its images over.
    """

    def __init__(self, split: LabelSite, training: Sequence[str], channels: int) -> None:
        super().__init__(split.cases, split.settings, training)
        words = dict(self.settings.config["network_def"])
        levels = list(self.settings.sent[self.name])
        words |= {"sites": {self.name: channels}, "sent": {self.name: levels}}
        config = {**self.settings.config, "network_def": words}
        alone = SplitSettings(config, {self.name: channels}, {self.name: levels}, self.name)
        self.network = alone.network()
        self.half = Half(self.network, self.settings, None)

    def joined(self, image: Tensor, received: Any) -> list[Tensor]:
        whole = torch.cat([*(cut[0] for cut in received.values()), image], dim=1)
        encoder = self.network.encoder
        return list(encoder.join([encoders_of(self.network)[self.name](whole)]))  # type: ignore[operator]

    def load(self) -> None:
        """Nothing: the weights are here."""
