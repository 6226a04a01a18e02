"""Classes and channels of a new data set among those of an old network, by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from medseg.datasets import Dataset
from medseg.errors import ConfigError, nearest

from .adapt_source import Source

MOST_APART = 3.0  # median spacing of the data to the source's, per axis


def plain(name: str) -> str:
    """A name without case and punctuation."""
    return re.sub(r"[^a-z0-9]+", "", name.casefold())


def match_classes(new: Sequence[str], old: Sequence[str], mapped: Mapping[str, str]) -> list[int | None]:
    """For each new class the number of the old one with its name, or with the name that `mapped` (old -> new) gives it.

    Args:
        new, old: names in the order of the outputs, background first.
        mapped: old name -> new name.

    Raises:
        ConfigError: a name that is on neither side.
    """
    for before, after in mapped.items():
        for name, known, whose in ((before, old, "the source"), (after, new, "the data")):
            if plain(name) not in {plain(each) for each in known}:
                raise ConfigError(f"--map {before}={after}: {whose} has no class {name!r}. {nearest(name, known)}")
    renamed = {plain(before): plain(after) for before, after in mapped.items()}
    taken = set(renamed.values())
    places: dict[str, int] = {}
    for number, name in enumerate(old):
        key = renamed.get(plain(name))
        if key is None and plain(name) in taken:
            continue  # another class was asked to take this name
        places[key or plain(name)] = number
    return [0 if number == 0 else places.get(plain(name)) for number, name in enumerate(new)]


def match_channels(new: Sequence[str], old: Sequence[str]) -> list[int | None]:
    """For each new channel the old one with its name; all in order where the numbers agree and no name does."""
    names = {plain(name): number for number, name in enumerate(old)}
    found = [names.get(plain(name)) for name in new]
    if all(place is None for place in found) and len(new) == len(old):
        return list(range(len(old)))
    return found


def is_ct(name: str) -> bool:
    """As `choose_normalization` reads a channel's name."""
    return name.strip().lower() in ("ct", "cta", "ct scan")


def reasons_against(source: Source, dataset: Dataset, median_spacing: Sequence[float]) -> list[str]:
    """Why spacing and normalization should not be taken over, a sentence each."""
    found = []
    names = [name for _, name in sorted(dataset.channels.items())]
    scaled = _scaled_as_ct(source)
    if scaled and not any(is_ct(name) for name in names):
        found.append(f"the source scales its images as CT, and the data's channels are {', '.join(names)}")
    if any(is_ct(name) for name in names) and not scaled:
        found.append(f"the data are CT, and the source normalizes {', '.join(source.channels)} image by image")
    if source.pretraining is not None and (
        list(source.pretraining.get("spacing", source.plan.spacing)) != list(source.plan.spacing)
        or source.pretraining.get("normalization", source.plan.normalization) != source.plan.normalization
    ):
        found.append("the source's plan says another spacing or normalization than its weights were pretrained with")
    pairs = list(zip(sorted(source.plan.spacing), sorted(median_spacing), strict=False))
    apart = max(max(a / b, b / a) for a, b in pairs)
    if apart > MOST_APART:
        mm = " x ".join(f"{side:.3g}" for side in median_spacing)
        own = " x ".join(f"{side:.3g}" for side in source.plan.spacing)
        found.append(f"the data's voxels are {mm} mm, the source sees {own} mm: {apart:.1f} times apart")
    return found


def _scaled_as_ct(source: Source) -> bool:
    entries: list[Any] = list(source.preprocessing.get("normalization", []))
    kinds = [entry.get("kind") if isinstance(entry, Mapping) else entry for entry in entries]
    return any(str(kind).lower() in ("ct", "ctnormalization") for kind in kinds)
