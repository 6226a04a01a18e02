"""From verified bytes to an array, in pieces, for every format whose voxels are one run of numbers."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import DataError, LabelError, ResourceError, UnreadableFileError

from ..limits import check_compressed, check_memory, check_voxels
from .buffers import as_bytes
from .stream import Encoding, VerifiedStream, file_size

log = logging.getLogger(__name__)

PIECE_VOXELS = 1 << 20
# Label maps that went through a scaled or float header come back as 0.9999; further away is no rounding
LABEL_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Payload:
    """Where the numbers of a volume are and what they mean.

    Attributes:
        path: the file that holds them (a detached header names another one).
        encoding: raw, gzip or zlib.
        start: byte at which the (compressed) stream begins.
        skip: bytes of the decoded stream before the first voxel.
        dtype: stored type with its byte order.
        shape: extents, fastest axis first.
        channel_axis: index into `shape` of the channels, or None.
        slope, inter: value = stored * slope + inter.
        trailer: bytes that the format may keep behind the voxels.
    """

    path: Path
    encoding: Encoding
    start: int
    skip: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    channel_axis: int | None = None
    slope: float = 1.0
    inter: float = 0.0
    trailer: int = 0

    @property
    def voxels(self) -> int:
        """Numbers stored."""
        count = 1
        for extent in self.shape:
            count *= int(extent)
        return count

    @property
    def scaled(self) -> bool:
        """Whether values differ from the stored numbers."""
        return self.slope != 1.0 or self.inter != 0.0


def check_payload(payload: Payload, *, max_voxels: int | None = None) -> None:
    """Compare the declared size with the limit and with the file, before anything is allocated.

    Raises:
        UnreadableFileError: more voxels than the limit, or more bytes than the file can hold.
    """
    check_voxels(payload.path, payload.voxels, max_voxels)
    declared = payload.voxels * payload.dtype.itemsize
    present = file_size(payload.path) - payload.start
    if payload.encoding == "raw":
        if declared > present - payload.skip:
            raise UnreadableFileError(
                f"{payload.path}: the header declares {declared} bytes of voxels, the file holds "
                f"{max(present - payload.skip, 0)}; it is truncated or its header is wrong. Copy or export it again."
            )
    else:
        check_compressed(payload.path, declared + payload.skip, max(present, 0))


def read_float32(payload: Payload, *, max_voxels: int | None = None) -> NDArray[np.float32]:
    """Voxels of an image as (C, X, Y, Z) float32, scaled; a view whose memory order is the file's.

    Raises:
        UnreadableFileError: truncated, damaged, or larger than declared or allowed.
        DataError: NaN or infinite voxels.
        ResourceError: not enough memory.
    """
    check_payload(payload, max_voxels=max_voxels)
    target = _allocate(payload, np.dtype(np.float32))
    native = payload.dtype.newbyteorder("=") == np.dtype(np.float32) and payload.dtype.isnative and not payload.scaled
    with _opened(payload) as stream:
        for begin in range(0, payload.voxels, PIECE_VOXELS):
            piece = target[begin : begin + PIECE_VOXELS]
            if native:
                stream.read_into(as_bytes(piece), expected=payload.voxels * 4)
            else:
                stored = _read_stored(stream, payload, len(piece))
                _scale(stored, payload, out=piece)
            if payload.dtype.kind == "f" or payload.scaled:
                _refuse_nonfinite(payload.path, piece, begin)
        stream.finish(trailer=payload.trailer)
    return _channel_first(target, payload)


def read_integers(payload: Payload, *, max_voxels: int | None = None) -> NDArray[np.integer]:
    """Voxels of a label map as (X, Y, Z) integers of the smallest fitting type.

    Stored integers come back as they are. Floats, or scaled integers, must lie within `LABEL_TOLERANCE` of whole
    numbers and are rounded, with a warning by name when they are not exact.

    Raises:
        LabelError: fractional or NaN values, values beyond 32 bits, or several channels.
        UnreadableFileError, ResourceError: as in `read_float32`.
    """
    extents = [extent for axis, extent in enumerate(payload.shape) if axis != payload.channel_axis]
    if payload.channel_axis is not None and payload.shape[payload.channel_axis] != 1:
        raise LabelError(
            f"{payload.path}: has {payload.shape[payload.channel_axis]} channels, expected one label map (X, Y, Z); "
            "merge one-hot channels into one map of label values first."
        )
    check_payload(payload, max_voxels=max_voxels)
    exact = payload.dtype.kind in "iu" and not payload.scaled
    target = _allocate(payload, payload.dtype.newbyteorder("=") if exact else np.dtype(np.int32))
    furthest = 0.0
    with _opened(payload) as stream:
        for begin in range(0, payload.voxels, PIECE_VOXELS):
            piece = target[begin : begin + PIECE_VOXELS]
            stored = _read_stored(stream, payload, len(piece))
            if exact:
                piece[...] = stored
            else:
                furthest = max(furthest, _round_labels(stored, payload, out=piece))
        stream.finish(trailer=payload.trailer)
    if furthest > 1e-6:
        log.warning("%s: label values up to %.2g away from whole numbers were rounded.", payload.path, furthest)
    if not exact:
        target = target.astype(smallest_type(target))
    return target.reshape(extents[::-1]).transpose(range(len(extents))[::-1])


def smallest_type(array: NDArray[np.integer]) -> np.dtype[Any]:
    """uint8, int16, uint16 or int32: the first that holds every value."""
    if array.dtype == np.uint8:
        return array.dtype
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    for candidate in (np.uint8, np.int16, np.uint16, np.int32):
        limits = np.iinfo(candidate)
        if limits.min <= low and high <= limits.max:
            return np.dtype(candidate)
    return np.dtype(np.int64)


def _opened(payload: Payload) -> VerifiedStream:
    stream = VerifiedStream(payload.path, payload.encoding, payload.start)
    try:
        stream.skip(payload.skip)
    except BaseException:
        stream.__exit__(None, None, None)
        raise
    return stream


def _allocate(payload: Payload, dtype: np.dtype[Any]) -> NDArray[Any]:
    needed = payload.voxels * dtype.itemsize
    check_memory(payload.path, needed)
    try:
        return np.empty(payload.voxels, dtype=dtype)  # pages are touched only as data arrive
    except MemoryError:
        raise ResourceError(
            f"{payload.path}: needs {needed / 2**30:.1f} GiB for its voxels, which this machine refuses; crop the volume "
            "or use a larger machine."
        ) from None


def _read_stored(stream: VerifiedStream, payload: Payload, count: int) -> NDArray[Any]:
    stored = np.empty(count, dtype=payload.dtype)
    stream.read_into(as_bytes(stored), expected=payload.voxels * payload.dtype.itemsize)
    return stored


def _scale(stored: NDArray[Any], payload: Payload, *, out: NDArray[np.float32]) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        if payload.scaled:
            # float64 for one piece only: int32 and slopes such as 1e-3 would lose digits in float32
            out[...] = stored.astype(np.float64) * payload.slope + payload.inter
        else:
            out[...] = stored


def _round_labels(stored: NDArray[Any], payload: Payload, *, out: NDArray[np.integer]) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        values = stored.astype(np.float64) * payload.slope + payload.inter
        whole = np.rint(values)
        distance = np.abs(values - whole)
    worst = int(np.argmax(distance)) if not np.isnan(distance).any() else int(np.argmax(np.isnan(distance)))
    if not distance[worst] <= LABEL_TOLERANCE:
        raise LabelError(
            f"{payload.path}: holds the value {values[worst]:g}, expected whole label numbers; this looks like a "
            "probability map or an interpolated label. Threshold it, or resample the label with nearest neighbour."
        )
    if np.abs(whole).max(initial=0) > np.iinfo(np.int32).max:
        raise LabelError(f"{payload.path}: label values reach {np.abs(whole).max():g}, expected at most 32 bits.")
    out[...] = whole
    return float(distance[worst])


def _refuse_nonfinite(path: Path, piece: NDArray[np.float32], begin: int) -> None:
    # the sum is finite unless an entry is not: one pass without a boolean copy
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(piece.sum(dtype=np.float64)):
            return
    bad = np.flatnonzero(~np.isfinite(piece))
    if bad.size:
        raise DataError(
            f"{path}: holds {piece[bad[0]]} at voxel number {begin + int(bad[0])} (and maybe more); a network would spread it "
            "over the whole window. Replace such voxels, for example with the background value."
        )


def _channel_first(flat: NDArray[np.float32], payload: Payload) -> NDArray[np.float32]:
    array = flat.reshape(payload.shape[::-1]).transpose(range(len(payload.shape))[::-1])
    if payload.channel_axis is None:
        return array[None]
    return np.moveaxis(array, payload.channel_axis, 0)
