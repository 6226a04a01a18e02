"""Writing .nii.gz against nibabel, interleaved in one process: medians of equal arrays."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from medseg.io.header import Header
from medseg.io.volume import read_image, write_image

SHAPE = (512, 512, 80)


def seconds(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


@pytest.mark.slow
@pytest.mark.parametrize("order", ["C", "F"])
def test_writing_a_ct_is_three_times_as_fast_as_nibabel(tmp_path: Path, order: str) -> None:
    """C order is what networks leave behind, F order what files have; both must hold. fsync is counted on our side."""
    random = np.random.default_rng(0)
    smooth = ndimage.zoom(random.normal(size=(16, 16, 5)), (32, 32, 16), order=1)
    ct = np.asarray(smooth * 400 - 200 + random.normal(size=SHAPE) * 12, dtype=np.int16, order=order)
    ours, theirs = [], []
    for _ in range(5):
        ours.append(seconds(lambda: write_image(tmp_path / "ours.nii.gz", ct, Header.of_array(SHAPE, np.eye(4)))))
        theirs.append(seconds(lambda: nib.save(nib.Nifti1Image(ct, np.eye(4)), tmp_path / "theirs.nii.gz")))
    np.testing.assert_array_equal(read_image(tmp_path / "ours.nii.gz").array[0], ct)
    ratio = statistics.median(theirs) / statistics.median(ours)
    print(f"{order}: {ratio:.1f} times as fast as nibabel")
    assert ratio >= 3
    assert (tmp_path / "ours.nii.gz").stat().st_size < 1.15 * (tmp_path / "theirs.nii.gz").stat().st_size
