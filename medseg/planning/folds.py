"""Cross-validation folds that never share a subject: made, checked, read from a bundle, and listed as cases."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medseg.config import read_json
from medseg.datasets import check_declared, open_dataset
from medseg.errors import BundleError, ConfigError, DataError
from medseg.io.datalist import Case
from medseg.layout import Layout

log = logging.getLogger(__name__)

# nnU-Net's seed: on the same cases both tools get the same folds, so their results can be paired.
SEED = 12345
Split = dict[str, list[str]]


def subject_of(case: Case) -> str:
    return case.subject or case.name


def make_splits(cases: Sequence[Case], folds: int = 5) -> list[Split]:
    """Shuffled k folds over subjects; with fewer subjects than folds, one subject is left out at a time.

    Raises:
        DataError: fewer than two subjects.
    """
    subjects = sorted({subject_of(case) for case in cases})
    if len(subjects) < 2:
        raise DataError(
            f"{len(cases)} labelled cases of {len(subjects)} subject: at least two subjects are needed to validate"
        )
    if folds > len(subjects):
        log.info("%d folds want as many subjects, there are %d: one is left out at a time", folds, len(subjects))
        folds = len(subjects)
    order = np.arange(len(subjects))
    np.random.RandomState(SEED).shuffle(order)
    splits = []
    for held_out in np.array_split(order, folds):
        val = {subjects[index] for index in held_out}
        names = {"train": [], "val": []}  # type: Split
        for case in sorted(cases, key=lambda case: case.name):
            names["val" if subject_of(case) in val else "train"].append(case.name)
        splits.append(names)
    return splits


def check_splits(splits: Sequence[Split], cases: Sequence[Case]) -> None:
    """Refuse folds that name unknown cases or share a subject between train and validation.

    Raises:
        DataError: the message names the fold and the cases.
    """
    subjects = {case.name: subject_of(case) for case in cases}
    for number, split in enumerate(splits):
        unknown = sorted({*split.get("train", []), *split.get("val", [])} - set(subjects))
        if unknown:
            raise DataError(
                f"fold {number} names {len(unknown)} cases that the dataset does not have: {', '.join(unknown[:5])}"
            )
        if not split.get("train") or not split.get("val"):
            raise DataError(
                f"fold {number} has {len(split.get('train', []))} training and {len(split.get('val', []))} validation cases"
            )
        shared = {subjects[name] for name in split["train"]} & {subjects[name] for name in split["val"]}
        if shared:
            raise DataError(
                f"fold {number} leaks: {len(shared)} subjects are in training and in validation: {', '.join(sorted(shared)[:5])}"
            )


def number_of_folds(bundle: Path) -> int:
    """How many folds `configs/splits.json` holds."""
    path = Layout(bundle).splits
    try:
        return len(read_json(path))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: cannot be read as folds: {error}") from error


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
    path = Layout(bundle_root).splits
    try:
        splits = read_json(path)
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
    project: str | None = None,
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
    dataset = open_dataset(Path(dataset_dir), missing_channels=missing_channels, project=project)
    check_splits(splits, dataset.cases)
    by_name = {case.name: case for case in dataset.cases}
    cases = [by_name[name] for name in splits[fold][part]]
    for case in cases:
        check_declared(case, (), dataset.labels)
    missing = [case.name for case in cases if case.label is None]
    if missing:
        raise DataError(f"fold {fold}: {len(missing)} {part} cases have no label: {', '.join(missing[:5])}")
    return cases
