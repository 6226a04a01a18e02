"""What a run was made of: versions, machine, data, seeds, code. Written beside its weights."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medseg import __version__
from medseg.io.behind import case_files, content_digest
from medseg.io.datalist import Case

PACKAGES = ("torch", "monai", "pytorch-lightning", "mlflow", "numpy", "scipy", "nibabel", "triton")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def code_commit() -> str | None:
    """The commit of a source checkout, with `-dirty` when it was changed; None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude", "*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def data_fingerprint(cases: Sequence[Case]) -> str:
    """A hash over the sizes and contents of every file of every case, independent of where the folder lies."""
    total = hashlib.sha256()
    for case in sorted(cases, key=lambda case: case.name):
        for path in case_files(case):
            total.update(bytes.fromhex(content_digest(path)))
    return total.hexdigest()


def make_manifest(*, seed: int, device: str, data_hash: str | None = None, **facts: object) -> dict[str, Any]:
    """The record of one run, JSON-ready; no path, host or user name enters it."""
    return {
        "medseg": __version__,
        "commit": code_commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_cores": os.cpu_count(),
        "packages": {name: _version(name) for name in PACKAGES},
        "seed": seed,
        "device": device,
        "data_sha256": data_hash,
        **facts,
    }
