"""The record beside each output: what was read, by which model, with which settings, and what came out.

No path, no file name and no header text of the input is kept: inputs are named by the SHA-256 of their bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import medseg
from medseg.io import Case
from medseg.io.behind import case_files, content_digest, stamp_of, volume_digest
from medseg.record import read_record

from .outputs import CaseOutputs, OutputOptions

FORMAT = 1


def settings_hash(settings: Mapping[str, Any]) -> str:
    """A short hash of JSON-ready settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:20]


def label_digest(label: NDArray[np.integer]) -> str:
    """SHA-256 of a label map's voxels in C order, of the type that they have."""
    return hashlib.sha256(np.ascontiguousarray(label).tobytes()).hexdigest()


def make_record(
    *,
    inputs: Sequence[str],
    label: NDArray[np.integer],
    model: Mapping[str, Any],
    settings: Mapping[str, Any],
    measures: list[dict[str, Any]],
    seconds: Mapping[str, float],
    out_of_scope: Sequence[str] = (),
) -> dict[str, Any]:
    """A JSON-ready record of one case; `hash` covers all but times, so repeats of a run have equal ones.

    Args:
        inputs: SHA-256 of each volume as it was read.
        label: (X, Y, Z).
        model, settings, measures, out_of_scope: JSON-ready.
        seconds: what took how long.
    """
    import torch

    record: dict[str, Any] = {
        "format": FORMAT,
        "inputs_sha256": list(inputs),
        "label_sha256": label_digest(label),
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


def finish_record(
    record: dict[str, Any], case: Case, request: str, outputs: CaseOutputs, options: OutputOptions
) -> None:
    """Add what `is_finished` compares: the request, and the SHA-256 of each written file; and how the label map's name ends."""
    record["request"], record["statistics"] = request, options.statistics
    record["missing_channels"] = list(case.missing)
    record["suffix"], record["one_file_per_label"] = options.suffix, options.one_file_per_label
    record["outputs_sha256"] = {kind: content_digest(path) for kind, path in outputs.results().items()}
    stamps = stamps_of(outputs, case)
    if record["inputs_sha256"] == [volume_digest(path) for path in case.images]:  # not exchanged since they were read
        record["stamps"] = stamps


def stamps_of(outputs: CaseOutputs, case: Case) -> list[list[int]]:
    """The stamp of every file that a record speaks of, inputs first, without names."""
    return [stamp_of(os.stat(path)) for path in (*case_files(case), *outputs.results().values())]


def is_finished(outputs: CaseOutputs, request: str, case: Case, *, statistics: bool = False) -> bool:
    """Whether a case was finished by the same model and settings from the same input, and all wanted files are whole.

    Args:
        outputs: what is wanted now.
        request: the hash of all that decides the labels.
        case: its volumes, and which channels it lacks.
        statistics: whether the record shall hold them.
    """
    try:
        record = read_record(outputs.record)
        if record is None or record.get("request") != request or (statistics and not record.get("statistics")):
            return False
        written = record.get("outputs_sha256", {})
        if record.get("missing_channels", []) != list(case.missing) or not outputs.results().keys() <= written.keys():
            return False
        if "stamps" in record and record["stamps"] == stamps_of(outputs, case):
            return True  # nothing was touched: thousands of volumes need not be read
        wanted = outputs.results().items()
        if any(not path.is_file() or content_digest(path) != written.get(kind) for kind, path in wanted):
            return False
        return bool(record.get("inputs_sha256") == [volume_digest(path) for path in case.images])
    except (OSError, ValueError, AttributeError):
        return False
