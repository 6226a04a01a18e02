"""The dataset of any layout that a dataset.json describes: its cases, and all that the file says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.io.datalist import Case
from medseg.io.declared import channel_names

from .dataset import Dataset
from .description import collect_labels, label_names, read_splits
from .regions import read_regions


def described_dataset(
    folder: Path,
    description: Mapping[str, Any],
    cases: Sequence[Case],
    test_cases: Sequence[Case],
    *,
    name: str,
    channels: Mapping[int, str] | None = None,
    collect: bool = False,
) -> Dataset:
    """Cases with names, labels, regions, folds and origin as dataset.json and splits_final.json state them.

    Args:
        folder: of the dataset; its dataset.json is named in errors.
        description: the content of dataset.json, {} without one.
        cases, test_cases: as the layout found them.
        name: where the description has none.
        channels: index -> name, where the layout knows better than the description.
        collect: without "labels" in the description, take the values of the label maps as names; else they must be there.

    Raises:
        DataError, LabelError: something in the description or the folds is wrong; the file is named.
    """
    path, said = folder / "dataset.json", dict(description)
    if collect and "labels" not in said:
        labels, ignore_label = collect_labels(folder, list(cases)), None
    else:
        labels, ignore_label = label_names(path, said)
    regions, region_order = read_regions(path, said)
    return Dataset(
        name=str(said.get("name", name)),
        folder=folder,
        cases=list(cases),
        test_cases=list(test_cases),
        labels=labels,
        channels=dict(channels) if channels is not None else channel_names(path, said),
        splits=read_splits(folder / "splits_final.json"),
        licence=str(said.get("licence", said.get("license", ""))),
        reference=str(said.get("reference", "")),
        regions=regions,
        region_order=region_order,
        ignore_label=ignore_label,
    )
