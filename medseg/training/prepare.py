"""From the files of a case to the arrays that training reads: read, check, preprocess, once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from medseg.io.datalist import Case
from medseg.io.store import StoredArrays, sample_foreground
from medseg.io.volume import read_image, read_label
from medseg.planning.fingerprint import check_case
from medseg.transforms.preprocessing import Preprocessing


def preprocess_case(preprocessing: Preprocessing, labels: Mapping[int, str]) -> Callable[[Case], StoredArrays]:
    """The function that builds the stored arrays of one case.

    The returned function raises what `read_image`, `read_label` and `check_case` raise, each naming case and file.
    """

    def build(case: Case) -> StoredArrays:
        image = read_image(case.images)
        if case.label is None:
            prepared = preprocessing.apply(image.array, image.affine)
            return StoredArrays(_float32(prepared.image), None, np.zeros((0, 4), np.int32), _properties(prepared, case))
        label = read_label(case.label)
        check_case(case, image, label, labels)
        prepared = preprocessing.apply(image.array, image.affine)
        label_XYZ = np.asarray(preprocessing.apply_label(label.array, label.affine))
        smallest = np.int8 if label_XYZ.max(initial=0) < 128 else np.int16
        stored = np.ascontiguousarray(label_XYZ.astype(smallest))
        return StoredArrays(_float32(prepared.image), stored, sample_foreground(stored), _properties(prepared, case))

    return build


def _float32(image: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.ascontiguousarray(image, dtype=np.float32)


def _properties(prepared: Any, case: Case) -> dict[str, Any]:
    return {
        "affine": np.asarray(prepared.affine).tolist(),
        "labels_present": list(case.labels_present) if case.labels_present is not None else None,
    }
