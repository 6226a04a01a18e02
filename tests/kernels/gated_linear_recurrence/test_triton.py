"""The triton kernels without a GPU: run by triton's interpreter, and compiled ahead of time for real targets."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="the package triton is not installed"
)

FLOAT32 = 1e-4  # largest error over largest value
HALF = 5e-3  # root mean square of the error over that of the value


@needs_triton
def test_interpreted_kernels_equal_the_reference() -> None:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.gated_linear_recurrence.interpreted"],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": paths},
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 21
    for line in lines:
        for name, value in line["errors"].items():
            assert value < (HALF if line["half"] else FLOAT32), (line["name"], name, value)  # NaN fails too
        assert line.get("repeats", True), line["name"]
