"""What every dataset layout is turned into, and how one of its cases is read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medseg.errors import DataError, LabelError
from medseg.io.channels import check_order
from medseg.io.datalist import Case, check_unique
from medseg.io.geometry import check_same_grid
from medseg.io.header import Volume
from medseg.io.volume import read_header, read_image, read_label

from .regions import check_regions


@dataclass
class Dataset:
    """A folder of labelled volumes.

    Attributes:
        name: for people.
        folder: its root.
        cases: labelled cases, sorted by name.
        test_cases: cases kept out of training; their label may be missing.
        labels: label value -> name, background (0) included.
        channels: channel index -> name, such as {0: "MRI"} or {0: "CT"}.
        splits: folds as {"train": [names], "val": [names]}, or None to let the plan make them.
        licence, reference: as the data's authors state them, "" when they do not.
        regions: name -> label values that it unites, where the dataset declares overlapping targets; else empty.
        region_order: the label that each region writes into one label map, see `medseg.datasets.regions`.
        ignore_label: value of voxels that were not annotated, or None.
    """

    name: str
    folder: Path
    cases: list[Case]
    test_cases: list[Case]
    labels: dict[int, str]
    channels: dict[int, str]
    splits: list[dict[str, list[str]]] | None = None
    licence: str = ""
    reference: str = ""
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    ignore_label: int | None = None
    region_order: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Hold what every layout must hold. Raises DataError."""
        if not self.cases:
            raise DataError(f"{self.folder}: holds no labelled case; add images with label maps of the same name.")
        check_unique([*self.cases, *self.test_cases], whose=str(self.folder))
        for case in [*self.cases, *self.test_cases]:
            present = [channel for channel in self.channels if channel not in case.missing]
            if len(present) == len(case.images) > 1:
                check_order(case.name, dict(zip(present, case.images, strict=True)), self.channels)
        check_regions(self.folder / "dataset.json", self.regions, self.region_order, self.labels)
        known = {case.name for case in self.cases}
        for number, split in enumerate(self.splits or []):
            for part in ("train", "val"):
                unknown = [name for name in split.get(part, []) if name not in known]
                if part not in split or unknown:
                    raise DataError(
                        f"{self.folder}: fold {number} of splits_final.json "
                        + (f"names unknown cases such as {unknown[0]!r}" if unknown else f"has no {part!r} list")
                        + "; correct the file, or remove it to let `medseg plan` make the folds."
                    )


def check_headers(case: Case, *, channels: int | None = None) -> None:
    """Compare the files of one case by their headers alone: all there, one grid, the right number of channels.

    Raises:
        UnreadableFileError, GeometryError, GridMismatchError, DataError: one line naming the files and the way out.
    """
    headers = [read_header(path) for path in case.images]
    for other in headers[1:]:
        check_same_grid(headers[0], other, whose=f"case {case.name!r} ({headers[0].path} and {other.path})")
    found = sum(header.channels for header in headers) + len(case.missing)
    if channels is not None and found != channels:
        raise DataError(
            f"case {case.name!r}: {', '.join(str(path) for path in case.images)} hold {found} channels, the dataset declares "
            f"{channels}; correct the channels in dataset.json or the files."
        )
    if case.label is not None:
        label = read_header(case.label)
        check_same_grid(headers[0], label, whose=f"case {case.name!r} ({headers[0].path} and {label.path})")


def load_case(case: Case, dataset: Dataset) -> tuple[Volume, Volume]:
    """Read image and label of a case, everything checked: grid, channels, label values.

    Returns:
        The image (C, X, Y, Z) float32 and the label map (X, Y, Z) integer.

    Raises:
        LabelError: no label, or a value that the dataset does not declare; the rest as `check_headers` and the readers.
    """
    if case.label is None:
        raise LabelError(f"case {case.name!r}: has no label map; add one beside {case.images[0]}.")
    check_headers(case, channels=len(dataset.channels))
    image, label = read_case_image(case), read_label(case.label)
    values = check_label_values(label, dataset.labels, ignore_label=dataset.ignore_label)
    check_declared(case, values, dataset.labels, ignore_label=dataset.ignore_label)
    return image, label


def read_case_image(case: Case, normalization: Sequence[Mapping[str, Any]] = ()) -> Volume:
    """The image of a case (C, X, Y, Z); a channel that it does not have is filled with the value that normalization turns to 0.

    Args:
        case: its files.
        normalization: per channel, as in plan.json; without it the missing channels are 0.
    """
    volume = read_image(case.images)
    if not case.missing:
        return volume
    channels = list(volume.array)
    for channel in case.missing:  # ascending, so that each finds its place
        fill = float(normalization[channel].get("mean", 0.0)) if normalization else 0.0
        channels.insert(channel, np.full(volume.array.shape[1:], fill, dtype=np.float32))
    return Volume(np.stack(channels), volume.affine, volume.header)


def check_declared(
    case: Case, values: Sequence[int], labels: Mapping[int, str], *, ignore_label: int | None = None
) -> None:
    """Refuse a partial annotation (`labels_present`) that contradicts the dataset or the case's own label map.

    Args:
        case: its list and files.
        values: found in its label map.
        labels, ignore_label: of the dataset.

    Raises:
        LabelError: naming the case and the values.
    """
    if case.labels_present is None:
        return
    unknown = sorted(set(case.labels_present) - set(labels))
    unlisted = sorted(set(values) - {0, ignore_label, *case.labels_present})
    if unknown:
        raise LabelError(
            f"case {case.name!r}: labels_present lists {', '.join(map(str, unknown))}; the dataset declares "
            f"{', '.join(map(str, sorted(labels)))}. Correct cases.csv, or declare the label."
        )
    if unlisted:
        raise LabelError(
            f"case {case.name!r}: {case.label} holds the label values {', '.join(map(str, unlisted))}, which labels_present does "
            f"not list ({', '.join(map(str, sorted(case.labels_present)))}). Add them in cases.csv, or remove them from the map."
        )


def check_label_values(label: Volume, labels: dict[int, str], *, ignore_label: int | None = None) -> tuple[int, ...]:
    """The label values in a map, all of which the dataset must declare.

    Raises:
        LabelError: naming the file, the unknown values, how many voxels hold the first, and the values declared.
    """
    values, counts = np.unique(label.array, return_counts=True)
    allowed = {*labels, 0, *([] if ignore_label is None else [ignore_label])}
    unknown = [
        (int(value), int(count)) for value, count in zip(values, counts, strict=True) if int(value) not in allowed
    ]
    if unknown:
        listing = ", ".join(str(value) for value, _ in unknown[:8]) + (", ..." if len(unknown) > 8 else "")
        raise LabelError(
            f"{label.path}: holds the undeclared label value{'s' if len(unknown) > 1 else ''} {listing} ({unknown[0][1]} voxels "
            f"of {unknown[0][0]}); declared are {', '.join(str(value) for value in sorted(allowed))}. Declare it under "
            '"labels" in dataset.json, or correct the label map.'
        )
    return tuple(int(value) for value in values)
