"""From a bundle to what segments volumes. Importing this brings torch: callers check their inputs first."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.cases.batch import Segmenter
from medseg.devices import choose_device
from medseg.errors import BundleError, ConfigError
from medseg.inference.predictor import Predictor
from medseg.inference.settings import Execution, LabelSettings, PredictOptions
from medseg.inference.windows.ensemble import AveragedNetwork
from medseg.layout import Layout
from medseg.transforms.preprocessing import Preprocessing

from .configs.deciding import allowed_mirror_axes
from .load import Bundle, load_bundle
from .low_resolution import KEY, settings_of
from .weights import load_into, read_state_dict

_AVERAGED: ContextVar[tuple[Path, ...]] = ContextVar("bundles whose average is being built", default=())

if TYPE_CHECKING:
    import torch

    from medseg.inference.locate import LocatingPredictor


def make_segmenter(
    bundle: Bundle,
    options: PredictOptions,
    *,
    cases: int = 1,
    probabilities: bool = False,
    confidence: bool = False,
    temperature: float | None = None,
) -> Segmenter:
    """The bundle's networks and settings as something that segments volumes; what is kept beside labels: see `Execution`.

    Raises:
        ConfigError: an option that this bundle does not have, or mirroring that training did not have.
        BundleError: the bundle is broken, or asks for something that our predictor does not do.
    """
    if options.fast:
        settings_of(bundle)  # before weights are read
    if "preprocessing_def" not in bundle.config:
        return _foreign_segmenter(bundle, options)
    settings = asked_settings(bundle, options)
    execution = Execution(
        device=choose_device(options.device),
        engine=options.engine,
        precision=options.precision,
        sw_batch_size=options.window_batch or _window_batch(bundle),
        memory_limit=options.max_memory,
        slab_type=options.slab_type,
        cases=cases,
        keep_probabilities=probabilities,
        confidence=confidence,
        temperature=temperature,
    )
    full = Predictor(bundle.networks(options.fold), bundle.preprocessing, settings, execution)
    return _locating(bundle, full) if options.fast else full


def predictor_around(bundle: Bundle, network: torch.nn.Module, preprocessing: Preprocessing) -> Predictor:
    """A predictor with the bundle's settings for a network of another place: one whose features come from other sites."""
    execution = Execution(engine="eager", precision="fp32")
    return Predictor(network, preprocessing, asked_settings(bundle, PredictOptions()), execution)


def asked_settings(bundle: Bundle, options: PredictOptions) -> LabelSettings:
    """The bundle's settings with what a user asked for in their place.

    Raises:
        ConfigError: mirroring along an axis that training did not mirror.
    """
    settings = bundle.label_settings
    if options.mirror is not None:
        allowed = allowed_mirror_axes(bundle.config, bundle.plan)
        beyond = [axis for axis in options.mirror if axis not in allowed]
        if beyond:
            names = ", ".join("xyz"[axis] for axis in allowed) or "none"
            raise ConfigError(
                f"--mirror {'xyz'[beyond[0]]}: {bundle.name} was not trained with mirror images along that axis (inference.json: "
                f"allowed_mirror_axes); allowed: {names}"
            )
        settings = replace(settings, mirror_axes=tuple(options.mirror))
    if options.overlap is not None:
        settings = replace(settings, overlap=options.overlap)
    if options.slab_type == "float32":
        # asking for a float32 slab asks for more precision than nnU-Net's own arithmetic
        settings = replace(settings, accumulation="float32")
    return settings


def _window_batch(bundle: Bundle) -> int:
    key = "inferer::sw_batch_size"
    return int(bundle.config.get(key)) if key in bundle.config else 1


def _locating(bundle: Bundle, full: Predictor) -> LocatingPredictor:
    """The bundle's predictor behind its low-resolution network.

    Raises:
        BundleError: the key `low_resolution` or the weights are broken.
    """
    from medseg.inference.locate import MARGIN_MM, LocatingPredictor

    facts = settings_of(bundle)
    path = bundle.folder / str(facts["checkpoint"])
    if bundle.folder.resolve() not in path.resolve().parents:
        raise BundleError(f"{bundle.layout.inference}: {KEY}::checkpoint names {path}, which lies outside the bundle")
    network = bundle.config.build(f"{KEY}::network_def")
    load_into(network, read_state_dict(path), path)
    settings = LabelSettings(
        tuple(int(extent) for extent in facts["roi_size"]), overlap=float(facts.get("overlap", 0.25))
    )
    execution = replace(
        full.execution, sw_batch_size=1, slab_type="auto", keep_probabilities=False, confidence=False, temperature=None
    )
    coarse = Predictor(network.eval(), bundle.config.build(f"{KEY}::preprocessing_def"), settings, execution)
    return LocatingPredictor(coarse, full, margin_mm=float(facts.get("margin_mm", MARGIN_MM)), find=facts.get("find"))


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


def make_fold_predictor(group: tuple[Bundle, ...], fold: int, device: torch.device | str) -> Predictor:
    """The networks of one fold of several bundles, averaged, with all settings of the first bundle: as the choice ships.

    Post-processing is left out, since it is what cross-validation chooses.

    Raises:
        BundleError: the bundles work on different grids, so that their networks cannot be averaged.
    """
    for other in group[1:]:
        difference = grid_difference(group[0], other)
        if difference:
            raise BundleError(f"{group[0].name} and {other.name} cannot be averaged: {difference}")
    networks = []
    for bundle in group:
        path = bundle.layout.fold_weights(fold)
        network = bundle.network_of(path)
        load_into(network, read_state_dict(path), path)
        networks.append(network.eval())
    settings = replace(group[0].label_settings, postprocessing=())
    execution = Execution(device, sw_batch_size=_window_batch(group[0]), confidence=True)
    return Predictor(networks, group[0].preprocessing, settings, execution)


def grid_difference(first: Bundle, second: Bundle) -> str:
    """Why two bundles' networks cannot be averaged window by window; an empty text when they can."""
    sides: list[dict[str, Any]] = [
        {
            "preprocessing": bundle.preprocessing.to_dict(),
            "outputs": bundle.label_settings.label_values,
            "regions": bundle.label_settings.regions,
            "labels": bundle.labels,
            "channels": bundle.channels,
            "dimensions": len(bundle.roi_size),
        }
        for bundle in (first, second)
    ]
    for key, value in sides[0].items():
        if value != sides[1][key]:
            if isinstance(value, dict):
                key, value, other = _first_difference(value, sides[1][key], key)
            else:
                other = sides[1][key]
            return f"{key} {value} of {first.name} is {other} in {second.name}"
    return ""


def _first_difference(first: dict[Any, Any], second: dict[Any, Any], name: str) -> tuple[str, Any, Any]:
    key = next(key for key in [*first, *second] if first.get(key) != second.get(key))
    return f"{name}::{key}", first.get(key), second.get(key)


def averaged_network(bundle_root: str, device: torch.device | str = "cpu", fold: int | None = None) -> AveragedNetwork:
    """The networks of a bundle with their weights, averaged: what `medseg predict` runs, for MONAI's commands.

    Args:
        bundle_root: the bundle's folder.
        device: where to put them.
        fold: only those that were trained without the cases of this fold, for evaluate.json.

    Raises:
        BundleError: a weight file is missing or belongs to another network; or the average is one of its own parts.
    """
    root = Path(bundle_root).resolve()
    if root in _AVERAGED.get():
        raise BundleError(
            f"{Layout(root).inference}: averaged_network averages itself; network_def must be one network"
        )
    token = _AVERAGED.set((*_AVERAGED.get(), root))
    try:
        return AveragedNetwork(load_bundle(bundle_root).networks(fold)).eval().to(device)
    finally:
        _AVERAGED.reset(token)
