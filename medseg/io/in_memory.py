"""Images in memory (arrays, tensors, nibabel, SimpleITK) become volumes, and label maps go back as the image came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import DataError
from medseg.types import Affine

from .header import Header, Volume

# ITK's world has X to the left and Y to the back; ours is RAS+
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def affine_of(affine: Affine | None, spacing: Sequence[float] | None) -> Affine | None:
    """The affine that a caller gave for an array, outright or as spacing; None when neither was given.

    Raises:
        DataError: both, or no affine or spacing at all.
    """
    if affine is not None and spacing is not None:
        raise DataError("both affine and spacing were given; expected one of them")
    if spacing is not None:
        steps = [float(step) for step in spacing]
        if len(steps) != 3 or not all(np.isfinite(step) and step > 0 for step in steps):
            raise DataError(f"spacing={list(spacing)}: expected three positive numbers, mm along X, Y and Z")
        return np.diag([*steps, 1.0])
    if affine is None:
        return None
    given = np.asarray(affine, dtype=np.float64)
    if given.shape != (4, 4):
        raise DataError(f"affine of shape {given.shape}: expected (4, 4), voxel index -> world mm, RAS+")
    return given


def volume_of(image: object, affine: Affine | None) -> Volume:
    """What is in memory as a volume.

    Args:
        image: an array or tensor (X, Y, Z) or (C, X, Y, Z), a nibabel or SimpleITK image, or a list, one per channel.
        affine: of arrays, voxel index -> world mm, RAS+; other kinds bring their own.

    Raises:
        DataError: no affine, other shapes or types than an image has, several grids, NaN or infinity.
    """
    parts = [_one(part, affine) for part in image] if isinstance(image, list | tuple) else [_one(image, affine)]
    if not parts:
        raise DataError("no image was given")
    array, found = parts[0]
    for other, place in parts[1:]:
        if other.shape[1:] != array.shape[1:] or not np.allclose(place, found, atol=1e-4):
            raise DataError("the channels lie on different grids; resample them to one grid first")
    array = np.concatenate([part for part, _ in parts]) if len(parts) > 1 else array
    if not np.isfinite(array).all():
        raise DataError(
            f"the image holds {int((~np.isfinite(array)).sum())} NaN or infinite voxels; replace them first"
        )
    return Volume(array, found, Header.of_array(array.shape, found))


def _one(image: Any, affine: Affine | None) -> tuple[NDArray[np.float32], Affine]:
    kind = _kind(image)
    if kind == "nibabel":
        values, own = np.asarray(image.dataobj), np.asarray(image.affine, dtype=np.float64)
        values = np.moveaxis(values, 3, 0) if values.ndim == 4 else values
    elif kind == "SimpleITK":
        import SimpleITK

        own = _affine_of_itk(image)
        values = SimpleITK.GetArrayFromImage(image).T  # (C,) X, Y, Z
    else:
        values = image.detach().cpu().numpy() if kind == "torch" else np.asarray(image)
        place = np.asarray(image.affine.cpu(), dtype=np.float64) if hasattr(image, "applied_operations") else affine
        if place is None:
            raise DataError("an array does not say where it lies: give spacing=(x, y, z) in mm, or affine=")
        own = place
    if values.dtype.kind not in "biuf" or values.ndim not in (3, 4):
        raise DataError(
            f"image of type {values.dtype} and shape {values.shape}: expected real numbers (X, Y, Z) or (C, X, Y, Z)"
        )
    values = values if values.ndim == 4 else values[None]
    return values.astype(np.float32, copy=False), own


def _kind(image: object) -> str:
    """Which library an image comes from, without importing one."""
    module = type(image).__module__.partition(".")[0]
    names = {cls.__module__.partition(".")[0] for cls in type(image).__mro__}
    return next((name for name in ("nibabel", "SimpleITK", "torch") if name in names), module)


def _affine_of_itk(image: Any) -> Affine:
    affine = np.eye(4)
    direction = np.asarray(image.GetDirection(), dtype=np.float64)
    if direction.size != 9:
        raise DataError(f"a SimpleITK image of {image.GetDimension()} dimensions: expected three")
    affine[:3, :3] = direction.reshape(3, 3) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return _LPS @ affine


def as_given(label: NDArray[np.integer], image: Any, volume: Volume) -> object:
    """A label map (X, Y, Z) as the kind of thing that the image was: tensor (int32, CPU), nibabel or SimpleITK image, array."""
    kind = _kind(image)
    if kind == "nibabel":
        import nibabel

        return nibabel.Nifti1Image(label, volume.affine)
    if kind == "SimpleITK":
        import SimpleITK

        made = SimpleITK.GetImageFromArray(np.ascontiguousarray(label.T))
        made.SetSpacing(image.GetSpacing())
        made.SetOrigin(image.GetOrigin())
        made.SetDirection(image.GetDirection())
        return made
    if kind in ("torch", "monai"):
        import torch

        return torch.from_numpy(np.ascontiguousarray(label.astype(np.int32)))
    return label
