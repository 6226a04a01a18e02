"""One door for every volume format: header, image, label map in; label map and image out.

    image = read_image("scan.nii.gz")            # (C, X, Y, Z) float32, affine, header
    write_label("label.nii.gz", label, like=image.header)

Errors name the file, the cause and the way out. Oddities that a reader may want to know of are logged by name.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import DataError, GridMismatchError, LabelError, UnreadableFileError
from medseg.types import FilePath

from .file_names import readable_name
from .formats import dicom, metaimage, mgh, nifti, nifti_write, nrrd
from .formats.voxels import check_payload, read_float32, read_integers, smallest_type
from .geometry import check_same_grid
from .header import Header, StoredTransform, Volume

__all__ = [
    "READABLE",
    "WRITABLE",
    "Header",
    "StoredTransform",
    "Volume",
    "case_name",
    "read_header",
    "read_image",
    "read_label",
    "write_image",
    "write_label",
]

log = logging.getLogger(__name__)

# suffix -> module of this folder; longer suffixes first. `describe(path, allow_shear=)` gives (Header, Payload)
READABLE: dict[str, ModuleType] = {
    ".nii.gz": nifti,
    ".hdr.gz": nifti,
    ".img.gz": nifti,
    ".mgh.gz": mgh,
    ".nii": nifti,
    ".hdr": nifti,
    ".img": nifti,
    ".seg.nrrd": nrrd,
    ".nrrd": nrrd,
    ".nhdr": nrrd,
    ".mha": metaimage,
    ".mhd": metaimage,
    ".mgz": mgh,
    ".mgh": mgh,
}
# suffix -> module with `write(path, array, like)`
WRITABLE: dict[str, ModuleType] = {".nii.gz": nifti_write, ".nii": nifti_write, ".nrrd": nrrd, ".mha": metaimage}
DICOM_SUFFIX = ".dcm"


@np.errstate(all="ignore")  # a header may hold any bits; every value is checked by name
def read_header(path: FilePath, *, allow_shear: bool = False, max_voxels: int | None = None) -> Header:
    """What a volume file says about itself, without its voxels; a few milliseconds for any size.

    The declared size is already compared with the file's size and with the limit.

    Raises:
        UnreadableFileError, GeometryError, DataError: as the format's reader.
    """
    path = Path(path)
    if _is_series(path):
        return dicom.describe(path, allow_shear=allow_shear, max_voxels=max_voxels)
    header, payload = _module_for(path).describe(path, allow_shear=allow_shear)
    check_payload(payload, max_voxels=max_voxels)
    return header


@np.errstate(all="ignore")  # a header may hold any bits; every value is checked by name
def read_image(
    path: FilePath | Sequence[FilePath], *, allow_shear: bool = False, max_voxels: int | None = None
) -> Volume:
    """Read an image as float32 (C, X, Y, Z).

    Args:
        path: a file, a folder with one DICOM series, or several of these, whose channels are stacked in order.
        allow_shear: accept an affine whose axes are not at right angles.
        max_voxels: largest number of voxels in one file; default from MEDSEG_MAX_VOXELS, else 1.5e9.

    Raises:
        UnreadableFileError: missing, truncated, damaged, or of an unknown format.
        GeometryError: no usable affine; GridMismatchError: several files on different grids.
        DataError: NaN, infinite, complex or colour voxels.
        ResourceError: not enough memory.
    """
    if not isinstance(path, str | Path) and isinstance(path, Sequence):
        return _stack([read_image(one, allow_shear=allow_shear, max_voxels=max_voxels) for one in path])
    path = Path(path)  # type: ignore[arg-type]
    if _is_series(path):
        volume = dicom.read_series(path, allow_shear=allow_shear, max_voxels=max_voxels)
    else:
        header, payload = _module_for(path).describe(path, allow_shear=allow_shear)
        volume = Volume(read_float32(payload, max_voxels=max_voxels), header.affine, header)
    for sentence in volume.header.warnings:
        log.warning("%s: %s.", path, sentence)
    return volume


@np.errstate(all="ignore")  # a header may hold any bits; every value is checked by name
def read_label(path: FilePath, *, allow_shear: bool = False, max_voxels: int | None = None) -> Volume:
    """Read a label map as integers (X, Y, Z).

    Raises:
        LabelError: fractional or NaN values, or several channels.
        UnreadableFileError, GeometryError, ResourceError: as `read_image`.
    """
    path = Path(path)
    if _is_series(path):
        raise LabelError(f"{path}: is a DICOM series; label maps are read from NIfTI, NRRD, MetaImage or MGH files.")
    header, payload = _module_for(path).describe(path, allow_shear=allow_shear)
    volume = Volume(read_integers(payload, max_voxels=max_voxels), header.affine, header)
    for sentence in header.warnings:
        log.warning("%s: %s.", path, sentence)
    return volume


def write_label(path: FilePath, array: NDArray[np.integer], like: Header | Volume, *, dtype: Any = None) -> None:
    """Write an integer label map (X, Y, Z) on the grid of `like`, whole or not at all.

    Args:
        path: ends in one of `WRITABLE`.
        array: integers or booleans (X, Y, Z).
        like: the header (or volume) of the image that was segmented; its stored geometry is kept bit for bit.
        dtype: stored type; the smallest that holds the values by default.

    Raises:
        GridMismatchError: the array has another shape than `like`.
        LabelError: not integers, or values that `dtype` cannot hold.
        ResourceError: the file cannot be written.
    """
    path, header = Path(path), _header_of(like)
    array = np.asarray(array)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    if array.dtype.kind not in "iu":
        raise LabelError(f"{path}: a label map of type {array.dtype}, expected integers; use argmax or round first.")
    if tuple(array.shape) != tuple(header.shape):
        raise GridMismatchError(
            f"{path}: label map of shape {array.shape} for an image of shape {tuple(header.shape)}."
        )
    target = smallest_type(array) if dtype is None else np.dtype(dtype)
    converted = array.astype(target, copy=False)
    if dtype is not None and not np.array_equal(converted, array):
        raise LabelError(f"{path}: label values up to {int(array.max())} do not fit into {target}.")
    _writer_for(path).write(path, converted, header)


def write_image(path: FilePath, array: NDArray[Any], like: Header | Volume) -> None:
    """Write an image (X, Y, Z) or (C, X, Y, Z) on the grid of `like`, in the array's own type (float16 as float32).

    Raises:
        GridMismatchError, ResourceError: as `write_label`.
    """
    path, header = Path(path), _header_of(like)
    array = np.asarray(array)
    if array.ndim not in (3, 4) or tuple(array.shape[-3:]) != tuple(header.shape):
        raise GridMismatchError(f"{path}: image of shape {array.shape} for a grid of {tuple(header.shape)}.")
    if array.dtype in (np.float16, np.bool_):
        array = array.astype(np.float32 if array.dtype == np.float16 else np.uint8)
    _writer_for(path).write(path, array, header)


def case_name(path: FilePath) -> str:
    """A file's name without its volume suffix; a folder's own name. In readable letters, whatever its bytes are.

    Example:
        >>> case_name("scans/patient.1.nii.gz")
        'patient.1'
    """
    path = Path(path)
    suffix = _suffix(path, (*READABLE, DICOM_SUFFIX))
    return readable_name(path.name[: -len(suffix)] if suffix else path.name)


def is_volume_file(path: Path) -> bool:
    """Whether the name ends like a volume that can be read (the second half of a pair does not count)."""
    suffix = _suffix(path, READABLE)
    return bool(suffix) and suffix not in (".img", ".img.gz") and not path.name.startswith(".")


def voxel_files(path: Path) -> list[Path]:
    """The further files that hold a volume's voxels or its header; none where one file holds all."""
    suffix = _suffix(path, READABLE)
    find = getattr(READABLE[suffix], "voxel_files", None) if suffix else None
    return find(path) if find else []


def _stack(volumes: list[Volume]) -> Volume:
    if not volumes:
        raise DataError("no image files were given for this case.")
    first = volumes[0]
    for other in volumes[1:]:
        check_same_grid(first, other, whose=f"{first.path} and {other.path}")
    if len(volumes) == 1:
        return first
    return Volume(np.concatenate([volume.array for volume in volumes]), first.affine, first.header)


def _suffix(path: Path, known: Iterable[str]) -> str:
    name = path.name.lower()
    return next((suffix for suffix in known if name.endswith(suffix) and len(name) > len(suffix)), "")


def _is_series(path: Path) -> bool:
    return path.is_dir() or dicom.is_dicom_file(path)


def _module_for(path: Path) -> ModuleType:
    suffix = _suffix(path, READABLE)
    if not suffix:
        if not path.exists():
            raise UnreadableFileError(f"{path}: no such file; check the path.")
        raise UnreadableFileError(
            f"{path}: unknown volume format; readable are {', '.join(READABLE)} and DICOM folders."
        )
    return READABLE[suffix]


def _writer_for(path: Path) -> ModuleType:
    suffix = _suffix(path, WRITABLE)
    if not suffix:
        raise DataError(f"{path}: unknown format to write; choose a name that ends in {' or '.join(WRITABLE)}.")
    return WRITABLE[suffix]


def _header_of(like: Header | Volume) -> Header:
    return like.header if isinstance(like, Volume) else like
