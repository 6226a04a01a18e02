"""The left atrium set as a folder of NIfTI files: HDF5 (keys `image`, `label`) without spacing -> 0.625 mm isotropic.

The 2018 Atrial Segmentation Challenge states 0.625 mm in all directions; the files themselves state nothing, so that the
axes are written as they come. Three cases are held out: fold 0 of splits_final.json trains on the others.
"""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np

from medseg.io.header import Header
from medseg.io.volume import write_image, write_label

SPACING_MM = 0.625
HELD_OUT = 3
DESCRIPTION = {
    "name": "left atrium",
    "labels": {"background": 0, "left atrium": 1},
    "channels": ["MRI"],
    "reference": "Xiong et al. 2020, A global benchmark of algorithms for segmenting the left atrium",
}


def convert(source: Path, folder: Path, *, held_out: int = HELD_OUT) -> list[str]:
    """Write images/, labels/, dataset.json and splits_final.json; cases that are there already are kept.

    Args:
        source: folder of `*.h5`.
        folder: of the new dataset.
        held_out: the last so many cases, by name, are the validation part.

    Returns:
        The names of the cases.
    """
    names = []
    affine = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    for path in sorted(source.glob("*.h5")):
        names.append(path.stem)
        image_path, label_path = (folder / part / f"{path.stem}.nii.gz" for part in ("images", "labels"))
        if label_path.is_file():
            continue
        with h5py.File(path, "r") as stored:
            image, label = np.asarray(stored["image"], np.float32), np.asarray(stored["label"], np.uint8)
        header = Header.of_array(image.shape, affine)
        for target in (image_path, label_path):
            target.parent.mkdir(parents=True, exist_ok=True)
        write_image(image_path, image, like=header)
        write_label(label_path, label, like=header)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(DESCRIPTION, indent=2), encoding="utf-8")
    splits = [{"train": names[:-held_out], "val": names[-held_out:]}]
    (folder / "splits_final.json").write_text(json.dumps(splits, indent=2), encoding="utf-8")
    return names
