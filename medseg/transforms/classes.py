"""Label values of files and class numbers of the network: value 255 of a mask is class 1 of two.

Classes are the declared values in ascending order, the background 0 first. Inside a training there are class numbers only; the
values come back where label maps are written (`label_values` of the predictor, `labels` of `RestoreLabeld`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import LabelError

IGNORED = -1


def class_values(labels: Iterable[int]) -> tuple[int, ...]:
    """The label value of each class.

    Example:
        >>> class_values({255: "lesion", 0: "background"})
        (0, 255)
    """
    return tuple(sorted({0, *(int(value) for value in labels)}))


def class_names(labels: Mapping[Any, str]) -> dict[int, str]:
    """Class number -> name, without the background. `labels` is label value -> name; keys may be text, as JSON has no other."""
    names = {int(value): name for value, name in labels.items()}
    return {number: names[value] for number, value in enumerate(class_values(names)) if value != 0}


def classes_of(
    label: NDArray[np.integer], values: Sequence[int], *, ignore_label: int | None = None
) -> NDArray[np.integer]:
    """A label map in class numbers, in the smallest type that holds them.

    Args:
        label: integers of any type and shape.
        values: `class_values` of the dataset.
        ignore_label: value of voxels that were not annotated; they become -1.

    Raises:
        LabelError: a value that is neither.
    """
    found, place = np.unique(label, return_inverse=True)
    numbers = {value: number for number, value in enumerate(values)}
    if ignore_label is not None:
        numbers[ignore_label] = IGNORED
    unknown = [int(value) for value in found if int(value) not in numbers]
    if unknown:
        raise LabelError(f"label values {unknown[:8]} are none of {list(values)[:40]}")
    table = np.array([numbers[int(value)] for value in found], dtype=np.int64)
    kind: type[np.integer] = np.uint8 if len(values) <= 256 else np.int32
    if table.min(initial=0) < 0:
        kind = np.int16 if len(values) <= 32_768 else np.int32
    return np.ascontiguousarray(table.astype(kind)[place].reshape(label.shape))


def label_dtype(largest: int) -> type[np.unsignedinteger]:
    """The smallest unsigned type that holds the labels."""
    if largest < 1 << 8:
        return np.uint8
    return np.uint16 if largest < 1 << 16 else np.uint32
