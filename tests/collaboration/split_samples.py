"""A tiny split training whose sites live in this process, and the same network in one piece."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch

from medseg.collaboration.cut import Defence
from medseg.collaboration.image_site import ImageSite
from medseg.collaboration.label_site import LabelSite
from medseg.collaboration.patient_files import find_patients
from medseg.collaboration.site_images import SiteImages
from medseg.collaboration.split_settings import SplitSettings
from medseg.losses import DeepSupervisionLoss
from medseg.networks import no_weight_decay
from medseg.training.chosen_parts import make_loss
from medseg.training.optimization import make_optimizer, parameter_groups
from tests.volumes import ball

ROI = [8, 8, 8]
STRIDES = [[1] * 3, [2] * 3, [2] * 3, [1] * 3, [1] * 3]  # the last two levels stay at 2 voxels a side
PATIENTS = ("p0", "p1", "p2")


def make_patients(folder: Path, channels: Sequence[str], *, label: str, grids: Mapping[str, int] | None = None) -> Path:
    """One folder per patient: `CHANNEL_image.nii.gz`, each of its own size, and `LABEL_mask.nii.gz`; a ball in noise."""
    for number, name in enumerate(PATIENTS):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for place, channel in enumerate(channels):
            size = (grids or {}).get(channel, 20)
            affine = np.diag([20 / size, 20 / size, 20 / size, 1.0])
            inside = ball((size,) * 3, size / 4, [size / 2 + number] * 3)
            image = inside * (place + 1.0) + np.random.default_rng([number, place]).normal(0, 0.3, (size,) * 3)
            nibabel.save(
                nibabel.Nifti1Image(image.astype(np.float32), affine), folder / name / f"{channel}_image.nii.gz"
            )
            if channel == label:
                nibabel.save(
                    nibabel.Nifti1Image(inside.astype(np.uint8), affine), folder / name / f"{channel}_mask.nii.gz"
                )
    return folder


def settings_of(
    sites: Sequence[str], sent: Mapping[str, list[int]], *, steps: int = 20, **module: Any
) -> SplitSettings:
    """Each site brings one channel; the last one has the labels."""
    network = {
        "_target_": "medseg.components.build_split_network", "sites": dict.fromkeys(sites, 1), "sent": dict(sent),
        "preset": "resenc_unet", "spatial_dims": 3, "out_channels": 2, "strides": STRIDES,
    }  # fmt: skip
    config = {
        "network_def": network,
        "preprocessing_def": {"spacing": [1.0] * 3, "normalization": [{"kind": "zscore"}] * len(sites), "orientation": "RAS"},
        "labels": {"0": "background", "1": "ball"}, "regions": [], "roi_size": ROI, "batch_size": 2, "seed": 0,
        "max_epochs": 1, "steps_per_epoch": steps,
        "train": {"module": {"loss": "dice_ce", **module}, "dataset": {"augmentation": {"preset": "default"}}},
    }  # fmt: skip
    return SplitSettings(config, dict.fromkeys(sites, 1), dict(sent), sites[-1])


def sites_of(
    settings: SplitSettings,
    data: Path,
    *,
    wire: str = "float32",
    folders: Path | None = None,
    defence: Defence | None = None,
) -> tuple[LabelSite, dict[str, ImageSite]]:
    """The sites, each with its own images; with `folders` they keep their states there."""
    place = {name: None if folders is None else folders / name for name in settings.sites}
    for folder in place.values():
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    label_name = settings.label_site
    cases = find_patients(data, [label_name], labels=True)
    label = LabelSite(cases, settings, PATIENTS, wire=wire, folder=place[label_name])
    others = {
        name: ImageSite(
            name, SiteImages(find_patients(data, [name]), settings.place(name)), settings, wire=wire, defence=defence,
            folder=place[name],
        )
        for name in settings.sites if name != label_name
    }  # fmt: skip
    return label, others


def one_piece(label: LabelSite, others: Mapping[str, ImageSite]) -> tuple[dict[str, torch.Tensor], list[float]]:
    """The same steps by one network with one optimizer in one loop; returns weights and losses."""
    settings = label.settings
    network = settings.network()
    groups = parameter_groups(network, settings.optimizer["weight_decay"], no_weight_decay(network))
    optimizer = make_optimizer(groups, **settings.optimizer)
    loss_of, losses = DeepSupervisionLoss(make_loss("dice_ce")), []
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.optimizer["learning_rate"] * settings.rate(step)
        crops = label.crops(step)
        own, target = label.batch(crops)
        image = torch.cat([others[n].images.batch(crops) if n in others else own for n in settings.sites], dim=1)
        loss = loss_of(network.forward_scales(image), target, None)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
    return network.state_dict(), losses


def whole_of(label: LabelSite, others: Mapping[str, ImageSite]) -> dict[str, torch.Tensor]:
    """Weights of all sites under the names of the whole network."""
    state = dict(label.network.state_dict())
    for name, other in others.items():
        state |= {f"encoder.sites.{name}.{key}": value for key, value in other.encoder.state_dict().items()}
    return state
