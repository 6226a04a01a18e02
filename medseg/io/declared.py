"""What a dataset.json says of the channels, and cases put from its order into the one that a network wants."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from medseg.documents import read_json
from medseg.errors import ConfigError, DataError

from .channels import places_among, told_by_name
from .datalist import Case

DESCRIPTION = "dataset.json"
# folders of images inside a dataset: its description lies one above
OF_IMAGES = {"images", "imagestr", "imagests", "imagesva", "imagesval", "test_images"}


def value_to_name(path: Path, entry: object) -> dict[int, str]:
    """Labels or channels written as {"0": "background"} (Decathlon) or {"background": 0} (nnU-Net), as value -> name.

    Raises:
        DataError: neither of the two, or one value twice.
    """
    if isinstance(entry, list):
        entry = {str(index): name for index, name in enumerate(entry)}
    if not isinstance(entry, dict) or not entry:
        raise DataError(
            f'{path}: expected labels or channels such as {{"0": "background", "1": "liver"}}, found {entry!r}.'
        )
    result: dict[int, str] = {}
    for key, value in entry.items():
        if re.fullmatch(r"\d+", str(key)):
            number, name = int(key), str(value)
        elif isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            number, name = value, str(key)
        else:
            raise DataError(
                f"{path}: {key!r}: {value!r} is neither value: name nor name: value with whole numbers from 0."
            )
        if number in result:
            raise DataError(f"{path}: the value {number} has two names, {result[number]!r} and {name!r}.")
        result[number] = name
    return dict(sorted(result.items()))


def channel_names(path: Path, description: Mapping[str, Any]) -> dict[int, str]:
    """Channels under "modality", "channel_names" or "channels", numbered from 0 without gaps; one "image" when unsaid."""
    for key in ("channel_names", "modality", "channels"):
        if key in description:
            channels = value_to_name(path, description[key])
            if list(channels) != list(range(len(channels))):
                raise DataError(f"{path}: {key!r} numbers the channels {list(channels)}, expected 0, 1, 2, ...")
            return channels
    return {0: "image"}


def declared_near(image: Path) -> tuple[Path, dict[int, str]] | None:
    """The dataset.json of the dataset that an image lies in, and the channels it declares; None where there is none."""
    places = [image.parent]
    for above in (image.parent, image.parent.parent):
        if above.name.lower() in OF_IMAGES:
            places.append(above.parent)
    for place in places:
        path = place / DESCRIPTION
        if path.is_file():
            try:
                description = read_json(path)
                return (path, channel_names(path, description)) if isinstance(description, dict) else None
            except (ConfigError, DataError):
                return None  # not ours, or broken: nothing is told, and the images are read as without it
    return None


def in_wanted_order(case: Case, declared: Mapping[int, str], wanted: Mapping[int, str], *, path: Path) -> Case:
    """A case whose files lie in the order of its dataset's channels, in the order in which a network wants its own.

    Args:
        case: from a dataset's list.
        declared: channel -> name, of the dataset.
        wanted: the same, of the network; {} leaves the case as it is.
        path: of the declaration, for the error.

    Raises:
        DataError: the dataset declares one of the channels at another place, and not all of them; or one file holds all.
    """
    if len(wanted) < 2:
        return case
    order = told_by_name(case.images, wanted) if len(case.images) > 1 else None
    present = [channel for channel in declared if channel not in case.missing]
    places = places_among(declared, wanted)
    if order is None and places is not None and len(present) == len(case.images):
        files = dict(zip(present, case.images, strict=True))
        order = {channel: files[place] for channel, place in enumerate(places) if place in files and place is not None}
    elif order is None and places == list(range(len(wanted))):
        return case  # one file holds all channels, in the right order
    if not order:
        raise DataError(
            f"case {case.name!r}: {path} declares the channels {', '.join(declared.values())}, the network takes "
            f"{', '.join(wanted.values())}; give one file per channel and name the files by the channels."
        )
    missing = tuple(channel for channel in wanted if channel not in order)
    return replace(case, images=tuple(order.values()), missing=missing)


def as_declared(case: Case, wanted: Mapping[int, str], *, listed_in: Path | None = None) -> Case:
    """A case whose files were put in order by numbers or the alphabet, which mean the channels of the dataset they lie in.

    Args:
        case: from a folder, a pattern or a numbered list.
        wanted: channel -> name, of the network.
        listed_in: the list that named the files; the dataset.json beside it counts.

    Raises:
        DataError: as `in_wanted_order`.
    """
    if len(wanted) < 2 or case.missing or told_by_name(case.images, wanted):
        return case
    near = declared_near(listed_in or case.images[0])
    if near is None or len(near[1]) != len(wanted):
        return case
    return in_wanted_order(case, near[1], wanted, path=near[0])
