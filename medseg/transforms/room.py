"""Memory for a resampled grid, asked for before it is taken: a spacing that is wrong by a thousand asks for a billion times more."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from medseg.errors import ResourceError
from medseg.free_memory import free_memory

from .grid import GridMap

# Below this nobody asks: the answer costs more than it saves.
ASK_ABOVE_BYTES = 256 * 2**20
# What an image voxel and a label voxel of the new grid take while they are made: results, one channel or one label's share.
IMAGE_BYTES, LABEL_BYTES = 4, 16
_waiting = threading.Condition()
_taken = 0


@contextmanager
def room_for_image(grid: GridMap, channels: int) -> Iterator[None]:
    """Room for an image (channels, *grid.shape) float32, and for one channel of it on the way, in both grids.

    Raises:
        ResourceError: that much memory is not free.
    """
    voxels = math.prod(grid.shape)
    with _room(grid, IMAGE_BYTES * ((channels + 1) * voxels + math.prod(grid.extent))):
        yield


@contextmanager
def room_for_label(grid: GridMap) -> Iterator[None]:
    """Room for a label map on the grid while its labels vote. Raises ResourceError as `room_for_image`."""
    with _room(grid, LABEL_BYTES * math.prod(grid.shape)):
        yield


@contextmanager
def _room(grid: GridMap, needed: int) -> Iterator[None]:
    """Threads that need much wait for each other rather than fail together."""
    global _taken
    if needed < ASK_ABOVE_BYTES:
        yield
        return
    with _waiting:
        while needed > (free := free_memory()) - _taken:
            if _taken == 0:
                raise ResourceError(_refusal(grid, needed, free))
            _waiting.wait(1.0)
        _taken += needed
    try:
        yield
    finally:
        with _waiting:
            _taken -= needed
            _waiting.notify_all()


def _refusal(grid: GridMap, needed: int, free: int) -> str:
    new, old = (" x ".join(map(str, shape)) for shape in (grid.shape, grid.extent))
    return (
        f"the network's grid of {new} voxels (the image has {old}) needs {needed / 2**30:.1f} GiB of memory, "
        f"{free / 2**30:.1f} GiB are free; check the spacing in the image's header, crop the image, or use a larger machine"
    )
