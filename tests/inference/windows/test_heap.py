"""Large tensors are served from memory that was used before, and it goes back to the system when asked."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be asked")

CODE = """
import json, sys, torch
from medseg.inference.windows.heap import give_back_freed_memory, keep_freed_memory

def resident():
    line = next(one for one in open("/proc/self/status") if one.startswith("VmRSS"))
    return int(line.split()[1]) / 1024

asked = keep_freed_memory()
torch.ones(1)
before = resident()
tensor = torch.ones(50, 1024, 1024)
del tensor
kept = resident() - before
give_back_freed_memory()
print(json.dumps({"asked": asked, "kept_mb": kept, "after_mb": resident() - before}))
"""


def answers(**environment: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", CODE], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout))


def test_freed_memory_stays_until_it_is_given_back() -> None:
    found = answers()
    assert found["asked"]
    assert found["kept_mb"] > 190, "200 MB were used"
    assert found["after_mb"] < 20


def test_a_choice_made_outside_is_left_alone() -> None:
    found = answers(MALLOC_TRIM_THRESHOLD_="131072")
    assert not found["asked"]
    assert found["kept_mb"] < 20
