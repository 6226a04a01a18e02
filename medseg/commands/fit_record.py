"""The network that a bundle's weights belong to is the one its files describe, also after `medseg fit` changed it by an override.

Without this, weights trained with `network_def::mixer=identity` would lie beside an inference.json that builds the preset's
own mixer, and images would be prepared otherwise than in training after an override of `preprocessing_def`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from medseg.bundle.checks.planned import plan_differences, refused
from medseg.bundle.configs.inference import SHARED_KEYS, network_def
from medseg.bundle.opening.own_packages import KEY
from medseg.bundle.together import write_together
from medseg.config import COMPONENTS, TARGET, read_json
from medseg.errors import ConfigError
from medseg.layout import Layout
from medseg.planning.plan import Plan
from medseg.selection.averaging import own_network, replaced_own

from .own_words import code_for_prediction, with_project

log = logging.getLogger(__name__)


def refuse_mixture(folder: Path, config: Mapping[str, Any], kept: Iterable[int]) -> None:
    """Refuse to train a fold otherwise than the folds whose weights stay in the bundle.

    Args:
        folder: the bundle's.
        config: the resolved train.json of the fold to train.
        kept: folds that are not trained now.

    Raises:
        ConfigError: a fold with weights was trained with another network or preprocessing.
    """
    for fold in kept:
        if not Layout(folder).fold_weights(fold).is_file():
            continue
        other = _trained_with(folder, fold)
        for key in SHARED_KEYS:
            if key in other and key in config and other[key] != config[key]:
                changed = _differences(other[key], config[key])
                raise ConfigError(
                    f"{folder}: fold {fold} was trained with another {key} ({changed}); the folds of a bundle share one. "
                    "Plan a second bundle for this network (medseg plan --output), or train --fold all without --resume."
                )


def refuse_other_plan(folder: Path) -> None:
    """Refuse to train what plan.json does not say; a length or folds that were changed in their own file alone are told and count.

    Raises:
        ConfigError: with every value in which the two differ.
    """
    differences = plan_differences(Layout(folder))
    if wrong := refused(differences):
        raise ConfigError(
            f"{folder}: plan.json and what trains differ: {'; '.join(map(str, wrong))}. `medseg plan --apply {folder}` takes "
            "plan.json's values; to train with the others, write them into plan.json as well."
        )
    for each in differences:
        log.info("%s: %s; %s counts", folder.name, each, each.file)


def keep_definition(folder: Path, config: Mapping[str, Any]) -> None:
    """Write what was trained into the bundle's train, inference and evaluate files and its plan, where they differ.

    Args:
        folder: the bundle's.
        config: the resolved train.json that made `models/model.pt`.
    """
    layout = Layout(folder)
    files: dict[Path, Any] = {}
    for path in (layout.train, layout.inference, layout.evaluate):
        if not path.is_file():
            continue
        content = read_json(path)
        shared = [key for key in SHARED_KEYS if key in content and key in config]
        kept = {key: content[key] for key in shared}
        if "network_def" in kept:
            kept["network_def"] = own_network(kept["network_def"])
        changes = {key: config[key] for key in shared if kept[key] != config[key]}
        if changes:
            for key, value in changes.items():
                log.info("%s: %s is now as trained: %s", path.name, key, _differences(kept[key], value))
            if "network_def" in changes:  # of every network that is averaged
                changes["network_def"] = replaced_own(content["network_def"], changes["network_def"])
            files[path] = content | changes
        if path == layout.train and config.get(KEY) and code_for_prediction(config):
            files[path] = with_project(files.get(path, content), str(config[KEY]))
    plan = _plan_as_trained(layout.plan, config)
    if plan is not None:
        files[layout.plan] = plan.to_dict()
    if files:
        write_together(layout, files)


def _plan_as_trained(path: Path, config: Mapping[str, Any]) -> Plan | None:
    """The plan with what was trained; None where it says so already."""
    if not path.is_file() or "network_def" not in config:
        return None
    plan = Plan.read(path)
    kept, definition = plan, config["network_def"]
    if config.get(KEY) and code_for_prediction(config):
        kept = replace(kept, project=str(config[KEY]))
    if network_def(plan) != definition:
        ours = str(definition[TARGET]).startswith(f"{COMPONENTS}.")
        named = {TARGET, "spatial_dims", "in_channels", "out_channels"} if ours else set()
        kept = replace(kept, network={key: value for key, value in definition.items() if key not in named})
    prepared = config.get("preprocessing_def", {})
    for name in ("normalization", "orientation", "spacing"):
        value = prepared.get(name, getattr(kept, name))
        if name == "spacing":  # a network of slices leaves the last one as each case has it
            value = [planned if step is None else step for step, planned in zip(value, kept.spacing, strict=True)]
        kept = replace(kept, **{name: value})
    return kept if kept != plan else None


def _trained_with(folder: Path, fold: int) -> dict[str, Any]:
    """The record of a fold's run, or what the bundle says where the run's folder did not travel with it."""
    layout = Layout(folder)
    record = layout.run(fold).config
    for path in (record, layout.inference):
        if path.is_file():
            return dict(read_json(path))
    return {}


def _differences(old: object, new: object) -> str:
    """`mixer: null -> "identity"` for each value that changed."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return f"{json.dumps(old)} -> {json.dumps(new)}"
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return ", ".join(f"{name}: {json.dumps(old.get(name))} -> {json.dumps(new.get(name))}" for name in names)
