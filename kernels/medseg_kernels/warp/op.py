"""`warp_patch`: cut one patch out of an image and its label map along an affine map, in a single pass.

No gradients and no torch.library op: it feeds training, it is no part of a network. Inputs may be numpy arrays,
memory maps included (only the pages that the patch touches are read), or tensors; the results are of the same kind.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from medseg_kernels import dispatch

from . import cpu, reference
from .choice import choose_backend

ArrayOrTensor = TypeVar("ArrayOrTensor", NDArray[Any], Tensor)

LABEL_DTYPES = ("uint8", "int16", "int32", "int64")
BACKENDS = {
    "cpu": dispatch.Backend("cpu", dispatch.refuse_cpu),
    "reference": dispatch.Backend("reference", lambda *tensors: None),
}


def warp_patch(
    image: ArrayOrTensor | None,
    label: ArrayOrTensor | None,
    mapping: ArrayLike,
    size: Sequence[int],
    *,
    bumps: ArrayLike | None = None,
    image_outside: float | Sequence[float] = 0.0,
    label_outside: int = 0,
    label_mode: Literal["vote", "nearest"] = "vote",
    threads: int = 1,
    backend: str | None = None,
) -> tuple[ArrayOrTensor | None, ArrayOrTensor | None]:
    """Resample a patch: position in the source = mapping[:, :3] @ output voxel + mapping[:, 3] (+ displacement).

    Args:
        image: (C, X, Y, Z) float32, interpolated linearly; or None.
        label: (X, Y, Z) integers of up to 64 bits, on the same grid; or None.
        mapping: (3, 4), output voxel -> source voxel; fold rotation, scaling, flips and the crop into it.
        size: voxels of the patch, three numbers.
        bumps: (3, G0, G1, G2), at least four points per axis: control points, in source voxels, of a uniform cubic
            B-spline that spans the patch and is added to the position (an elastic deformation at low resolution).
        image_outside: value outside the source, one number or one per channel.
        label_outside: label outside the source.
        label_mode: `vote` takes the label with the largest weight among the eight neighbours (the smallest label of
            equal ones), which is the argmax of interpolated one-hot maps; `nearest` takes the nearest voxel.
        threads: CPU threads; 1 inside data loading workers.
        backend: `cpu` (compiled) or `reference`; None chooses.

    Returns:
        (C, *size) float32 and (*size) of the label's dtype, None where the input is None.

    Raises:
        ValueError: naming the argument, what was found and what was expected.
        NotImplementedError: an image that asks for derivatives.

    Example:
        >>> source = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)
        >>> patch, _ = warp_patch(source, None, [[1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0]], (1, 2, 2))
        >>> patch.ravel().tolist()
        [2.0, 3.0, 4.0, 5.0]
    """
    linear = np.asarray(mapping, dtype=np.float64)
    control = None if bumps is None else np.asarray(bumps, dtype=np.float32)
    _check(image, label, linear, size, control, label_mode)
    dispatch.refuse_derivatives("warp_patch", image, mapping, bumps)
    channels = image.shape[0] if image is not None else 0
    outside = np.broadcast_to(np.asarray(image_outside, dtype=np.float32), (channels,)).copy()
    given: tuple[Any, Any] = (image, label)
    tensors = [value for value in given if isinstance(value, Tensor)]
    settings: dict[str, Any] = {"label_outside": int(label_outside), "by_vote": label_mode == "vote"}
    if choose_backend(BACKENDS, backend, *tensors) == "cpu":
        done = cpu.warp(
            _as_array(image),
            _as_array(label),
            linear,
            size,
            bumps=control,
            image_outside=outside,
            threads=max(1, int(threads)),
            **settings,
        )
        kept: Any = tuple(None if out is None else torch.from_numpy(out) for out in done) if tensors else done
        return kept  # type: ignore[no-any-return]
    return _by_reference(image, label, linear, size, control, outside, settings)


def explain_backend() -> str:
    """Which backend cuts patches from CPU arrays here, and why the others do not."""
    return dispatch.explain("warp", BACKENDS)


def source_box(
    mapping: NDArray[np.float64], size: Sequence[int], extent: Sequence[int], reach: float = 0.0
) -> tuple[slice, ...]:
    """The part of the source that a patch can touch: per axis a slice, at least one voxel long.

    Args:
        mapping: (3, 4).
        size: voxels of the patch.
        extent: voxels of the source.
        reach: largest displacement in voxels.
    """
    ends = np.array(list(itertools.product(*((0, n - 1) for n in size))), dtype=np.float64)
    corners = ends @ mapping[:, :3].T + mapping[:, 3]
    low = np.clip(np.floor(corners.min(0) - reach), 0, np.asarray(extent) - 1).astype(int)
    high = np.clip(np.ceil(corners.max(0) + reach) + 1, low + 1, np.asarray(extent)).astype(int)
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def _by_reference(
    image: Any,
    label: Any,
    linear: NDArray[np.float64],
    size: Sequence[int],
    control: NDArray[np.float32] | None,
    outside: NDArray[np.float32],
    settings: dict[str, Any],
) -> Any:
    """Run the torch form on the part of the source that is needed, padded by one voxel of outside where it ends."""
    given = image if image is not None else label
    device = given.device if isinstance(given, Tensor) else torch.device("cpu")
    extent = tuple(given.shape[-3:])
    reach = float(np.abs(control).max()) if control is not None else 0.0
    box = source_box(linear, size, extent, reach + 1.0)
    shifted = linear.copy()
    shifted[:, 3] -= [part.start for part in box]
    result = reference.warp(
        _part(image, box),
        _part(label, box),
        torch.from_numpy(shifted).to(device),
        size,
        bumps=None if control is None else torch.from_numpy(control).to(device),
        image_outside=torch.from_numpy(outside).to(device),
        **settings,
    )
    return result if isinstance(given, Tensor) else tuple(None if out is None else out.numpy() for out in result)


def _part(value: Any, box: tuple[slice, ...]) -> Tensor | None:
    if value is None:
        return None
    part: Any = value[(..., *box)]
    return part if isinstance(part, Tensor) else torch.from_numpy(np.array(part))


def _as_array(value: Any) -> NDArray[Any] | None:
    return value.detach().numpy() if isinstance(value, Tensor) else value


def _check(
    image: Any,
    label: Any,
    linear: NDArray[np.float64],
    size: Sequence[int],
    control: NDArray[np.float32] | None,
    label_mode: str,
) -> None:
    if image is None and label is None:
        raise ValueError("image and label are both None; one of them is needed")
    if image is not None and (image.ndim != 4 or _dtype(image) != "float32"):
        raise ValueError(f"image is {_dtype(image)} {tuple(image.shape)}, expected float32 (C, X, Y, Z)")
    if label is not None and (label.ndim != 3 or _dtype(label) not in LABEL_DTYPES):
        raise ValueError(f"label is {_dtype(label)} {tuple(label.shape)}, expected (X, Y, Z) of {LABEL_DTYPES}")
    places = [value.device for value in (image, label) if isinstance(value, Tensor)]
    if len(set(places)) > 1:
        raise ValueError(f"image is on {places[0]} and label on {places[1]}; expected one device")
    if image is not None and label is not None and tuple(image.shape[1:]) != tuple(label.shape):
        raise ValueError(f"image has grid {tuple(image.shape[1:])} and label {tuple(label.shape)}; expected one grid")
    if 0 in (image if image is not None else label).shape:
        raise ValueError("the source has no voxels")
    if linear.shape != (3, 4) or not np.isfinite(linear).all():
        raise ValueError(f"mapping has shape {linear.shape}, expected a finite (3, 4)")
    if len(size) != 3 or min(size) < 1 or math.prod(size) > 2**33:
        raise ValueError(f"size is {tuple(size)}, expected three positive numbers of voxels")
    if control is not None and (control.ndim != 4 or control.shape[0] != 3 or min(control.shape[1:]) < 4):
        raise ValueError(f"bumps has shape {control.shape}, expected (3, G0, G1, G2) with at least 4 points per axis")
    if label_mode not in ("vote", "nearest"):
        raise ValueError(f"label_mode is {label_mode!r}, expected 'vote' or 'nearest'")


def _dtype(value: Any) -> str:
    return str(value.dtype).removeprefix("torch.")
