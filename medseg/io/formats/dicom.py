"""A DICOM series in: slices sorted by position, geometry checked, values rescaled. Needs the extra `dicom`.

A folder must hold one series. Missing slices, uneven distances, slices of another series and a tilted gantry are said,
never bridged: a volume with a hole would move every organ below it.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.errors import DataError, GeometryError, MedsegError, ResourceError, UnreadableFileError
from medseg.types import Affine

from ..geometry import check_affine
from ..header import Header, Volume
from ..limits import check_memory, check_voxels
from .dicom_pixels import value_pieces
from .dicom_slices import Slice, pydicom_module, slices_in

# DICOM positions are decimal strings: rounding moves a slice by a few micrometres, a real gap by half a slice or more
EVEN = 0.02
GAP = 0.15


def describe(path: Path, *, allow_shear: bool = False, max_voxels: int | None = None) -> Header:
    """What a series holds, from its headers alone.

    Args:
        path: a folder with one series, or one (multi-frame) file.
        allow_shear: accept a tilted gantry; the voxels keep their place, the axes are not at right angles.
        max_voxels: as in `read_image`.

    Raises:
        UnreadableFileError: no DICOM image, truncated, or damaged.
        DataError: several series, phases or echoes, colour, or pydicom is not installed.
        GeometryError: missing or uneven slices, a tilted gantry, or no positions.
    """
    header, _ = _sorted_series(path, allow_shear=allow_shear, max_voxels=max_voxels)
    return header


def read_series(path: Path, *, allow_shear: bool = False, max_voxels: int | None = None) -> Volume:
    """Read a series as float32 (1, X, Y, Z) in the units of its modality (HU for CT). Raises as `describe`."""
    header, slices = _sorted_series(path, allow_shear=allow_shear, max_voxels=max_voxels)
    check_memory(path, 4 * header.voxels)
    columns, rows, count = header.shape
    try:
        target = np.empty((1, count, rows, columns), dtype=np.float32)
    except MemoryError:
        raise ResourceError(
            f"{path}: needs {header.voxels / 2**28:.1f} GiB for its voxels; this machine has less."
        ) from None
    for index, values in value_pieces(slices):
        if not np.isfinite(values).all():
            raise DataError(f"{slices[index].path}: holds NaN or infinite voxels; replace them first.")
        target[0, index] = values
    return Volume(target.transpose(0, 3, 2, 1), header.affine, header)


def is_dicom_file(path: Path) -> bool:
    """Whether a file is DICOM by its content, whatever its name is; by the name `.dcm` also a damaged one.

    The mark stands at byte 128; files of old archives begin with the first data element instead.
    """
    if path.name.startswith(".") or path.name.upper() == "DICOMDIR":
        return False
    if path.suffix.lower() == ".dcm":
        return True
    if not path.is_file():
        return False  # opening a pipe would wait for ever
    try:
        with open(path, "rb") as file:
            start = file.read(132)
    except OSError:
        return False
    return start[128:] == b"DICM" or _begins_with_element(start)


def _begins_with_element(start: bytes) -> bool:
    """Group 2 or 8 in front, with a type of two letters or a short length: the beginning without a preamble."""
    if len(start) < 132:
        return False
    group, element = int.from_bytes(start[:2], "little"), int.from_bytes(start[2:4], "little")
    typed = start[4:6].isalpha() and start[4:6].isupper()
    length = int.from_bytes(start[6:8] if typed else start[4:8], "little")
    return (group, element) in _FIRST and length <= 64


# first elements of a file without a preamble: group lengths, character set, image type, dates, class and instance
_FIRST = {(2, 0), (2, 1), (2, 2), (8, 0), (8, 1), (8, 5), (8, 8), (8, 0x12), (8, 0x13), (8, 0x16), (8, 0x18), (8, 0x20)}


def holds_image(files: Sequence[Path]) -> bool:
    """Whether any of the DICOM files holds an image, not only reports, structures or segmentations; yes when one is broken."""
    for path in files:
        try:
            if slices_in(path):
                return True
        except MedsegError:
            return True
    return False


def dicom_files(path: Path) -> list[Path]:
    """The DICOM files of a folder in name order, or the file itself. Raises UnreadableFileError when there is none."""
    if not path.exists():
        raise UnreadableFileError(f"{path}: no such file or folder; check the path.")
    if path.is_file():
        return [path]
    files = [file for file in sorted(path.iterdir()) if file.is_file() and is_dicom_file(file)]
    if not files:
        raise UnreadableFileError(f"{path}: holds no DICOM file; give a folder with one series, or a volume file.")
    return files


def _sorted_series(path: Path, *, allow_shear: bool, max_voxels: int | None) -> tuple[Header, list[Slice]]:
    pydicom_module()
    slices = [one for file in dicom_files(path) for one in slices_in(file)]
    if not slices:
        raise UnreadableFileError(
            f"{path}: its DICOM files hold no image (reports, structures or segmentations); check it."
        )
    _one_series(path, slices)
    check_voxels(path, sum(one.rows * one.columns for one in slices), max_voxels)
    normal = np.cross(slices[0].row, slices[0].column)
    slices.sort(key=lambda one: (float(one.position @ normal), one.number))
    warnings = list(dict.fromkeys(sentence for one in slices for sentence in one.warnings))
    step = _slice_step(path, slices, normal, warnings)
    affine = _affine(slices[0], step)
    _check_tilt(path, step, normal, allow_shear=allow_shear)
    check_affine(affine, path, allow_shear=allow_shear)
    header = Header(
        path=path,
        shape=(slices[0].columns, slices[0].rows, len(slices)),
        affine=affine,
        dtype=slices[0].dtype,
        format="dicom",
        modality=slices[0].modality,
        warnings=tuple(warnings),
        series=tuple(dict.fromkeys(one.path for one in slices)),
    )
    return header, slices


_SCALING = {
    "none": "without a rescale",
    "rescale": "with a rescale slope and intercept",
    "table": "with a table (modality LUT)",
}


def _one_series(path: Path, slices: Sequence[Slice]) -> None:
    series: dict[str, list[Slice]] = {}
    for one in slices:
        series.setdefault(one.series, []).append(one)
    if len(series) > 1:
        sizes = ", ".join(
            f"{len(members)} slices such as {members[0].path.name}" for members in list(series.values())[:4]
        )
        raise DataError(f"{path}: holds {len(series)} series ({sizes}); put each into a folder of its own.")
    first = slices[0]
    for one in slices[1:]:
        if (one.rows, one.columns) != (first.rows, first.columns):
            what = f"{one.columns}x{one.rows} voxels, {first.path.name} has {first.columns}x{first.rows}"
        elif not np.allclose(one.spacing, first.spacing, rtol=1e-3):
            what = f"pixel spacing {one.spacing} mm, {first.path.name} has {first.spacing} mm"
        elif not np.allclose([one.row, one.column], [first.row, first.column], atol=2e-3):
            what = f"another orientation than {first.path.name} (a localizer or a second stack)"
        elif one.modality != first.modality:
            what = f"the modality {one.modality or 'unsaid'}, {first.path.name} has {first.modality or 'none'}"
        elif one.patient != first.patient:
            what = f"another patient than {first.path.name}"
        elif one.scaling != first.scaling:
            what = f"values {_SCALING[one.scaling]}, {first.path.name} {_SCALING[first.scaling]}"
        else:
            continue
        raise GeometryError(f"{one.path}: has {what}; put the images that belong together into a folder of their own.")


def _slice_step(
    path: Path, slices: Sequence[Slice], normal: NDArray[np.float64], warnings: list[str]
) -> NDArray[np.float64]:
    """The vector from one slice to the next, in LPS mm."""
    if len(slices) == 1:
        thickness = slices[0].thickness
        if not thickness > 0:
            warnings.append("one slice without a thickness; 1 mm is assumed")
            thickness = 1.0
        return normal * thickness
    heights = np.array([float(one.position @ normal) for one in slices])
    gaps = np.diff(heights)
    step = float(np.median(gaps))
    if gaps.min() <= 1e-3 * max(step, 1e-3):
        where = int(np.argmin(gaps))
        raise DataError(
            f"{path}: {slices[where].path.name} and {slices[where + 1].path.name} lie at the same position (several phases, "
            "echoes or a doubled file); keep one of each."
        )
    uneven = int(np.argmax(np.abs(gaps / step - 1)))
    if abs(gaps[uneven] / step - 1) > EVEN:
        between = f"between {slices[uneven].path.name} and {slices[uneven + 1].path.name}"
        ratio = gaps[uneven] / step
        if round(ratio) >= 2 and abs(ratio - round(ratio)) < GAP:
            lost = round(ratio) - 1
            raise GeometryError(
                f"{path}: {lost} slice{'s are' if lost > 1 else ' is'} missing {between} ({gaps[uneven]:.3g} mm apart, others "
                f"{step:.3g} mm); export the series again."
            )
        raise GeometryError(
            f"{path}: slices are {gaps.min():.3g} to {gaps.max():.3g} mm apart ({gaps[uneven]:.3g} mm {between}); split the "
            "series, or resample it to even distances first."
        )
    mean = (slices[-1].position - slices[0].position) / (len(slices) - 1)
    line = slices[0].position + np.arange(len(slices))[:, None] * mean
    drift = np.linalg.norm(np.array([one.position for one in slices]) - line, axis=1)
    if drift.max() > 0.25 * step + 0.5 * min(slices[0].spacing):
        raise GeometryError(
            f"{slices[int(drift.argmax())].path}: lies {drift.max():.3g} mm off the line of its series; check it."
        )
    return np.asarray(mean, dtype=np.float64)


def _check_tilt(path: Path, step: NDArray[np.float64], normal: NDArray[np.float64], *, allow_shear: bool) -> None:
    cosine = float(step @ normal / (np.linalg.norm(step) * np.linalg.norm(normal)))
    tilt = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    if tilt > 0.3 and not allow_shear:
        raise GeometryError(
            f"{path}: the gantry was tilted by {tilt:.1f} degrees, so that slices are shifted against each other; resample the "
            f"series to a straight grid first: python -m medseg.io.straighten {shlex.quote(str(path))} STRAIGHT.nii.gz"
        )


def _affine(first: Slice, step: NDArray[np.float64]) -> Affine:
    lps = np.eye(4)
    lps[:3, 0] = first.row * first.spacing[1]  # PixelSpacing: between rows, then between columns
    lps[:3, 1] = first.column * first.spacing[0]
    lps[:3, 2] = step
    lps[:3, 3] = first.position
    affine: Affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps
    return affine
