"""Words shared by every floor: shapes and units as names.

B batch, C channels, K classes, X Y Z space. Arrays are channel-first (C, X, Y, Z) from the reader on; token stages of
the networks are channels-last (B, X, Y, Z, C). `spacing` is mm per voxel in array axis order, `affine` maps voxel
indices to world millimetres, RAS+.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Grid: TypeAlias = tuple[int, ...]
Spacing: TypeAlias = Sequence[float]
Affine: TypeAlias = NDArray[np.float64]  # (4, 4)
ImageCXYZ: TypeAlias = NDArray[np.float32]
LabelXYZ: TypeAlias = NDArray[np.integer]
MaskXYZ: TypeAlias = NDArray[np.bool_]
FilePath: TypeAlias = str | PathLike[str]
