"""`python -m medseg.io.straighten SOURCE TARGET [--label]`: a sheared volume, such as a tilted CT, on a straight grid."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from medseg.errors import MedsegError
from medseg.types import FilePath

from .header import Header
from .resample import resample_to_grid
from .volume import read_image, read_label, write_image, write_label


def straight_grid(like: Header) -> Header:
    """The grid with axes at right angles that holds the whole volume, with the same voxel sizes and the nearest directions."""
    affine = np.asarray(like.affine, dtype=np.float64)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(affine[:3, :3] / spacing)
    turned = (left @ right) * spacing
    ends = np.array([[0, n - 1] for n in like.grid], dtype=np.float64)
    corners = np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3) @ affine[:3, :3].T
    along = corners @ np.linalg.inv(turned).T
    first, last = np.floor(along.min(axis=0) + 1e-6), np.ceil(along.max(axis=0) - 1e-6)
    made = np.eye(4)
    made[:3, :3], made[:3, 3] = turned, affine[:3, 3] + turned @ first
    extent = [int(n) for n in last - first + 1]
    return like.on_grid((extent[0], extent[1], extent[2]), made)


def straighten(source: FilePath, target: FilePath, *, label: bool = False) -> None:
    """Write a sheared volume, such as a CT of a tilted gantry, on a straight grid.

    Args:
        source: a volume file or a DICOM folder.
        target: file to write.
        label: it is a label map: nearest neighbour, integers.

    Raises:
        MedsegError: it cannot be read or written.
    """
    volume = read_label(source, allow_shear=True) if label else read_image(source, allow_shear=True)
    straight = resample_to_grid(volume, straight_grid(volume.header), mode="nearest" if label else "linear")
    (write_label if label else write_image)(target, straight.array, like=straight.header)


def main(words: Sequence[str]) -> int:
    """Straighten one file; returns the exit code."""
    names = [word for word in words if word != "--label"]
    if len(names) != 2 or any(name.startswith("-") for name in names):
        print("usage: python -m medseg.io.straighten SOURCE TARGET.nii.gz [--label]", file=sys.stderr)
        return 2
    try:
        straighten(names[0], names[1], label="--label" in words)
    except MedsegError as error:
        print(f"medseg: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
