"""Which cases a fold trains and validates on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.datasets import check_declared, open_dataset
from medseg.errors import BundleError, ConfigError, DataError
from medseg.io.datalist import Case
from medseg.planning.splits import check_splits


def _from_list(data: Sequence[Mapping[str, Any]]) -> list[Case]:
    cases = []
    for item in data:
        images = item["image"] if isinstance(item["image"], list | tuple) else [item["image"]]
        paths = tuple(Path(str(path)) for path in images)
        label = Path(str(item["label"])) if item.get("label") else None
        cases.append(Case(name=paths[0].name.split(".")[0], images=paths, label=label))
    return cases


def read_splits(bundle_root: Path) -> list[dict[str, list[str]]]:
    """The folds of a bundle's `configs/splits.json`.

    Raises:
        BundleError: the file is missing or no list of folds.
    """
    path = bundle_root / "configs" / "splits.json"
    try:
        splits = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: cannot be read as folds: {error}") from error
    if not isinstance(splits, list):
        raise BundleError(f"{path}: expected a list of folds, found {type(splits).__name__}")
    return splits


def list_cases(
    part: str,
    data: Sequence[Mapping[str, Any]] | None,
    dataset_dir: str,
    bundle_root: Path,
    fold: int,
    *,
    missing_channels: str = "error",
) -> list[Case]:
    """Cases of `train` or `val` of one fold, or the caller's own list.

    Raises:
        ConfigError: there is no such fold.
        DataError: the fold names unknown cases or leaks a subject.
        LabelError: a case declares labels that the dataset does not have.
    """
    if data is not None:
        return _from_list(data)
    splits = read_splits(bundle_root)
    if not 0 <= fold < len(splits):
        raise ConfigError(f"fold {fold} was asked for; {bundle_root} has the folds 0 to {len(splits) - 1}")
    dataset = open_dataset(Path(dataset_dir), missing_channels=missing_channels)
    check_splits(splits, dataset.cases)
    by_name = {case.name: case for case in dataset.cases}
    cases = [by_name[name] for name in splits[fold][part]]
    for case in cases:
        check_declared(case, (), dataset.labels)
    missing = [case.name for case in cases if case.label is None]
    if missing:
        raise DataError(f"fold {fold}: {len(missing)} {part} cases have no label: {', '.join(missing[:5])}")
    return cases
