"""Folders of labelled volumes in the layouts people have; one file per layout.

A layout module has `matches(folder) -> bool` and `load(folder) -> Dataset`. `DATASETS` is asked in its order.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from medseg.errors import ConfigError, DataError, UnreadableFileError, nearest
from medseg.own_parts import Parts
from medseg.types import FilePath

from . import csv, decathlon, folder, nnunet, patients
from .dataset import Dataset, check_declared, check_headers, check_label_values, load_case, read_case_image

__all__ = [
    "DATASETS",
    "Dataset",
    "check_declared",
    "check_headers",
    "check_label_values",
    "load_case",
    "open_dataset",
    "read_case_image",
]

DATASETS: dict[str, ModuleType] = {
    "decathlon": decathlon,
    "nnunet": nnunet,
    "csv": csv,
    "folder": folder,
    "patients": patients,
}


def open_dataset(
    folder: FilePath, kind: str | None = None, *, missing_channels: str = "error", project: str | None = None
) -> Dataset:
    """Find the labelled cases in a folder; no voxel is read unless the label names have to be collected.

    Args:
        folder: root of the dataset.
        kind: a name in `DATASETS`; by default the first layout that matches.
        project: package of the user's own layouts, see `medseg.own_parts`.
        missing_channels: `error` refuses a case that lacks a channel file, `zero` reads zeros in its place.

    Raises:
        UnreadableFileError: the folder or a listed file is missing.
        DataError: empty, of no known layout, or contradicting itself.
    """
    root = Path(folder)
    if not root.exists():
        raise UnreadableFileError(f"{root}: no such folder; check the path.")
    if not root.is_dir():
        raise DataError(f"{root}: is a file, expected the folder of a dataset.")
    layouts = Parts("datasets", DATASETS, project)
    if kind is not None and kind not in layouts:
        raise DataError(f"dataset layout {kind!r} does not exist. {nearest(kind, layouts)}")
    if not any(root.iterdir()):
        raise DataError(f"{root}: is empty; {_EXPECTED}")
    for name in layouts:  # medseg's own first; what packages bring is imported only when those do not match
        module = layouts[name]
        if kind == name or (kind is None and module.matches(root)):
            return _without_gaps(module.load(root), missing_channels)
    raise DataError(f"{root}: no known dataset layout; {_EXPECTED}")


def _without_gaps(dataset: Dataset, missing_channels: str) -> Dataset:
    """The dataset, unless it lacks channels that nobody agreed to replace. Raises DataError naming cases and channels."""
    if missing_channels not in ("error", "zero"):
        raise ConfigError(f"missing_channels is {missing_channels!r}. {nearest(missing_channels, ['error', 'zero'])}")
    gaps = [case for case in dataset.cases if case.missing]
    if gaps and missing_channels == "error":
        names = ", ".join(dataset.channels.get(channel, str(channel)) for channel in gaps[0].missing)
        others = f" (and {len(gaps) - 1} more cases lack channels)" if len(gaps) > 1 else ""
        raise DataError(
            f"case {gaps[0].name!r}: has no file for channel {names}, only {', '.join(str(p) for p in gaps[0].images)}{others}; "
            "add the file, remove the case, or plan with --missing-channels zero to train without it."
        )
    return dataset


_EXPECTED = (
    "expected images/ and labels/ with files of equal names, or dataset.json with imagesTr/ and labelsTr/ "
    "(Decathlon, nnU-Net), or cases.csv, or one folder per patient with image.nii.gz and label.nii.gz."
)
