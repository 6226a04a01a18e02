"""The settings that decide labels, read from where MONAI's own commands read them: the parts of inference.json.

`medseg predict`, cross-validation and `python -m monai.bundle run` so take the same window, mirroring, blending, label values
and post-processing. What inference.json asks for and our predictor would not do is refused by name, never left out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from medseg.errors import BundleError
from medseg.inference.settings import LabelSettings

from ..entrance import inferer_fault, is_number, window_extents

if TYPE_CHECKING:
    from medseg.planning.plan import Plan

    from ..opening.parser import SafeConfig

log = logging.getLogger(__name__)

READS = ("LoadImaged", "EnsureChannelFirstd", "Preprocessd")
WRITES = ("RestoreLabeld", "PostprocessLabeld", "SaveImaged")
# arguments of the inferer that decide nothing but speed and memory
_SPEED = (
    "sw_batch_size",
    "sw_device",
    "device",
    "progress",
    "cache_roi_weight_map",
    "cpu_thresh",
    "buffer_steps",
    "buffer_dim",
)
_DECIDING = ("roi_size", "overlap", "mode", "placement", "accumulation", "mirror_axes")
# plan.json's name of each setting that 0.1 kept there
_OLD = {"mirror_axes": "mirror_axes", "placement": "placement", "mode": "importance", "accumulation": "accumulation"}


def label_settings(config: SafeConfig, plan: Plan | None = None) -> LabelSettings:
    """What decides a bundle's labels.

    Args:
        config: its inference.json.
        plan: its plan.json, asked only where medseg 0.1 kept settings there.

    Raises:
        BundleError: inference.json asks for something that `medseg predict` does not do.
    """
    for section, known in (("preprocessing", READS), ("postprocessing", WRITES)):
        _refuse_strangers(config, section, known)
    facts = _inferer(config, plan)
    restore = _transforms(config, "postprocessing", "RestoreLabeld")
    steps = [step for entry in _transforms(config, "postprocessing", "PostprocessLabeld") for step in entry["steps"]]
    values = restore[0].get("labels") if restore else None
    if not restore and plan is not None:  # a bundle that only medseg can predict with
        values = sorted(plan.labels)
    return LabelSettings(
        roi_size=roi_size(config),
        label_values=None if values is None else _whole(values, f"{config.source}: postprocessing: labels"),
        regions=bool(restore and restore[0].get("regions", False)),
        postprocessing=tuple(dict(step) for step in steps),
        **facts,
    )


def _whole(values: object, whose: str) -> tuple[int, ...]:
    """Whole numbers, in a list.

    Raises:
        BundleError: anything else.
    """
    listed: list[Any] = list(values) if isinstance(values, (list, tuple)) else [None]
    if not all(is_number(value) and value == int(value) for value in listed):
        raise BundleError(f"{whose} is {str(values)[:80]}, expected a list of whole numbers")
    return tuple(int(value) for value in listed)


def roi_size(config: SafeConfig) -> tuple[int, ...]:
    """Voxels of the sliding window.

    Raises:
        BundleError: inference.json names none.
    """
    for key in ("roi_size", "inferer::roi_size"):
        if key in config:
            return window_extents(config.get(key), f"{config.source}: {key}")
    raise BundleError(f"{config.source}: has no inferer::roi_size")


def allowed_mirror_axes(config: SafeConfig, plan: Plan | None = None) -> tuple[int, ...]:
    """The axes along which `medseg predict --mirror` may mirror: those that training mirrored too."""
    dims = len(roi_size(config))
    if "allowed_mirror_axes" in config:
        return _whole(config.get("allowed_mirror_axes"), f"{config.source}: allowed_mirror_axes")
    return mirrored_in_training(plan.augmentation if plan is not None else {}, dims)


def takes_missing_channels(config: SafeConfig, plan: Plan | None = None) -> bool:
    """Whether the network was trained with cases that lack a channel, and so segments them."""
    if "missing_channels" in config:
        return bool(config.get("missing_channels") == "zero")
    return plan is not None and plan.missing_channels == "zero"


def mirrored_in_training(augmentation: Mapping[str, Any], dims: int) -> tuple[int, ...]:
    """Spatial axes that the recipe of training flips; all of them where it does not say."""
    if augmentation.get("mirror", 0.5) == 0:
        return ()
    axes = augmentation.get("mirror_axes")
    return tuple(range(dims)) if axes is None else tuple(int(axis) for axis in axes)


def left_in_plan(config: SafeConfig, plan: Plan | None) -> dict[str, Any]:
    """Settings that medseg 0.1 kept in plan.json, and that inference.json does not hold: key of the inferer -> value."""
    if plan is None or "inferer::mirror_axes" in config:
        return {}
    plain = {"mirror_axes": [], "placement": "regular", "mode": "gaussian", "accumulation": "float32"}
    found = {key: plan.inference.get(name, plain[key]) for key, name in _OLD.items()}
    return {key: value for key, value in found.items() if value != plain[key]}


def _inferer(config: SafeConfig, plan: Plan | None) -> dict[str, Any]:
    """The deciding arguments of the inferer, as those of `LabelSettings`."""
    raw = config.raw.get("inferer", {})
    where = f"{config.source}: inferer"
    if not isinstance(raw, Mapping) or not str(raw.get("_target_", "")).endswith("SlidingWindowInferer"):
        raise BundleError(f"{where} is no SlidingWindowInferer, the only one that medseg predict knows")
    unknown = [key for key in raw if not key.startswith("_") and key not in (*_SPEED, *_DECIDING)]
    if unknown:
        raise BundleError(f"{where}::{unknown[0]} decides labels and medseg predict does not know it; take it out")
    found = {key: config.get(f"inferer::{key}") for key in _DECIDING[1:] if key in raw}
    old = left_in_plan(config, plan)
    if old:
        log.warning(
            "%s: %s stand in plan.json only, where MONAI's tools do not look; write them into inference.json as "
            "inferer::%s",
            config.source, ", ".join(old), ", inferer::".join(f"{key}={value}" for key, value in old.items()),
        )  # fmt: skip
    found |= old
    for key in ("mirror_axes", "overlap"):
        if isinstance(found.get(key), list | tuple):
            found[key] = tuple(found[key])
    given = {"overlap": 0.5, "mode": "gaussian", "sw_batch_size": raw.get("sw_batch_size", 1), **found}
    if isinstance(given["sw_batch_size"], str):
        given["sw_batch_size"] = config.get("inferer::sw_batch_size")
    fault = inferer_fault(given)
    if fault:
        raise BundleError(f"{where}::{fault}")
    return found


def _entries(config: SafeConfig, section: str) -> list[tuple[str, Mapping[str, Any]]]:
    raw = config.raw.get(section, {})
    transforms = raw.get("transforms", []) if isinstance(raw, Mapping) else []
    return [
        (f"{section}::transforms::{number}", entry)
        for number, entry in enumerate(transforms if isinstance(transforms, list) else [transforms])
        if not (isinstance(entry, Mapping) and entry.get("_disabled_") is True)
    ]


def _name(entry: object) -> str:
    return str(entry.get("_target_", "")).rpartition(".")[2] if isinstance(entry, Mapping) else str(entry)


def _refuse_strangers(config: SafeConfig, section: str, known: tuple[str, ...]) -> None:
    for key, entry in _entries(config, section):
        if _name(entry) not in known:
            raise BundleError(
                f"{config.source}: {key} is {_name(entry)!r}, which medseg predict does not do (it knows "
                f"{', '.join(known)}); run this bundle with `python -m monai.bundle run`, or take the step out"
            )


def _transforms(config: SafeConfig, section: str, name: str) -> list[dict[str, Any]]:
    """Arguments of the transforms of one kind, references resolved."""
    return [
        {arg: config.get(f"{key}::{arg}") for arg in entry if not arg.startswith("_")}
        for key, entry in _entries(config, section)
        if _name(entry) == name
    ]
