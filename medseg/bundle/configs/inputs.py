"""What inference.json and evaluate.json run over: lists of MONAI's data dictionaries, made by functions with tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.datasets import open_dataset
from medseg.errors import DataError
from medseg.io.datalist import Case
from medseg.planning.folds import list_cases

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh")


def _as_entry(case: Case) -> dict[str, Any]:
    paths = [str(path) for path in case.images]
    return {"image": paths[0] if len(paths) == 1 else paths}


def list_images(folder: str) -> list[dict[str, Any]]:
    """Images to segment: every image file that lies in the folder or in its `images`, else the cases of the dataset it is.

    Of a dataset the test cases are taken where it has some, else all cases.

    Raises:
        DataError: nothing there.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give one with --dataset_dir")
    for place in (root, root / "images"):
        files = sorted(place.iterdir()) if place.is_dir() else []
        images = [path for path in files if path.name.endswith(IMAGE_SUFFIXES) and path.is_file()]
        if images:
            return [{"image": str(path)} for path in images]
    dataset = open_dataset(root)
    return [_as_entry(case) for case in dataset.test_cases or dataset.cases]


def list_labelled(folder: str, bundle_root: str, fold: int) -> list[dict[str, Any]]:
    """Validation cases of one fold of the bundle's splits.json, with their labels, for evaluate.json."""
    cases = list_cases("val", None, folder, Path(bundle_root), fold)
    return [{**_as_entry(case), "label": str(case.label)} for case in cases]


def case_names(batch: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """File names of a decollated batch's images, as `MetricsSaver` wants them for its rows; names without folders."""
    found = [str(getattr(item["image"], "meta", {}).get("filename_or_obj", "")) for item in batch]
    return [{"filename_or_obj": Path(name).name} for name in found]
