"""Overlapping targets: regions that unite label values, each learnt by an output of its own.

nnU-Net's way, under "labels" of dataset.json:     {"background": 0, "whole tumour": [1, 2, 3], "core": [2, 3], "active": 3}
the same beside any layout's plain label names:    "regions": {"whole tumour": [1, 2, 3], "core": [2, 3], "active": [3]}
and, in both, "regions_class_order": the label that each region writes into the one label map, in the regions' order;
a later region writes over an earlier one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.errors import DataError

Regions = dict[str, tuple[int, ...]]


def read_regions(path: Path, description: Mapping[str, Any]) -> tuple[Regions, tuple[int, ...]]:
    """Regions in the order of the network's outputs, and the label that each of them writes.

    Returns:
        Two empty containers where the dataset declares no union of labels.

    Raises:
        DataError: a region that is no list of labels, or an order that does not fit them.
    """
    regions = region_table(path, description)
    return (regions, class_order(path, regions, description.get("regions_class_order"))) if regions else ({}, ())


def region_table(path: Path, description: Mapping[str, Any]) -> Regions:
    """The regions alone, for who scores them and writes none. Raises DataError for a region that is no list of labels."""
    labels = description.get("labels")
    entries = description.get("regions")
    if entries is None and isinstance(labels, dict) and any(isinstance(value, list) for value in labels.values()):
        # as soon as one entry is a union, nnU-Net makes an output of every foreground entry
        entries = {name: value for name, value in labels.items() if name != "ignore" and value not in (0, [0])}
    if not entries:
        return {}
    if not isinstance(entries, dict):
        raise DataError(f'{path}: "regions" is {entries!r}, expected such as {{"whole tumour": [1, 2, 3]}}.')
    return {
        str(name): region_labels(path, name, value if isinstance(value, list) else [value])
        for name, value in entries.items()
    }


def region_labels(path: Path, name: str, values: Sequence[Any]) -> tuple[int, ...]:
    """The label values of one region. Raises DataError when they are none."""
    if not values or not all(isinstance(value, int) and not isinstance(value, bool) and value > 0 for value in values):
        raise DataError(f"{path}: the region {name!r} holds {values!r}, expected label values from 1.")
    return tuple(values)


def class_order(path: Path, regions: Regions, listed: Any = None) -> tuple[int, ...]:
    """The label that each region writes; worked out for nested regions when the dataset does not list it.

    Raises:
        DataError: the list has another length, or a label outside its region; or there is no list and the regions do not
            nest so that each adds one label to the next smaller one.

    Example:
        >>> class_order(Path("dataset.json"), {"whole": (1, 2, 3), "core": (2, 3), "active": (3,)})
        (1, 2, 3)
    """
    if listed is None:
        return _nested_order(path, regions)
    good = isinstance(listed, list | tuple) and len(listed) == len(regions) and len(set(listed)) == len(listed)
    if not good or not all(value in values for value, values in zip(listed, regions.values(), strict=True)):
        raise DataError(
            f'{path}: "regions_class_order" is {listed!r}; expected one label of each region, all different, in the order '
            f"{', '.join(f'{name} {list(values)}' for name, values in regions.items())}."
        )
    return tuple(int(value) for value in listed)


def _nested_order(path: Path, regions: Regions) -> tuple[int, ...]:
    sizes = [len(values) for values in regions.values()]
    own = []
    for values in regions.values():
        smaller = [set(other) for other in regions.values() if set(other) < set(values)]
        rest = set(values) - set().union(*smaller)
        own.append(rest.pop() if len(rest) == 1 else None)
    if None in own or sizes != sorted(sizes, reverse=True):
        raise DataError(
            f'{path}: add "regions_class_order", the label that each region writes, in the order {", ".join(regions)} (larger '
            "regions first, since later ones write over them); it cannot be told from the regions alone."
        )
    return tuple(value for value in own if value is not None)


def check_regions(path: Path, regions: Regions, order: Sequence[int], labels: Mapping[int, str]) -> None:
    """Refuse regions that name unknown labels, or leave out a label, which would then never be learnt.

    Raises:
        DataError: naming the labels.
    """
    used = {value for values in regions.values() for value in values}
    unknown, unused = sorted(used - set(labels)), sorted(set(labels) - used - {0})
    if regions and (unknown or unused):
        cause = f"name the undeclared labels {unknown}" if unknown else f"leave out the labels {unused}"
        raise DataError(f"{path}: the regions {', '.join(regions)} {cause}; declare them, or correct the regions.")
