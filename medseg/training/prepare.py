"""From the files of a case to the arrays that training reads: read, check, preprocess, once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from medseg.datasets import check_declared, check_headers, check_label_values, read_case_image
from medseg.errors import DataError, MedsegError, ResourceError
from medseg.io.datalist import Case
from medseg.io.header import Header
from medseg.io.store import StoredArrays, sample_foreground
from medseg.io.volume import read_label
from medseg.transforms.classes import class_values, classes_of
from medseg.transforms.preprocessing import Preprocessing


def preprocess_case(
    preprocessing: Preprocessing, labels: Mapping[int, str], *, ignore_label: int | None = None
) -> Callable[[Case], StoredArrays]:
    """The function that builds the stored arrays of one case.

    Args:
        preprocessing: the object that the predictor reuses.
        labels: label value -> name, background included; stored are class numbers, see `medseg.transforms.classes`.
        ignore_label: value of voxels that were not annotated; they become -1, which the loss leaves out.

    The returned function raises what the readers and checks raise, each naming case and file; anything else, such as a
    shortage of memory, comes back as an error that names the case.
    """

    values = class_values(labels)

    def build(case: Case) -> StoredArrays:
        try:
            return read_and_prepare(case)
        except ResourceError as error:
            raise ResourceError(f"case {case.name!r}: {error}") from error
        except (MedsegError, OSError):
            raise
        except MemoryError as error:
            raise ResourceError(
                f"case {case.name!r}: not enough memory to preprocess it; {case.images[0]}: {error or 'no details'}"
            ) from error
        except Exception as error:
            raise DataError(
                f"case {case.name!r}: cannot be preprocessed: {type(error).__name__}: {error}; {case.images[0]}"
            ) from error

    def read_and_prepare(case: Case) -> StoredArrays:
        image = read_case_image(case, preprocessing.normalization)
        if case.label is None:
            prepared = preprocessing.apply(image.array, image.affine)
            nothing = np.zeros((0, 4), np.int32)
            return StoredArrays(_float32(prepared.image), None, nothing, _properties(prepared, case, image.header))
        check_headers(case)
        label = read_label(case.label)
        check_declared(
            case, check_label_values(label, dict(labels), ignore_label=ignore_label), labels, ignore_label=ignore_label
        )
        prepared = preprocessing.apply(image.array, image.affine)
        # on the image's grid, never on one made of the label's own affine: two affines that count as equal may still round to
        # other axes or another shape, and a crop is decided by the image alone
        label_XYZ = np.asarray(preprocessing.apply_label(label.array, image.affine, grid=prepared.grid))
        stored = classes_of(label_XYZ, values, ignore_label=ignore_label)
        properties = _properties(prepared, case, image.header, label.header)
        return StoredArrays(_float32(prepared.image), stored, sample_foreground(stored), properties)

    return build


def _float32(image: object) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.ascontiguousarray(image, dtype=np.float32)


def _properties(prepared: Any, case: Case, *headers: Header) -> dict[str, Any]:
    return {
        "repairs": list(dict.fromkeys(sentence for header in headers for sentence in header.warnings)),
        "affine": np.asarray(prepared.affine).tolist(),
        "missing_channels": list(case.missing),
    }
