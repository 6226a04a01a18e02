"""One input of the corpus: how it is made and the answer it must get."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SHAPE = (8, 6, 5)
AFFINE = np.array([[-1.5, 0.1, 0.0, 10.0], [0.1, 1.5, 0.0, -20.0], [0.0, 0.0, 3.0, 5.0], [0, 0, 0, 1]])


def voxels(dtype: str = "i2", shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """(X, Y, Z) whole numbers from 0 to 99, the same on every call."""
    return np.random.default_rng(7).integers(0, 100, shape).astype(dtype)


@dataclass(frozen=True)
class Entry:
    """One malformed or odd input.

    Attributes:
        make: writes it below an empty folder and returns the path to give to a reader.
        error: regular expression that the one-line error must match, or None when the input is legitimate.
        kind: "image" for `read_image`, "label" for `read_label`.
        expected: what a legitimate input must give: (array, affine); affine None skips that comparison.
        warning: regular expression of a sentence that must be logged with it, or "".
    """

    make: Callable[[Path], Path]
    error: str | None = None
    kind: str = "image"
    expected: Callable[[], tuple[np.ndarray, np.ndarray | None]] | None = None
    warning: str = ""

    @property
    def broken(self) -> bool:
        """Whether it must be refused."""
        return self.error is not None
