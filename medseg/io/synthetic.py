"""How a file that no scanner made is known: by its header's text, and by the manifest of its data set.

Either is enough: a header outlives a file that was moved, the manifest one that was converted in its place.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.config import read_json
from medseg.errors import MedsegError
from medseg.types import FilePath

from .formats import nifti, nifti_write
from .header import Header
from .volume import case_name

MANIFEST = "synthetic.json"  # beside dataset.json
MARK = "SYNTHETIC, no patient: medseg"  # how the header's text begins


def write_synthetic(path: FilePath, array: NDArray[Any], like: Header, *, method: str) -> None:
    """Write an image or label map as NIfTI whose header says that it is synthetic. Raises ResourceError."""
    nifti_write.write(Path(path), np.asarray(array), like, description=f"{MARK} {method}")


def synthetic_cases(folder: Path) -> dict[str, dict[str, Any]]:
    """Case name -> what its manifest says of it; empty where the folder has no manifest.

    A manifest that cannot be read raises ConfigError: what it marks would otherwise count as real.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    content = read_json(path)
    cases = content.get("cases") if isinstance(content, dict) else None
    return {str(name): dict(facts) for name, facts in cases.items()} if isinstance(cases, dict) else {}


def is_synthetic(path: FilePath) -> bool:
    """Whether a volume file is marked as synthetic, by its header or by a manifest in its folder or the one above."""
    path = Path(path)
    for folder in (path.parent, path.parent.parent):
        if (folder / MANIFEST).is_file() and _name(path) in {_bare(name) for name in synthetic_cases(folder)}:
            return True
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        return False
    try:
        return nifti.description(path).startswith(MARK)
    except (MedsegError, OSError):
        return False  # said when it is read


def synthetic_among(paths: Iterable[FilePath]) -> list[str]:
    """The files that are marked, by name."""
    return [Path(path).name for path in paths if is_synthetic(path)]


def _name(path: Path) -> str:
    return _bare(case_name(path))


def _bare(name: str) -> str:
    """Without nnU-Net's channel number."""
    return name.removesuffix("_0000")
