"""A module saved in each of torch's ways, and what another process that has no medseg makes of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

KINDS = ["scripted.ts", "traced.ts", "exported.pt2"]


def difference_elsewhere(module: nn.Module, x: Tensor, kind: str, folder: Path, script: str) -> float:
    """Save `module` and its output for `x`, and run `script MODEL EXPECTED`, which prints how far its own output is from that."""
    path = folder / kind
    with torch.no_grad():
        torch.save((x, module(x)), folder / "expected.pt")
        if kind == "scripted.ts":
            torch.jit.script(module).save(path)
        elif kind == "traced.ts":
            torch.jit.trace(module, x).save(path)
        else:
            torch.export.save(torch.export.export(module, (x,)), path)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(path), str(folder / "expected.pt")],
        capture_output=True, text=True, cwd=folder, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return float(done.stdout)
