"""Saved models, loaded by a process where medseg and medseg_kernels cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

LOAD = """
import json, pathlib, sys
for name in ("medseg", "medseg_kernels"):
    sys.modules[name] = None  # importing them fails from here on
import torch
given, expected = torch.load("expected.pt")
found = {}
for path in sorted(pathlib.Path().glob("model.*")):
    model = torch.export.load(path).module() if path.suffix == ".pt2" else torch.jit.load(path)
    found[path.suffix] = float((model(*given) - expected).abs().max() / expected.abs().max())
assert not [op for op in torch._C._dispatch_get_all_op_names() if op.startswith("medseg")], "operators must not be there"
print(json.dumps(found))
"""


def errors_elsewhere(model: nn.Module, given: tuple[Any, ...], folder: Path) -> dict[str, float]:
    """A model saved scripted (.ts), traced (.traced) and exported (.pt2): largest error of each over the largest value."""
    with torch.no_grad():
        torch.save((given, model(*given)), folder / "expected.pt")
        torch.jit.script(model).save(folder / "model.ts")
        torch.jit.trace(model, given, check_trace=False).save(folder / "model.traced")
        torch.export.save(torch.export.export(model, given), folder / "model.pt2")
    command = [sys.executable, "-W", "ignore", "-c", LOAD]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout)
    assert set(found) == {".ts", ".traced", ".pt2"}
    return found
