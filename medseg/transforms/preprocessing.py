"""Source volume -> what the network sees, and the record that leads back. Training and prediction use this one object.

Reorient to the closest axes, cut (optional), normalize, resample. Plain numpy and torch; `Preprocessd` and `RestoreLabeld`,
the same steps as MONAI dictionary transforms, are loaded from `monai_preprocessing` when asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ConfigError, GridMismatchError
from medseg.renamed import names_that_left
from medseg.types import Affine, ImageCXYZ

from .grid import GridMap, box_around, make_grid_map
from .normalization import check_entry, normalize
from .resampling import resample_in_memory_order, resample_label
from .room import room_for_image, room_for_label

__all__ = ["Prepared", "Preprocessing"]


@dataclass(frozen=True)
class Prepared:
    """An image on the network's grid and the way back.

    Args:
        image: (C, X, Y, Z) float32, contiguous.
        affine: (4, 4) of the network's grid; exact, also where the spacing had to be rounded.
        source_shape: (X, Y, Z) of the source array.
        source_affine: (4, 4) of the source array.
        grid: which network voxel is which source voxel.
    """

    image: ImageCXYZ
    affine: Affine
    source_shape: tuple[int, ...]
    source_affine: Affine
    grid: GridMap


class Preprocessing:
    """What happens to an image before the network.

    Args:
        spacing: wanted mm per voxel along the network's axes (in `orientation` order), or None to keep each image's own;
            single axes may be None as well.
        normalization: one entry per channel, see `medseg.transforms.normalization`.
        orientation: axis codes of the network's grid.
        crop_to_nonzero: cut the image to the box of its nonzero voxels first (skull-stripped MR).

    Example:
        >>> recipe = Preprocessing([2.0, 2.0, 2.0], [{"kind": "zscore"}])
        >>> recipe.apply(np.ones((1, 8, 8, 8), np.float32), np.eye(4)).image.shape
        (1, 4, 4, 4)
    """

    def __init__(
        self,
        spacing: Sequence[float | None] | None,
        normalization: Sequence[dict[str, Any]],
        orientation: str = "RAS",
        crop_to_nonzero: bool = False,
    ) -> None:
        self.spacing = None if spacing is None else [None if not v else float(v) for v in spacing]
        if self.spacing is not None and (len(self.spacing) != 3 or any(v is not None and v <= 0 for v in self.spacing)):
            raise ConfigError(
                f"spacing {list(spacing or [])}: expected three positive values in mm, or None to keep one"
            )
        self.normalization = [check_entry(dict(entry)) for entry in normalization]
        self.orientation = orientation
        self.crop_to_nonzero = bool(crop_to_nonzero)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready settings, equal for equal behaviour: the key of caches and a line of the provenance record."""
        return {
            "spacing": self.spacing,
            "normalization": self.normalization,
            "orientation": self.orientation,
            "crop_to_nonzero": self.crop_to_nonzero,
        }

    def __repr__(self) -> str:
        return f"Preprocessing({', '.join(f'{key}={value!r}' for key, value in self.to_dict().items())})"

    def grid_map(self, image: ImageCXYZ, affine: Affine) -> GridMap:
        """The network's grid for one image (C, X, Y, Z)."""
        whole = make_grid_map(image.shape[1:], affine, spacing=self.spacing, orientation=self.orientation)
        if not self.crop_to_nonzero:
            return whole
        box = box_around(whole.turn((image != 0).any(axis=0)))
        return make_grid_map(image.shape[1:], affine, spacing=self.spacing, orientation=self.orientation, box=box)

    def apply(self, image: ImageCXYZ, affine: Affine) -> Prepared:
        """Bring an image to the network's grid and intensities.

        Args:
            image: (C, X, Y, Z), one channel per normalization entry; not altered.
            affine: (4, 4) voxel index -> mm, RAS+.

        Raises:
            ConfigError: another number of channels than the plan has.
            DataError: NaN or infinite voxels; GeometryError: an impossible affine.
            ResourceError: the network's grid needs more memory than is free.
        """
        if image.ndim != 4 or image.shape[0] != len(self.normalization):
            raise ConfigError(
                f"image of shape {tuple(image.shape)}: expected (C, X, Y, Z) with {len(self.normalization)} "
                "channel(s), as many as the plan's normalization has"
            )
        affine = np.asarray(affine, dtype=np.float64)
        grid = self.grid_map(image, affine)
        with room_for_image(grid, image.shape[0]):
            result = np.empty((image.shape[0], *grid.shape), dtype=np.float32)
            for channel, entry in enumerate(self.normalization):
                # a copy in the order of the file's memory: turning the axes is left to the smaller, resampled array
                inside = np.array(grid.cut(grid.turn(image[channel])), dtype=np.float32, order="K", copy=True)
                result[channel] = resample_in_memory_order(normalize(inside, entry), grid.shape)
        return Prepared(result, affine @ grid.matrix(), grid.source_shape, affine, grid)

    def apply_label(
        self, label: NDArray[np.integer], affine: Affine, *, grid: GridMap | None = None
    ) -> NDArray[np.integer]:
        """Bring a label map to the grid that `apply` gives its image.

        Args:
            label: (X, Y, Z) integers on the image's grid.
            affine: of the image, to the last digit; not used with `grid`.
            grid: `Prepared.grid` of the image: the sure way, and the only one with `crop_to_nonzero`, which looks at the image.

        Raises:
            GridMismatchError: the label's shape is not the image's.
        """
        if grid is None:
            if self.crop_to_nonzero:
                raise ConfigError("crop_to_nonzero cuts by the image: pass grid=prepared.grid of the label's image")
            grid = make_grid_map(label.shape, affine, spacing=self.spacing, orientation=self.orientation)
        if tuple(label.shape) != grid.source_shape:
            raise GridMismatchError(f"label of shape {tuple(label.shape)} for an image of {grid.source_shape}")
        with room_for_label(grid):
            return resample_label(np.ascontiguousarray(grid.cut(grid.turn(label))), grid.shape)


# names that left this module are found where they are now
__getattr__ = names_that_left(__name__)
