"""The pixels of DICOM files as values."""

from __future__ import annotations

import warnings as python_warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import DataError, UnreadableFileError

from .dicom_mosaic import check_unused
from .dicom_slices import Slice, one_line, pydicom_module, read_dataset

# (types left out, little endian) -> transfer syntax of files that do not say theirs
SYNTAX = {
    (True, True): "1.2.840.10008.1.2",
    (False, True): "1.2.840.10008.1.2.1",
    (False, False): "1.2.840.10008.1.2.2",
    (True, False): "1.2.840.10008.1.2",
}


def value_pieces(slices: Sequence[Slice]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(index into `slices`, values (rows, columns) float32) in an order that opens each file once."""
    by_file: dict[Path, list[int]] = {}
    for index, one in enumerate(slices):
        by_file.setdefault(one.path, []).append(index)
    for path, indices in by_file.items():
        frames, rescaled = _pixels(path, table=slices[indices[0]].scaling == "table")
        _check_mosaic(path, frames, [slices[index] for index in indices])
        for index in indices:
            one = slices[index]
            plane = frames if one.frame is None else frames[one.frame]
            if one.tile is not None:
                plane = plane[one.tile[0] : one.tile[0] + one.rows, one.tile[1] : one.tile[1] + one.columns]
            if plane.shape != (one.rows, one.columns):
                raise UnreadableFileError(
                    f"{path}: its picture has {plane.shape} voxels, its header declares {(one.rows, one.columns)}; export it again."
                )
            yield index, plane.astype(np.float32) if rescaled else (plane * one.slope + one.inter).astype(np.float32)


def _check_mosaic(path: Path, picture: NDArray[Any], slices: Sequence[Slice]) -> None:
    tiles = [one.tile for one in slices if one.tile is not None]
    if tiles and picture.ndim == 2:
        check_unused(path, picture, tiles, (slices[0].rows, slices[0].columns))


def _pixels(path: Path, *, table: bool) -> tuple[NDArray[Any], bool]:
    """Stored numbers (rows, columns) or (frames, rows, columns), and whether they are values already.

    Args:
        path: the file.
        table: the values stand in its modality LUT.
    """
    dataset = read_dataset(path, pixels=True)
    if (
        "TransferSyntaxUID" not in dataset.file_meta
    ):  # a file without a preamble: the types are as they were found while reading
        implicit, little = dataset.original_encoding
        dataset.file_meta.TransferSyntaxUID = SYNTAX[bool(implicit), bool(little)]
    if "PixelData" not in dataset:
        raise UnreadableFileError(f"{path}: has no voxels; it is truncated. Copy or export it again.")
    try:
        with python_warnings.catch_warnings():
            python_warnings.simplefilter("ignore")
            array = dataset.pixel_array
            if table:
                return pydicom_module().pixels.apply_modality_lut(array, dataset), True
    except Exception as error:  # decoders raise what they like
        if isinstance(error, RuntimeError | NotImplementedError) and "missing dependencies" in str(error):
            if table:
                raise DataError(f"{path}: has compressed voxels and a modality LUT; decompress it first.") from None
            return _pixels_by_itk(path), True
        raise UnreadableFileError(f"{path}: its voxels are damaged or truncated ({one_line(error)}).") from None
    return array, False


def _pixels_by_itk(path: Path) -> NDArray[Any]:
    """JPEG kinds that pydicom decodes only with further packages; ITK carries its own decoders."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        array: NDArray[Any] = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    except RuntimeError as error:
        cause = one_line(error)[-120:]
        raise UnreadableFileError(f"{path}: its compressed voxels cannot be decoded ({cause}).") from None
    return array[0] if len(array) == 1 else array
