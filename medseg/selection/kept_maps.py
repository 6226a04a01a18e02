"""Which label maps of an earlier cross-validation may be scored again: those of these weights, settings and images, whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.config import read_json
from medseg.io.atomic import write_json
from medseg.io.behind import case_digest, content_digest, read_unchanged
from medseg.io.datalist import Case
from medseg.io.header import Volume
from medseg.io.volume import write_label

NAME = "made_by.json"


class KeptMaps:
    """The label maps of one fold, and of what each was made.

    Args:
        folder: `CASE.nii.gz` lie here, and `made_by.json`: the network's identity, and per case the hashes of its images
            and of its label map.
        identity: a text that changes with the weights or the settings; maps of another are removed.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder, self.identity = folder, identity
        found = self._read()
        self.made: dict[str, dict[str, str]] = {}
        if found.get("identity") == identity and isinstance(found.get("cases"), dict):
            self.made = found["cases"]
        for path in folder.glob("*.nii.gz"):
            if path.name.removesuffix(".nii.gz") not in self.made:
                path.unlink()

    def path(self, case: Case) -> Path:
        """Where a case's label map lies, or will."""
        return self.folder / f"{case.name}.nii.gz"

    def holds(self, case: Case) -> bool:
        """Whether its label map was made of its images as they are now, and is as it was written."""
        entry, path = self.made.get(case.name), self.path(case)
        if not isinstance(entry, dict) or not path.is_file():
            return False
        return entry.get("label_map") == content_digest(path) and entry.get("images") == case_digest(case)

    def make(
        self, case: Case, read: Callable[[Case], Volume], segment: Callable[[Volume], NDArray[np.integer[Any]]]
    ) -> None:
        """Write a case's label map, and note the hashes of the bytes that it was made of.

        Args:
            case: its images.
            read: the image (C, X, Y, Z) of a case.
            segment: the label map (X, Y, Z) of an image.

        Raises:
            DataError: the images kept changing while they were read; the rest as `read` and `segment`.
        """
        digest, volume = read_unchanged(case.images, lambda: (case_digest(case), read(case)))
        path = self.path(case)
        write_label(path, segment(volume), like=volume.header)
        self.made[case.name] = {"images": digest, "label_map": content_digest(path)}
        write_json(self.folder / NAME, {"identity": self.identity, "cases": self.made})

    def _read(self) -> dict[str, Any]:
        try:
            found = read_json(self.folder / NAME)
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}
