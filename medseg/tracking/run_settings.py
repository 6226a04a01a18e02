"""The settings by which runs are compared in the tracking server, from a run's config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

LONGEST = 250  # characters of a value, which every store takes
OF_THE_MODULE = {"loss": "loss", "optimizer": "optimizer", "learning_rate": "learning_rate", "schedule": "schedule"}


def run_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a run: preset, size, mixer, loss, optimizer, learning rate, roi_size, spacing, batch, augmentation, fold.

    Args:
        config: the resolved train.json; keys that it lacks are left out.
    """
    network, train = _table(config, "network_def"), _table(config, "train")
    module, dataset = _table(train, "module"), _table(train, "dataset")
    found = {
        **{key: network.get(key) for key in ("preset", "size", "mixer") if key in network},
        **{name: module[key] for key, name in OF_THE_MODULE.items() if key in module},
        **{key: config[key] for key in ("roi_size", "fold") if key in config},
        "batch": config.get("batch_size"),
        "spacing": _table(config, "preprocessing_def").get("spacing"),
        "augmentation": dataset.get("augmentation"),
    }
    return {name: _text(value) for name, value in found.items() if value is not None or name == "mixer"}


def _table(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = config.get(key)
    return found if isinstance(found, Mapping) else {}


def _text(value: object) -> Any:
    if isinstance(value, str | int | float) or value is None:
        return "preset's own" if value is None else value
    text = json.dumps(value, sort_keys=True, default=str)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
