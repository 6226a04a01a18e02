"""FreeSurfer's MGH and MGZ in.

Source: FreeSurfer wiki, "MghFormat": 284 big-endian bytes, voxels, then optional scan parameters and tags.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from medseg.errors import UnreadableFileError
from medseg.types import Affine

from ..geometry import check_affine
from ..header import Header
from .stream import VerifiedStream, is_gzip
from .voxels import Payload

HEADER_BYTES = 284
TYPES: dict[int, np.dtype[Any]] = {
    0: np.dtype("u1"),
    1: np.dtype(">i4"),
    3: np.dtype(">f4"),
    4: np.dtype(">i2"),
    10: np.dtype(">u2"),
}
# the orientation of a volume that states none: coronal slices, 1 mm, centred
DEFAULT_DIRECTIONS = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
LONGEST_TAGS = 16 << 20  # history, colour table and transforms behind the voxels


def describe(path: Path, *, allow_shear: bool = False) -> tuple[Header, Payload]:
    """What an MGH or MGZ file holds and where, from its header.

    Raises:
        UnreadableFileError: missing, not MGH, or a header that contradicts itself.
        GeometryError: no usable affine.
    """
    packed = is_gzip(path)
    with VerifiedStream(path, "gzip" if packed else "raw") as stream:
        start = stream.read(HEADER_BYTES)
    if len(start) < HEADER_BYTES:
        raise UnreadableFileError(f"{path}: truncated inside its header; copy or export the file again.")
    version, x, y, z, frames, code, _, has_geometry = struct.unpack(">7ih", start[:30])
    if version != 1:
        raise UnreadableFileError(f"{path}: is not an MGH file (version {version}, expected 1); check the name.")
    if code not in TYPES:
        raise UnreadableFileError(
            f"{path}: voxel type {code} is not supported, expected {sorted(TYPES)}; convert it first."
        )
    if min(x, y, z, frames) < 1:
        raise UnreadableFileError(
            f"{path}: declares the shape {(x, y, z, frames)}; an axis without voxels. Export it again."
        )
    warnings = () if has_geometry else ("states no orientation; FreeSurfer's default (coronal, 1 mm) is assumed",)
    affine = _affine(np.frombuffer(start[30:90], dtype=">f4").astype(np.float64), (x, y, z), stated=bool(has_geometry))
    check_affine(affine, path, allow_shear=allow_shear)
    dtype = TYPES[code]
    payload = Payload(
        path,
        "gzip" if packed else "raw",
        start=0,
        skip=HEADER_BYTES,
        dtype=dtype,
        shape=(x, y, z, frames) if frames > 1 else (x, y, z),
        channel_axis=3 if frames > 1 else None,
        trailer=LONGEST_TAGS,
    )
    header = Header(
        path, (x, y, z), affine, dtype.newbyteorder("="), channels=frames, format="mgh", warnings=tuple(warnings)
    )
    return header, payload


def _affine(values: np.ndarray, grid: tuple[int, int, int], *, stated: bool) -> Affine:
    spacing, directions, centre = values[:3], values[3:12].reshape(3, 3).T, values[12:15]
    if not stated:
        spacing, directions, centre = np.ones(3), DEFAULT_DIRECTIONS, np.zeros(3)
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = centre - affine[:3, :3] @ (np.array(grid) / 2)
    return affine
