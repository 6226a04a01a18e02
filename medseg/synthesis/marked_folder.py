"""A data set of synthetic pairs: images/, labels/, dataset.json, and a manifest that marks every file.

The manifest is written first, and again with every case: a command that is killed leaves no unmarked file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg import __version__
from medseg.datasets import Dataset
from medseg.errors import DataError
from medseg.io.atomic import write_json
from medseg.io.header import Header
from medseg.io.synthetic import MANIFEST, write_synthetic
from medseg.types import Affine, LabelXYZ

PREFIX = "synthetic"  # of every case's name


@dataclass
class SyntheticFolder:
    """Where pairs are written.

    Args:
        folder: new or empty.
        method: how they are made.
        facts: what else the manifest says: seed, generator, steps.
    """

    folder: Path
    method: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a folder that holds something, so that real and synthetic never lie in one. Raises DataError."""
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise DataError(
                f"{self.folder}: is not empty; synthetic images go into a folder of their own, name a new one"
            )

    def begin(self, dataset: Dataset) -> None:
        """Write the manifest and dataset.json with the real data set's labels and channels."""
        self._note()
        for part in ("images", "labels"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        description = {
            "name": f"synthetic ({self.method}) from {dataset.name}",
            "channels": {str(number): name for number, name in dataset.channels.items()},
            "labels": {str(value): name for value, name in dataset.labels.items()},
            "licence": dataset.licence,
            "reference": f"No patients: made by medseg ({self.method}) from {dataset.reference or dataset.name}",
            "synthetic": True,
        }
        write_json(self.folder / "dataset.json", description)

    def add(
        self, number: int, image: NDArray[np.float32], label: LabelXYZ, affine: Affine, facts: Mapping[str, Any]
    ) -> str:
        """Write one pair and mark it; returns its name.

        Args:
            number: from 0.
            image: (C, X, Y, Z).
            label: (X, Y, Z).
            affine: of both.
            facts: the real case it comes from (`source`), its seed.
        """
        name = f"{PREFIX}_{self.method}_{number + 1:04d}"
        self.cases[name] = {"method": self.method, **facts}
        self._note()
        voxels = image[0] if len(image) == 1 else image
        like = Header.of_array(label.shape, affine)
        small = np.uint8 if int(label.max(initial=0)) < 256 else np.int32
        write_synthetic(self.folder / "images" / f"{name}.nii.gz", voxels, like, method=self.method)
        write_synthetic(self.folder / "labels" / f"{name}.nii.gz", label.astype(small), like, method=self.method)
        return name

    def _note(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"synthetic": True, "method": self.method, "medseg": __version__, **self.facts, "cases": self.cases}
        write_json(self.folder / MANIFEST, content)
