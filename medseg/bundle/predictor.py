"""From a bundle to what segments volumes. Importing this brings torch: callers check their inputs first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from medseg.cases.batch import Segmenter
from medseg.devices import choose_device
from medseg.errors import BundleError, ConfigError
from medseg.inference.predictor import Predictor
from medseg.inference.settings import PredictOptions
from medseg.inference.windows.ensemble import averaged
from medseg.transforms.postprocessing import Postprocessing

from .load import Bundle, load_bundle
from .low_resolution import locating, settings_of
from .weights import load_into, read_state_dict


def make_segmenter(
    bundle: Bundle, options: PredictOptions, *, cases: int = 1, probabilities: bool = False
) -> Segmenter:
    """The bundle's networks and settings as something that segments volumes."""
    if options.fast:
        settings_of(bundle)  # before weights are read
    if "preprocessing_def" not in bundle.config:
        return _foreign_segmenter(bundle, options)
    settings = bundle.inference_settings
    extra = bundle.plan.inference if bundle.plan is not None else {}
    mirror = settings["mirror_axes"] if options.mirror is None else options.mirror
    full = Predictor(
        bundle.networks(),
        bundle.preprocessing,
        bundle.roi_size,
        overlap=settings["overlap"] if options.overlap is None else options.overlap,
        # asking for a float32 slab asks for more precision than nnU-Net's own arithmetic
        accumulation="float32" if options.slab_type == "float32" else str(extra.get("accumulation", "float32")),
        sw_batch_size=options.window_batch or int(settings["sw_batch_size"]),
        mode=str(extra.get("importance", settings["mode"])),
        placement=str(extra.get("placement", "regular")),
        mirror_axes=mirror,
        label_values=bundle.label_values,
        regions=bundle.has_regions,
        device=choose_device(options.device),
        engine=options.engine,
        precision=options.precision,
        memory_limit=options.max_memory,
        slab_type=options.slab_type,
        cases=cases,
        keep_probabilities=probabilities,
        postprocessing=[Postprocessing(settings["postprocessing"])] if settings["postprocessing"] else (),
    )
    return locating(bundle, full) if options.fast else full


def _foreign_segmenter(bundle: Bundle, options: PredictOptions) -> Segmenter:
    """A bundle in the model zoo's layout that medseg did not write; its settings are its own.

    Raises:
        BundleError: it lacks what the layout asks for.
        ConfigError: an option that only our own bundles have.
    """
    from medseg.inference.foreign import MonaiSegmenter

    if options.overlap is not None or options.mirror or options.precision not in (None, "fp32"):
        raise ConfigError(
            f"{bundle.folder}: medseg did not write this bundle; set overlap, mirroring and precision in its inference.json"
        )
    config = bundle.config
    missing = [key for key in ("preprocessing", "inferer", "network_def") if key not in config]
    if missing:
        raise BundleError(f"{bundle.layout.inference}: has no {', '.join(missing)}, so it cannot predict volumes")
    values = sorted(bundle.labels)
    return MonaiSegmenter(
        bundle.network(),
        config.get("preprocessing"),
        config.get("postprocessing") if "postprocessing" in config else None,
        config.get("inferer"),
        device=choose_device(options.device),
        label_values=values,
    )


def make_fold_predictor(group: tuple[Bundle, ...], fold: int, device: Any) -> Predictor:
    """The networks of one fold of several bundles, averaged, with the settings of the first bundle."""
    networks = []
    for bundle in group:
        path = bundle.layout.fold_weights(fold)
        network = bundle.untrained_network()
        load_into(network, read_state_dict(path), path)
        networks.append(network.eval())
    settings = group[0].inference_settings
    return Predictor(
        networks,
        group[0].preprocessing,
        tuple(max(sizes) for sizes in zip(*(bundle.roi_size for bundle in group), strict=True)),
        overlap=settings["overlap"],
        sw_batch_size=int(settings["sw_batch_size"]),
        mode=str(settings["mode"]),
        mirror_axes=settings["mirror_axes"],
        label_values=group[0].label_values,
        regions=group[0].has_regions,
        device=device,
    )


class AveragedNetwork(torch.nn.Module):
    """Mean of the logits of several networks: (B, C, X, Y, Z) -> (B, K, X, Y, Z)."""

    def __init__(self, networks: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.networks = torch.nn.ModuleList(networks)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return averaged(list(self.networks))(image)


def averaged_network(bundle_root: str, device: torch.device | str = "cpu") -> AveragedNetwork:
    """The networks of a bundle with their weights, averaged: what `medseg predict` runs, for inference.json.

    Args:
        bundle_root: the bundle's folder.
        device: where to put them.

    Raises:
        BundleError: a weight file is missing or belongs to another network.
    """
    return AveragedNetwork(load_bundle(bundle_root).networks()).eval().to(device)
