"""What the tests with NVFlare share: where figures are kept, and a job folder run as NVFlare runs it, without medseg's commands."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from medseg.collaboration.sites import SITES_VARIABLE

needs_nvflare = pytest.mark.skipif(
    importlib.util.find_spec("nvflare") is None, reason="the package nvflare is not installed"
)
# What was measured is kept where this names a file; `make test-extras` does.
RECORD = os.environ.get("MEDSEG_EXTRAS_RECORD")
SIMULATOR = "nvflare.private.fed.app.simulator.simulator"


def record(name: str, facts: dict[str, Any]) -> None:
    """Add or replace a row of the record."""
    if RECORD:
        path = Path(RECORD)
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        path.write_text(json.dumps({**known, name: facts}, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def simulate(job: Path, names: Sequence[str], sites: Path, workspace: Path) -> None:
    """Run an exported job in NVFlare's own simulator, for sites whose folders lie in `sites`."""
    (only,) = [path for path in job.iterdir() if path.is_dir()]
    words = ["-w", str(workspace), "-c", ",".join(names), "-n", str(len(names)), "-t", str(len(names))]
    done = subprocess.run(
        [sys.executable, "-m", SIMULATOR, str(only), *words],
        env={**os.environ, SITES_VARIABLE: str(sites)}, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
