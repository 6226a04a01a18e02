"""A site's own images on the grid that all sites share, and the crops of them that a step asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from medseg.errors import DataError
from medseg.io.datalist import Case
from medseg.io.geometry import HasGrid, corners_of
from medseg.io.header import Header, Volume
from medseg.io.resample import resample_to_grid
from medseg.io.volume import read_header, read_image
from medseg.transforms.crops.augmentation import apply, draw
from medseg.transforms.crops.sampling import SampleKey
from medseg.transforms.grid import make_grid_map
from medseg.transforms.normalization import normalize
from medseg.transforms.preprocessing import Preprocessing


@dataclass(frozen=True)
class Crop:
    """One crop of a step, the same at all sites.

    Args:
        case: the patient.
        epoch, index: with the seed they decide the augmentation.
        center: in voxels of the shared grid.
    """

    case: str
    epoch: int
    index: int
    center: tuple[float, ...]


@dataclass(frozen=True)
class Place:
    """Which channels of the whole image are the site's, and how all sites cut crops.

    Args:
        first, count: the site's channels in the whole image.
        total: channels of the whole image.
        preprocessing: of the site's own channels.
        roi_size, augmentation, seed: see `TrainingDataset`.
    """

    first: int
    count: int
    total: int
    preprocessing: Preprocessing
    roi_size: tuple[int, ...]
    augmentation: Mapping[str, Any]
    seed: int

    def cut(self, image: Any, label: Any, crop: Crop) -> tuple[Tensor, Tensor | None]:
        """(C, *roi) float32 of the site's channels, and the label crop (*roi) where there is a label map.

        Every site draws for all channels and takes its own, so that the whole is what one process would draw.
        """
        key = SampleKey(self.seed, crop.epoch, crop.index)
        drawn = draw(key.generator(2), self.roi_size, self.total, **self.augmentation)
        own = drawn.channels[self.first : self.first + self.count]
        image, label = apply(image, label, crop.center, self.roi_size, dataclasses.replace(drawn, channels=own))
        return torch.as_tensor(image), None if label is None else torch.as_tensor(np.asarray(label, dtype=np.int64))


class SiteImages:
    """Images of a site without labels, brought to each patient's reference grid when that is told.

    Args:
        patients: of `find_patients`.
        place: see `Place`.
    """

    def __init__(self, patients: Mapping[str, Case], place: Place) -> None:
        self.patients, self.place = patients, place
        self.arrays: dict[str, NDArray[np.float32]] = {}
        self.told: dict[str, tuple[tuple[int, ...], NDArray[np.float64]]] = {}

    def lies_on(self, case: str, shape: Sequence[int], affine: NDArray[np.float64]) -> bool:
        """Whether the patient was brought to this very grid."""
        known = self.told.get(case)
        return known is not None and known[0] == tuple(shape) and np.array_equal(known[1], affine)

    def bring(
        self, case: str, shape: Sequence[int], affine: NDArray[np.float64], *, allow_missing: bool = False
    ) -> None:
        """Read a patient and resample onto the network's grid of a reference volume.

        Args:
            case: the patient.
            shape, affine: of the label site's image, which is the reference.
            allow_missing: zeros, which is each channel's mean, for a channel or patient that is not there.

        Raises:
            DataError: the patient or a channel is missing, or its image lies elsewhere.
        """
        found = self.patients.get(case)
        recipe = self.place.preprocessing
        grid = make_grid_map(tuple(shape), affine, spacing=recipe.spacing, orientation=recipe.orientation)
        result = np.zeros((self.place.count, *grid.shape), dtype=np.float32)
        if (found is None or found.missing) and not allow_missing:
            what = "is not here" if found is None else f"lacks {len(found.missing)} of {self.place.count} channels"
            raise DataError(f"patient {case!r} {what}; remove it from the case list, or plan with --allow-missing")
        if found is not None:
            present = [n for n in range(self.place.count) if n not in found.missing]
            target = np.asarray(affine, dtype=np.float64) @ grid.matrix()
            like = Header.of_array(grid.shape, target)
            for number, path in zip(present, found.images, strict=True):
                volume = read_image((path,))
                if not _overlaps(volume, like):
                    raise DataError(
                        f"patient {case!r}: {path.name} has no voxel in the label site's image, which is the reference; are both "
                        "of one patient, in one scanner's coordinates? Register them, or remove the patient from the case list"
                    )
                result[number] = self._resampled(volume, number, (tuple(shape), affine), like)
        self.arrays[case] = result
        self.told[case] = (tuple(shape), np.array(affine, dtype=np.float64))

    def _resampled(self, volume: Volume, number: int, reference: Any, like: Header) -> NDArray[np.float32]:
        """One channel on the target grid; exactly the ordinary preprocessing where the image lies on the reference grid."""
        recipe = self.place.preprocessing
        entry = recipe.normalization[number]
        if volume.array.shape[1:] == reference[0] and np.allclose(volume.affine, reference[1], atol=1e-4):
            alone = Preprocessing(recipe.spacing, [entry], recipe.orientation)
            return np.asarray(alone.apply(volume.array, np.asarray(reference[1])).image[0])
        values = normalize(np.array(volume.array[0], dtype=np.float32), entry)
        matrix = np.linalg.inv(volume.affine) @ like.affine
        ratio = np.linalg.norm(matrix[:3, :3], axis=1)  # own voxels per voxel of the target
        values = ndimage.gaussian_filter(values, np.where(ratio > 1.5, 0.4 * ratio, 0.0))
        moved = resample_to_grid(Volume(values, volume.affine, volume.header), like, "linear")
        return np.asarray(moved.array, dtype=np.float32)

    def batch(self, crops: Sequence[Crop]) -> Tensor:
        """(B, C, *roi) of this site's channels. Raises DataError for a patient whose geometry was not told."""
        missing = [crop.case for crop in crops if crop.case not in self.arrays]
        if missing:
            raise DataError(f"patient {missing[0]!r}: its reference geometry was not told")
        return torch.stack([self.place.cut(self.arrays[crop.case], None, crop)[0] for crop in crops])

    def windows(self, case: str, starts: Sequence[Sequence[int]], roi_size: Sequence[int]) -> Tensor:
        """(B, C, *roi) at first voxels that may lie outside, where there are zeros."""
        return torch.stack([_window(self.arrays[case], start, roi_size) for start in starts])


def _overlaps(volume: Volume, like: HasGrid) -> bool:
    """Whether the boxes of two grids meet, in world millimetres; turned grids may pass that only nearly meet."""
    ours, theirs = corners_of(volume), corners_of(like)
    return bool(np.all(ours.min(axis=0) <= theirs.max(axis=0)) and np.all(theirs.min(axis=0) <= ours.max(axis=0)))


def _window(image: NDArray[np.float32], start: Sequence[int], roi: Sequence[int]) -> Tensor:
    result = np.zeros((image.shape[0], *roi), dtype=np.float32)
    source, target = [slice(None)], [slice(None)]
    for first, size, extent in zip(start, roi, image.shape[1:], strict=True):
        begin, end = max(0, int(first)), min(extent, int(first) + int(size))
        source.append(slice(begin, end))
        target.append(slice(begin - int(first), end - int(first)))
    result[tuple(target)] = image[tuple(source)]
    return torch.from_numpy(result)


def reference_of(case: Case) -> dict[str, Any]:
    """What the label site tells of a patient's geometry: shape and affine of its image."""
    header = read_header(case.images[0])
    return {
        "case": case.name,
        "shape": [int(n) for n in header.shape[:3]],
        "affine": np.asarray(header.affine).tolist(),
    }
