"""What both kinds of site read of a split bundle: train.json and `site.json`, nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from medseg.bundle.opening.parser import checked_config
from medseg.config import apply_overrides, read_config
from medseg.errors import BundleError, ConfigError
from medseg.layout import Layout
from medseg.networks.network import SegmentationNetwork, SiteEncoders
from medseg.tracking.determinism import seed_all
from medseg.training.optimization import schedule_factor
from medseg.transforms.preprocessing import Preprocessing

from .site_images import Place


@dataclass(frozen=True)
class SplitSettings:
    """A split training, the same at all sites.

    Args:
        config: train.json with the job's overrides.
        sites: site -> channels it brings, in the order of the whole image.
        sent: site -> levels that reach the decoder.
        label_site: has the labels and the decoder.
    """

    config: dict[str, Any]
    sites: dict[str, int]
    sent: dict[str, list[int]]
    label_site: str

    @property
    def steps(self) -> int:
        """In all."""
        return int(self.config["max_epochs"]) * int(self.config["steps_per_epoch"])

    @property
    def batch_size(self) -> int:
        return int(self.config["batch_size"])

    @property
    def epoch_length(self) -> int:
        """Crops per epoch."""
        return int(self.config["steps_per_epoch"]) * self.batch_size

    @property
    def seed(self) -> int:
        return int(self.config.get("seed", 0))

    @property
    def roi_size(self) -> tuple[int, ...]:
        return tuple(int(size) for size in self.config["roi_size"])

    @property
    def optimizer(self) -> dict[str, Any]:
        """Arguments of `make_optimizer`."""
        module = self.config["train"]["module"]
        return {
            "name": module.get("optimizer", "adamw"),
            "learning_rate": float(module.get("learning_rate", 1e-3)),
            "weight_decay": float(module.get("weight_decay", 0.01)),
        }

    def rate(self, step: int) -> float:
        """Factor of the learning rate at a step."""
        module = self.config["train"]["module"]
        factor = schedule_factor(
            module.get("schedule", "poly"), total_steps=self.steps, warmup_steps=int(module.get("warmup_steps", 0))
        )
        return factor(step)

    def network(self) -> SegmentationNetwork:
        """The whole network with its first weights, from the seed: each site keeps its part."""
        seed_all(self.seed)
        network = checked_config({"network_def": dict(self.config["network_def"])}, Path("train.json")).get(
            "network_def"
        )
        if not isinstance(network.encoder, SiteEncoders):
            raise BundleError("the network of this bundle has no encoder per site; write it with `medseg split plan`")
        return network

    def place(self, site: str) -> Place:
        """How a site cuts crops of its own channels."""
        if site not in self.sites:
            raise ConfigError(f"site {site!r} is none of this bundle's: {', '.join(self.sites)}")
        names = list(self.sites)
        first = sum(self.sites[name] for name in names[: names.index(site)])
        recipe = self.config["preprocessing_def"]
        own = Preprocessing(
            recipe["spacing"], recipe["normalization"][first : first + self.sites[site]], recipe["orientation"]
        )
        augmentation = self.config["train"]["dataset"]["augmentation"]
        total = sum(self.sites.values())
        return Place(first, self.sites[site], total, own, self.roi_size, augmentation, self.seed)


def encoders_of(network: SegmentationNetwork) -> nn.ModuleDict:
    """site -> encoder."""
    sites = network.encoder.sites
    assert isinstance(sites, nn.ModuleDict)
    return sites


def read_settings(folder: Path, label_site: str, overrides: Mapping[str, Any] | None = None) -> SplitSettings:
    """The settings in a bundle's, or a site's, train.json.

    Args:
        folder: of either.
        label_site: the one with the labels, as `collaboration.json` or the job names it; a site that was asked for full
            resolution sends as many levels as that one keeps.
        overrides: "key::path" -> value of train.json.

    Raises:
        BundleError: it was not planned with `medseg split plan`.
    """
    layout = Layout(folder)
    if not layout.train.is_file():
        raise BundleError(f"{folder} has no configs/train.json; is it a bundle that `medseg split plan` wrote?")
    config = apply_overrides(read_config([layout.train]), dict(overrides or {}))
    definition = config.get("network_def", {})
    if "sites" not in definition:
        raise BundleError(f"{folder} was not planned for split training; write such a bundle with `medseg split plan`")
    sites = {name: int(count) for name, count in definition["sites"].items()}
    sent = {name: [int(level) for level in levels] for name, levels in definition["sent"].items()}
    if label_site not in sites:
        raise BundleError(
            f"{folder}: the label site {label_site!r} is none of its sites {', '.join(sites)}; plan again"
        )
    return SplitSettings(config, sites, sent, label_site)
