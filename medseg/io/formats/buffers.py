"""An array's memory as bytes."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray


def as_bytes(array: NDArray[Any]) -> memoryview:
    """A writable view of the bytes of a C-contiguous array, any type and byte order, without a copy."""
    assert array.flags.c_contiguous
    return memoryview(cast(Any, array.reshape(-1).view(np.uint8)))
