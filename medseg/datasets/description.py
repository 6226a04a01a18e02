"""dataset.json and splits_final.json: the words that the layouts share, with errors that name file and key."""

from __future__ import annotations

import functools
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np

from medseg import documents
from medseg.errors import ConfigError, DataError, LabelError, UnreadableFileError
from medseg.io.datalist import Case
from medseg.io.declared import value_to_name
from medseg.io.volume import read_label

from .regions import region_labels

log = logging.getLogger(__name__)

# words for what no label covers, as tools and people write them
NOTHING = {
    "background", "bg", "backgr", "hintergrund", "fond", "fondo", "sfondo", "achtergrond", "clear", "unlabeled", "unlabelled",
    "none", "nothing", "empty", "void", "outside", "exterior", "rest", "other", "unknown", "null", "air", "no", "non", "zero",
}  # fmt: skip

MOST_LABELS = 256  # more distinct values in one map are an image in the wrong folder

Splits = list[dict[str, list[str]]]


def read_json(path: Path) -> Any:
    """Parse a JSON file. Raises UnreadableFileError when it is missing, DataError naming line and column when it is not JSON."""
    try:
        return documents.read_json(path)
    except documents.UnopenedFileError as error:
        raise UnreadableFileError(str(error)) from None
    except ConfigError as error:
        raise DataError(str(error)) from None


def read_object(path: Path) -> dict[str, Any]:
    """Parse a JSON file that must hold one object. Raises as `read_json`, and DataError for a list or a number."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(f'{path}: holds a {type(value).__name__}, expected an object such as {{"labels": ...}}.')
    return value


def label_names(path: Path, description: dict[str, Any]) -> tuple[dict[int, str], int | None]:
    """Labels and the ignore value under "labels".

    nnU-Net's regions ({"whole tumour": [1, 2, 3]}) become label values named by the smallest region that holds them.

    Raises:
        DataError: no labels, or labels of an unknown form.
    """
    entry = description.get("labels")
    if not isinstance(entry, dict) or not entry:
        raise DataError(f'{path}: has no "labels"; add for example "labels": {{"0": "background", "1": "liver"}}.')
    regions = {
        str(name): region_labels(path, name, value)
        for name, value in entry.items()
        if isinstance(value, list) and value != [0]
    }
    plain = {name: value for name, value in entry.items() if not isinstance(value, list)}
    ignore = plain.get("ignore")
    if isinstance(ignore, int) and not isinstance(ignore, bool):
        plain = {name: value for name, value in plain.items() if name != "ignore"}
    else:
        ignore = None
    labels: dict[int, str] = {}
    for name, values in sorted(regions.items(), key=lambda item: -len(item[1])):
        for value in values:
            labels[value] = name if len(values) == 1 else f"{name} ({value})"
    labels.update(value_to_name(path, plain) if plain else {})  # a label of its own is the smallest region
    labels.setdefault(0, "background")
    _check_background(path, labels)
    return dict(sorted(labels.items())), ignore


def _check_background(path: Path, labels: dict[int, str]) -> None:
    """Refuse a structure at 0, and a background elsewhere: 0 is what no label covers, and is never segmented."""
    elsewhere = [value for value, name in labels.items() if value != 0 and name.strip().casefold() == "background"]
    words = set(re.split(r"[\W_]+", labels[0].casefold()))
    if elsewhere:
        cause = f"the background is {elsewhere[0]}"
    elif not words & NOTHING:
        cause = f"0 is {labels[0]!r}"
    else:
        return
    raise DataError(
        f'{path}: "labels" says that {cause}; 0 must be the background, which is never segmented. Number the structures from 1 in '
        'the label maps and here, with "0": "background".'
    )


def read_splits(path: Path) -> Splits | None:
    """Folds from a splits_final.json, or None when there is none. Raises DataError for another form."""
    if not path.is_file():
        return None
    splits = read_json(path)
    good = isinstance(splits, list) and all(
        isinstance(split, dict) and all(isinstance(split.get(part), list) for part in ("train", "val"))
        for split in splits
    )
    if not good or not splits:
        raise DataError(f'{path}: expected a list of {{"train": [names], "val": [names]}}; correct or remove the file.')
    return [{part: [str(name) for name in split[part]] for part in ("train", "val")} for split in splits]


def collect_labels(folder: Path, cases: list[Case]) -> dict[int, str]:
    """Labels named by their numbers, from every label map: for a dataset that does not name them.

    Raises:
        LabelError: a map that looks like an image; the rest as `read_label`.
    """
    values: set[int] = set()
    for case in cases:
        assert case.label is not None
        found = np.unique(read_label(case.label).array)
        if len(found) > MOST_LABELS or found[0] < 0:
            raise LabelError(
                f"{case.label}: holds {len(found)} distinct values from {found[0]} to {found[-1]}, expected a label map; is an "
                "image in the labels folder?"
            )
        values.update(int(value) for value in found)
    _tell_numbered(str(folder), tuple(sorted(values - {0})))
    return {0: "background", **{value: f"label_{value}" for value in sorted(values - {0})}}


@functools.cache
def _tell_numbered(folder: str, values: tuple[int, ...]) -> None:
    """Once for a folder: a verb opens it several times."""
    log.warning("%s: no dataset.json names the labels; %s were found and named by their numbers.", folder, list(values))
