"""What may be done to a finished label map: keep the largest component, fill holes, drop what is too small.

Steps are plain dictionaries in a bundle, so that a person can read and edit them:

    {"kind": "largest_component", "labels": [1, 2], "together": true}
    {"kind": "fill_holes", "labels": [1]}
    {"kind": "minimum_size", "labels": [2], "millilitres": 0.05}

None of them is right for every organ. `medseg cv` chooses, per label, only those that improve cross-validation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ConfigError, nearest
from medseg.types import Affine, LabelXYZ, MaskXYZ

Box = tuple[slice, ...]
Step = Mapping[str, Any]


def keep_largest(label: LabelXYZ, values: Sequence[int], affine: Affine, *, together: bool = False) -> LabelXYZ:
    """Set everything but the largest component to background.

    Args:
        label: integer (X, Y, Z); not changed.
        values: labels to treat.
        affine: not used; every step has it.
        together: treat the union of the values as one structure, else each value by itself.
    """
    groups = [list(values)] if together else [[value] for value in values]
    result = label.copy()
    for group in groups:
        box, mask = _cut(result, group)
        if box is None:
            continue
        components, sizes = _components(mask)
        if len(sizes) > 1:
            result[box][mask & (components != 1 + int(np.argmax(sizes)))] = 0
    return result


def fill_holes(label: LabelXYZ, values: Sequence[int], affine: Affine) -> LabelXYZ:
    """Give background that a label encloses on all sides to that label; other labels inside it stay.

    On a volume of one slice a hole is what the outline encloses within the slice.
    """
    from scipy import ndimage  # see _cut

    result = label.copy()
    for value in values:
        box, mask = _cut(result, [value])
        if box is None:
            continue
        flat = [axis for axis, n in enumerate(label.shape) if n == 1]
        solid = np.squeeze(mask, axis=tuple(flat))
        holes = np.expand_dims(ndimage.binary_fill_holes(solid) & ~solid, axis=tuple(flat))
        result[box][holes & (result[box] == 0)] = value
    return result


def drop_small(label: LabelXYZ, values: Sequence[int], affine: Affine, *, millilitres: float) -> LabelXYZ:
    """Set components smaller than a volume to background.

    Args:
        label: integer (X, Y, Z); not changed.
        values: labels to treat, each by itself.
        affine: gives the volume of a voxel.
        millilitres: components below this go.
    """
    voxel = _voxel_ml(affine)
    result = label.copy()
    for value in values:
        box, mask = _cut(result, [value])
        if box is None:
            continue
        components, sizes = _components(mask)
        small = np.concatenate([[False], sizes * voxel < millilitres])
        result[box][small[components]] = 0
    return result


# kind -> (function, its own settings and their types)
STEPS: dict[str, tuple[Callable[..., LabelXYZ], dict[str, type]]] = {
    "largest_component": (keep_largest, {"together": bool}),
    "fill_holes": (fill_holes, {}),
    "minimum_size": (drop_small, {"millilitres": float}),
}


class Postprocessing:
    """Steps applied one after the other to a label map on the case's own grid.

    Args:
        steps: dictionaries as on top of this file.

    Raises:
        ConfigError: an unknown kind or setting, or no labels.

    Example:
        >>> keep = Postprocessing([{"kind": "largest_component", "labels": [1]}])
        >>> keep(np.array([[[1, 1, 0, 1]]], dtype=np.uint8), np.eye(4)).tolist()
        [[[1, 1, 0, 0]]]
    """

    def __init__(self, steps: Sequence[Step] = ()) -> None:
        self.steps = [_checked(step) for step in steps]

    def __call__(self, label: NDArray[Any], affine: NDArray[Any]) -> NDArray[Any]:
        for step in self.steps:
            function, names = STEPS[step["kind"]]
            settings = {name: step[name] for name in names if name in step}
            label = function(label, step["labels"], affine, **settings)
        return label

    def __bool__(self) -> bool:
        return bool(self.steps)

    def to_list(self) -> list[dict[str, Any]]:
        """The steps for JSON."""
        return [dict(step) for step in self.steps]


def describe(step: Step) -> str:
    """A step in words, without its labels."""
    if step["kind"] == "minimum_size":
        return f"components from {step['millilitres']:g} ml on"
    return str(step["kind"]).replace("_", " ") + (" of all together" if step.get("together") else "")


def component_volumes(label: LabelXYZ, value: int, affine: Affine) -> NDArray[np.float64]:
    """Volume in ml of each component of one label; empty when the map does not hold it."""
    box, mask = _cut(label, [value])
    sizes = np.zeros(0) if box is None else _components(mask)[1].astype(np.float64)
    return sizes * _voxel_ml(affine)


def _voxel_ml(affine: Affine) -> float:
    return abs(float(np.linalg.det(np.asarray(affine, dtype=np.float64)[:3, :3]))) / 1000.0


def _checked(step: Step) -> dict[str, Any]:
    kind = step.get("kind")
    if kind not in STEPS:
        raise ConfigError(f"post-processing step {dict(step)} has no known kind. {nearest(str(kind), STEPS)}")
    names = STEPS[kind][1]
    unknown = set(step) - {"kind", "labels", *names}
    if unknown:
        raise ConfigError(
            f"post-processing step {kind} has no setting {sorted(unknown)[0]!r}. It has labels, {list(names)}"
        )
    if not step.get("labels"):
        raise ConfigError(f"post-processing step {kind} names no labels")
    if kind == "minimum_size" and not float(step.get("millilitres", -1)) >= 0:
        raise ConfigError("post-processing step minimum_size needs millilitres, a number >= 0")
    return {**step, "labels": [int(value) for value in step["labels"]]}


def _cut(label: LabelXYZ, values: Sequence[int]) -> tuple[Box, MaskXYZ] | tuple[None, MaskXYZ]:
    """The smallest box around some labels, and their mask in it; None when the map holds none of them."""
    from scipy import ndimage  # a fifth of a second: not for bundles without such a step

    mask = label == values[0] if len(values) == 1 else np.isin(label, list(values))
    found = ndimage.find_objects(mask.view(np.uint8))
    return (tuple(found[0]), mask[tuple(found[0])]) if found else (None, mask)


def _components(mask: MaskXYZ) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Component numbers from 1 (connected through faces, edges, corners), and the voxels of each."""
    from scipy import ndimage  # see above

    numbers, count = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    return numbers, np.bincount(numbers.ravel(), minlength=count + 1)[1:]
