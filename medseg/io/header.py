"""What a file says about its voxels (`Header`), and the voxels with it (`Volume`)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GridMismatchError
from medseg.types import Affine, FilePath, Grid

from .geometry import orientation_of, spacing_of


@dataclass(frozen=True, eq=False)
class StoredTransform:
    """NIfTI's own transform fields, kept bit for bit so that an output can carry exactly what the input carried.

    Values are float64, which holds NIfTI-1's float32 and NIfTI-2's float64 without change. `pixdim` is entries 0 to 3
    (qfac and spacing as stored), `quaternion` b, c, d, `offset` the qform's shift, `srow` (3, 4), `units` xyzt_units.
    `exact` says that they were read from a NIfTI file, so that not one bit may be lost when they are written.
    """

    qform_code: int
    sform_code: int
    pixdim: NDArray[np.float64]
    quaternion: NDArray[np.float64]
    offset: NDArray[np.float64]
    srow: NDArray[np.float64]
    units: int = 2
    exact: bool = False


@dataclass(frozen=True, eq=False)
class Header:
    """Where the voxels of one file lie and how they are stored; cheap to read.

    Attributes:
        path: the file (for DICOM, the folder of the series).
        shape: (X, Y, Z).
        affine: voxel index -> world mm, RAS+, float64 (4, 4).
        dtype: type of the stored numbers, native byte order.
        channels: channels per voxel (a fourth NIfTI axis, or a vector).
        format: "nifti", "nrrd", "metaimage", "mgh", "dicom" or "array".
        stored: the NIfTI fields behind the affine, or None for other formats.
        modality: DICOM's Modality ("CT", "MR", ...), "" elsewhere.
        warnings: legitimate oddities that a person may want to know of, one sentence each.
        series: DICOM files in slice order, () elsewhere.
    """

    path: Path
    shape: Grid
    affine: Affine
    dtype: np.dtype[Any]
    channels: int = 1
    format: str = "nifti"
    stored: StoredTransform | None = None
    modality: str = ""
    warnings: tuple[str, ...] = ()
    series: tuple[Path, ...] = ()

    @classmethod
    def of_array(cls, shape: Grid, affine: Affine, *, path: FilePath = "array") -> Header:
        """A header for voxels that never were a file: last three entries of `shape` are X, Y, Z."""
        grid = tuple(int(extent) for extent in shape[-3:])
        channels = int(shape[0]) if len(shape) == 4 else 1
        affine = np.asarray(affine, dtype=np.float64).copy()
        return cls(Path(path), grid, affine, np.dtype(np.float32), channels=channels, format="array")

    @property
    def grid(self) -> Grid:
        """(X, Y, Z), the same as `shape`."""
        return self.shape

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres per voxel along X, Y, Z."""
        return spacing_of(self.affine)

    @property
    def orientation(self) -> str:
        """Direction in which each axis grows, such as "RAS"."""
        return orientation_of(self.affine)

    @property
    def qform_code(self) -> int:
        """NIfTI's qform_code, 0 where the format has none."""
        return self.stored.qform_code if self.stored else 0

    @property
    def sform_code(self) -> int:
        """NIfTI's sform_code, 0 where the format has none."""
        return self.stored.sform_code if self.stored else 0

    @property
    def voxels(self) -> int:
        """Numbers in the file: channels times X times Y times Z."""
        return self.channels * int(np.prod([int(extent) for extent in self.shape], dtype=object))

    def on_grid(self, shape: Grid, affine: Affine) -> Header:
        """The same header on another grid; the stored NIfTI fields no longer apply and are dropped."""
        affine = np.asarray(affine, dtype=np.float64).copy()
        return dataclasses.replace(self, shape=tuple(shape), affine=affine, stored=None, series=())


@dataclass(eq=False)
class Volume:
    """Voxels on their grid.

    Attributes:
        array: image float32 (C, X, Y, Z), or label map, integer (X, Y, Z). The memory order is the file's (X fastest
            for most formats): call `numpy.ascontiguousarray` where order matters.
        affine: voxel index -> world mm, RAS+, float64 (4, 4).
        header: what the file said.
    """

    array: NDArray[Any]
    affine: Affine
    header: Header

    @property
    def grid(self) -> Grid:
        """(X, Y, Z)."""
        return tuple(int(extent) for extent in self.array.shape[-3:])

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres per voxel along X, Y, Z."""
        return spacing_of(self.affine)

    @property
    def path(self) -> Path:
        """The file it came from."""
        return self.header.path

    def on_grid_of(self, array: NDArray[Any], like: Any) -> Volume:
        """A volume with new voxels on the grid of `like` (a Volume or Header)."""
        if tuple(array.shape[-3:]) != tuple(like.grid):
            raise GridMismatchError(f"{self.path}: array of shape {array.shape} for a grid of {tuple(like.grid)}.")
        header = like.header if isinstance(like, Volume) else like
        affine = np.asarray(like.affine, dtype=np.float64).copy()
        return Volume(array, affine, dataclasses.replace(header, path=self.header.path))
