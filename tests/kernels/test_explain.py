"""Every family says which backend runs and why the others do not; importing the package needs neither triton nor a compiler."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from medseg_kernels import explain_backend
from medseg_kernels.explain import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_explains_its_choice(family: str) -> None:
    lines = explain_backend(family, "cpu").splitlines()
    assert lines[0] == f"{family}:"
    assert sum(line.endswith(": runs") for line in lines) == 1
    assert all(": no, " in line or line.endswith((": runs", ": could run")) for line in lines[1:])


def test_an_unknown_op_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="unknown op 'scan'; there are selective_scan"):
        explain_backend("scan")


def test_import_needs_neither_triton_nor_a_compiler() -> None:
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch, medseg_kernels as m\n"
        "x = torch.randn(1, 2, 2, 2, 3); b = torch.randn(1, 2, 2, 2, 2)\n"
        "y = m.selective_scan(x, x, -torch.ones(3, 2), b, b, delta_softplus=True)\n"
        "assert y.isfinite().all()\n"
        "print(m.explain_backend('selective_scan'))"
    )
    env = {**os.environ, "MEDSEG_CPU_KERNELS": "0"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "cpu: no, switched off by MEDSEG_CPU_KERNELS=0" in done.stdout
    assert "reference: runs" in done.stdout
