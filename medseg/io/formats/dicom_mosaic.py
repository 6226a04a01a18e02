"""A Siemens mosaic, the slices of one volume laid out as tiles of one picture: how many there are, and where each lies.

The picture's own position is that of a corner that no slice has: the scanner writes it as if the whole picture, as large as
its tiles together, lay round the middle of the first slice. The number of slices and the direction in which they follow each other
stand in the scanner's private header alone. Source: the public descriptions of mosaics in dcm2niix and nibabel; the test compares
with nibabel's reader.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import DataError, GeometryError

from .siemens_csa import csa_fields

REMEDY = (
    "export the series again with its private headers, or as single slices (Siemens: switch off 'mosaic'; dcm2niix splits the "
    "original, and the NIfTI file it writes can be read)"
)
# the stacking direction is the plane's normal; what decimal strings lose turns it by far less
PARALLEL = 1e-3
MOST_SLICES = 1024


@dataclass(frozen=True, eq=False)
class Mosaic:
    """Tiles of one picture: `corner` of the picture as its header says, and the first slice's place, in LPS mm.

    `rows` and `columns` are a tile's, `across` tiles stand beside each other, `step` leads from a slice to the next.
    """

    count: int
    across: int
    rows: int
    columns: int
    first: NDArray[np.float64]
    step: NDArray[np.float64]

    def tiles(self) -> Iterator[tuple[tuple[int, int], NDArray[np.float64]]]:
        """(first row and first column in the picture, position in LPS mm) of each slice."""
        for index in range(self.count):
            down, right = divmod(index, self.across)
            yield (down * self.rows, right * self.columns), self.first + index * self.step


def is_mosaic(dataset: Any) -> bool:
    """Whether the image type says that one picture holds many slices."""
    kinds = dataset.get("ImageType") or ()
    return "MOSAIC" in [str(one).upper() for one in ([kinds] if isinstance(kinds, str) else kinds)]


def mosaic_of(
    path: Path,
    dataset: Any,
    *,
    corner: NDArray[np.float64],
    axes: tuple[NDArray[np.float64], NDArray[np.float64]],
    spacing: tuple[float, float],
    distance: float,
) -> Mosaic:
    """Where the slices of a mosaic lie.

    Args:
        path: for the errors.
        dataset: all of the file's header, private elements included.
        corner: ImagePositionPatient, LPS mm.
        axes: directions of growing column and row index.
        spacing: PixelSpacing, mm between rows and between columns.
        distance: mm from slice to slice.

    Raises:
        DataError: a fact is missing that only the private header holds, or contradicts the picture.
        GeometryError: the slices' direction is not the plane's normal.
    """
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise DataError(f"{path}: is a mosaic of {dataset.NumberOfFrames} frames, expected one; {REMEDY}.")
    fields = csa_fields(dataset)
    count = _count(path, dataset, fields)
    across = math.isqrt(count - 1) + 1
    size = int(dataset.Rows), int(dataset.Columns)
    if size[0] % across or size[1] % across:
        raise DataError(
            f"{path}: is a mosaic of {count} slices, whose picture of {size[1]}x{size[0]} voxels is not {across} tiles wide and "
            f"high; {REMEDY}."
        )
    if not distance > 0:
        raise DataError(
            f"{path}: is a mosaic without SpacingBetweenSlices, so the distance of its slices is unknown; {REMEDY}."
        )
    rows, columns = size[0] // across, size[1] // across
    row, column = axes
    first = corner + row * spacing[1] * (size[1] - columns) / 2 + column * spacing[0] * (size[0] - rows) / 2
    return Mosaic(count, across, rows, columns, first, distance * _normal(path, fields, row, column))


def check_unused(path: Path, picture: NDArray[Any], used: list[tuple[int, int]], tile: tuple[int, int]) -> None:
    """Refuse a mosaic that shows something where its header counts no slice. Raises DataError.

    Args:
        path: for the error.
        picture: stored numbers (rows, columns) of the whole mosaic.
        used: first row and column of each counted tile.
        tile: rows and columns of one.
    """
    corners = {
        (down, right) for down in range(0, picture.shape[0], tile[0]) for right in range(0, picture.shape[1], tile[1])
    } - set(used)
    for down, right in sorted(corners):
        piece = picture[down : down + tile[0], right : right + tile[1]]
        if piece.size and piece.min() != piece.max():
            raise DataError(
                f"{path}: is a mosaic whose header counts {len(used)} slices, and shows another at row {down}, column {right}; "
                f"its header was changed: {REMEDY}."
            )


def _count(path: Path, dataset: object, fields: dict[str, list[str]]) -> int:
    stated = [*fields.get("NumberOfImagesInMosaic", []), *_elsewhere(dataset)]
    numbers = {int(float(word)) for word in stated if word}
    if len(numbers) > 1:
        raise DataError(
            f"{path}: is a mosaic whose headers count {' and '.join(map(str, sorted(numbers)))} slices; {REMEDY}."
        )
    if not numbers:
        raise DataError(
            f"{path}: is a mosaic, many slices in one picture, and has no private header (SIEMENS CSA HEADER) that says how many; "
            f"de-identification removes it: {REMEDY}."
        )
    (count,) = numbers
    if not 1 <= count <= MOST_SLICES:
        raise DataError(f"{path}: is a mosaic of {count} slices, expected 1 to {MOST_SLICES}; {REMEDY}.")
    return count


def _elsewhere(dataset: Any) -> list[str]:
    """The number of slices as the scanner's other private block states it."""
    try:
        return [str(dataset.private_block(0x0019, "SIEMENS MR HEADER")[0x0A].value)]
    except KeyError:
        return []


def _normal(
    path: Path, fields: dict[str, list[str]], row: NDArray[np.float64], column: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The unit direction from slice to slice: the plane's normal, with the sign that the private header gives it."""
    words = [word for word in fields.get("SliceNormalVector", []) if word]
    if len(words) != 3:
        raise DataError(
            f"{path}: is a mosaic whose private header has no SliceNormalVector, so head and foot cannot be told apart; {REMEDY}."
        )
    numbering = [word for word in fields.get("ProtocolSliceNumber", []) if word]
    if numbering and int(float(numbering[0])) > 1:
        raise DataError(
            f"{path}: is a mosaic that begins with slice {int(float(numbering[0])) + 1} of its protocol (reversed image numbering), "
            f"so that head and foot cannot be told apart; {REMEDY}."
        )
    plane = np.cross(row, column)
    said = np.array([float(word) for word in words])
    cosine = float(said @ plane) / (float(np.linalg.norm(said)) or 1.0)
    if not abs(cosine) > 1 - PARALLEL:
        raise GeometryError(
            f"{path}: is a mosaic whose slices follow each other along {said.tolist()}, not along their plane's normal "
            f"{plane.round(4).tolist()}; {REMEDY}."
        )
    return np.asarray(plane * math.copysign(1.0, cosine), dtype=np.float64)
