"""The record beside each output: what was read, by which model, with which settings, and what came out.

No path, no file name and no header text of the input is kept: inputs are named by the SHA-256 of their bytes.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import medseg
from medseg.config import read_json

FORMAT = 1
# Values that may differ between two runs whose labels must be equal; everything else is part of the hash.


def file_digest(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files in order of their names."""
    digest = hashlib.sha256()
    files = sorted(one for one in path.iterdir() if one.is_file()) if path.is_dir() else [path]
    for file in files:
        with open(file, "rb") as stream:
            while piece := stream.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


def settings_hash(settings: Mapping[str, Any]) -> str:
    """A short hash of JSON-ready settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:20]


def make_record(
    *,
    inputs: Iterable[Path],
    label: NDArray[np.integer],
    model: Mapping[str, Any],
    settings: Mapping[str, Any],
    measures: list[dict[str, Any]],
    seconds: Mapping[str, float],
    out_of_scope: Sequence[str] = (),
) -> dict[str, Any]:
    """A JSON-ready record of one case; `hash` covers all but times, so repeats of a run have equal ones."""
    import torch

    record: dict[str, Any] = {
        "format": FORMAT,
        "inputs_sha256": [file_digest(path) for path in inputs],
        "label_sha256": hashlib.sha256(np.ascontiguousarray(label).tobytes()).hexdigest(),
        "shape": [int(n) for n in label.shape],
        "model": dict(model),
        "settings": dict(settings),
        "out_of_scope": list(out_of_scope),
        "labels": measures,
        "software": {
            "medseg": medseg.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
    record["hash"] = settings_hash(record)
    record["seconds"] = {key: round(value, 3) for key, value in seconds.items()}
    return record


def is_finished(record_path: Path, outputs: Iterable[Path], request: str, inputs: Iterable[Path]) -> bool:
    """Whether a case was finished by the same model and settings from the same input; for `--continue`."""
    if not all(path.is_file() for path in outputs):
        return False
    try:
        record = read_json(record_path)
        if record.get("request") != request:
            return False
        return record.get("inputs_sha256") == [file_digest(path) for path in inputs]
    except (OSError, ValueError, AttributeError):
        return False
