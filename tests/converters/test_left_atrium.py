from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from medseg.datasets import load_case, open_dataset
from tests.converters.left_atrium import convert


def test_volumes_keep_their_voxels_and_get_a_spacing(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "h5").mkdir()
    for name in "abcd":
        with h5py.File(tmp_path / "h5" / f"{name}.h5", "w") as file:
            file["image"] = random.normal(size=(5, 6, 7)).astype(np.float32)
            file["label"] = random.integers(0, 2, (5, 6, 7)).astype(np.uint8)
    assert convert(tmp_path / "h5", tmp_path / "nifti") == ["a", "b", "c", "d"]
    dataset = open_dataset(tmp_path / "nifti")
    assert dataset.splits == [{"train": ["a"], "val": ["b", "c", "d"]}]
    assert dataset.labels == {0: "background", 1: "left atrium"}
    image, label = load_case(dataset.cases[3], dataset)
    with h5py.File(tmp_path / "h5" / "d.h5") as file:
        assert np.array_equal(image.array[0], file["image"][()])
        assert np.array_equal(label.array, file["label"][()])
    assert np.allclose(np.diag(image.affine), [0.625, 0.625, 0.625, 1.0])
    written = dataset.cases[0].images[0].stat().st_mtime_ns
    convert(tmp_path / "h5", tmp_path / "nifti")
    assert dataset.cases[0].images[0].stat().st_mtime_ns == written
