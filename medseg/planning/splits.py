"""Cross-validation folds that never share a subject."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseg.errors import DataError
from medseg.io.datalist import Case

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
    folds = min(folds, len(subjects))
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
