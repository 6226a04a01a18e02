"""What a record of a run may say about the data: nothing that came from a path or a file name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Keys of train.json that hold places on this machine.
PLACES = ("bundle_root", "dataset_dir", "output_dir", "pretrained")


def without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved train.json for the tracking server: settings as they were, places and lists of files left out.

    Example:
        >>> without_paths({"dataset_dir": "/ward/MUSTERMANN", "train": {"dataset": {"data": [{"image": "a"}]}}, "seed": 1})
        {'dataset_dir': '(not recorded)', 'train': {'dataset': {'data': '(1 entries, not recorded)'}}, 'seed': 1}
    """
    cleaned: dict[str, Any] = {}
    for key, value in config.items():
        if key in PLACES and isinstance(value, str) and not value.startswith("@"):
            cleaned[key] = "(not recorded)"
        elif key == "data" and isinstance(value, list):
            cleaned[key] = f"({len(value)} entries, not recorded)"
        else:
            cleaned[key] = without_paths(value) if isinstance(value, Mapping) else value
    return cleaned
