"""The key `low_resolution` of inference.json: a second, coarse network that `medseg predict --fast` asks first where to look.

    "low_resolution": {
        "network_def": {...},                    as at the top of the file
        "preprocessing_def": {...},              with a coarse spacing
        "roi_size": [64, 64, 64],
        "checkpoint": "models/low_resolution.pt",
        "margin_mm": 20.0,                       added round the box of what it finds
        "find": [1, 2]                           labels that make the box; left out: all but 0
    }

`attach_low_resolution` writes it from a bundle that was trained on the same data at a coarse spacing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medseg.config import read_json
from medseg.errors import BundleError, ConfigError
from medseg.io.atomic import write_json
from medseg.layout import Layout
from medseg.types import FilePath

from .entrance import is_number, window_extents
from .load import Bundle, load_bundle
from .weights import load_into, read_state_dict, write_state_dict

KEY = "low_resolution"
NEEDED = ("network_def", "preprocessing_def", "roi_size", "checkpoint")
WEIGHTS = "models/low_resolution.pt"
MOST_MM = 10_000


def settings_of(bundle: Bundle) -> dict[str, Any]:
    """The key's content.

    Raises:
        ConfigError: the bundle has no such key.
        BundleError: something is missing in it.
    """
    facts = bundle.config.raw.get(KEY)
    if facts is None:
        raise ConfigError(
            f"{bundle.name} has no low-resolution network, which --fast needs (inference.json: {KEY}); predict without --fast"
        )
    missing = [key for key in NEEDED if not isinstance(facts, Mapping) or key not in facts]
    if missing:
        raise BundleError(f"{bundle.layout.inference}: {KEY} has no {', '.join(missing)}")
    where = f"{bundle.layout.inference}: {KEY}"
    margin, find, name = facts.get("margin_mm", 0), facts.get("find"), facts["checkpoint"]
    if not (is_number(margin) and 0 <= margin <= MOST_MM):
        raise BundleError(f"{where}::margin_mm is {str(margin)[:80]!r}, expected 0 to {MOST_MM} millimetres")
    if not isinstance(name, str):
        raise BundleError(f"{where}::checkpoint is {str(name)[:80]!r}, expected a file of the bundle")
    if find is not None and not (isinstance(find, list) and all(is_number(label) for label in find)):
        raise BundleError(f"{where}::find is {str(find)[:80]!r}, expected a list of labels")
    if not (is_number(facts.get("overlap", 0)) and 0 <= facts.get("overlap", 0) < 1):
        raise BundleError(f"{where}::overlap is {str(facts['overlap'])[:80]!r}, expected a number from 0 to below 1")
    return {**facts, "roi_size": window_extents(facts["roi_size"], f"{where}::roi_size")}


def attach_low_resolution(
    bundle: FilePath, coarse: FilePath, *, margin_mm: float = 20.0, find: Sequence[int] | None = None
) -> None:
    """Give a bundle the network of another one as its low-resolution network, weights included.

    Args:
        bundle: folder of the bundle that gets it.
        coarse: a bundle trained on the same kind of images at a coarse spacing.
        margin_mm: added to the box of what it finds.
        find: labels of the coarse network that make the box; None for all but 0.

    Raises:
        BundleError: one of them cannot be opened, or they take different images.
    """
    target, source = load_bundle(str(bundle)), load_bundle(str(coarse))
    if target.channels != source.channels:
        raise BundleError(f"{coarse}: takes the channels {source.channels}, {bundle} takes {target.channels}")
    path = source.weight_files[0]  # the first of several: a low-resolution network has to be quick
    state = read_state_dict(path)
    load_into(source.network_of(path), state, path)
    layout = Layout(target.folder)
    write_state_dict(layout.folder / WEIGHTS, state)
    facts: dict[str, Any] = {
        "network_def": source.own_network_def,
        "preprocessing_def": source.config.raw["preprocessing_def"],
        "roi_size": list(source.roi_size),
        "checkpoint": WEIGHTS,
        "margin_mm": float(margin_mm),
        **({} if find is None else {"find": [int(value) for value in find]}),
    }
    config = read_json(layout.inference)
    write_json(layout.inference, {**config, KEY: facts})
