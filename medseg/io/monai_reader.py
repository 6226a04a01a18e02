"""Our door as MONAI's `ImageReader`, so that what `medseg predict` refuses is refused by `python -m monai.bundle run` too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import ImageReader
from numpy.typing import NDArray

from .volume import read_image


class VolumeReader(ImageReader):
    """For `LoadImage(reader=...)`: every check of `medseg.io`, every format it reads, DICOM folders included.

    Files are read in `get_data`: what goes wrong in `read` MONAI takes for "not my format" and buries in a list of attempts.

    Args:
        allow_shear: accept an affine whose axes are not at right angles.

    Example:
        >>> VolumeReader().verify_suffix("scan.nii.gz")
        True
    """

    def __init__(self, allow_shear: bool = False) -> None:
        self.allow_shear = bool(allow_shear)

    def verify_suffix(self, filename: object) -> bool:
        """True: what cannot be read ends in an error that says why."""
        return True

    def read(self, data: Any, **_: Any) -> list[Path]:
        """The files of one image; several are its channels in order."""
        many = data if isinstance(data, Sequence) and not isinstance(data, str) else [data]
        return [Path(one) for one in many]

    def get_data(self, img: list[Path]) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Voxels (C, X, Y, Z) float32 and their metadata, affine RAS+ in mm.

        Raises:
            UnreadableFileError, GeometryError, GridMismatchError, DataError, ResourceError: as `medseg.io.read_image`.
        """
        volume = read_image(img if len(img) > 1 else img[0], allow_shear=self.allow_shear)
        return np.asarray(volume.array), {
            "affine": volume.affine.copy(),
            "original_affine": volume.affine.copy(),
            "spatial_shape": np.asarray(volume.grid),
            "original_channel_dim": 0,
            "space": "RAS",
        }
