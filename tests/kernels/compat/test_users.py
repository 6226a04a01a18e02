"""Networks that call mamba_ssm as U-Mamba, SegMamba, Vim and VMamba do train under the shim, unmodified."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

USERS = Path(__file__).with_name("users")


@pytest.fixture(scope="module")
def lines() -> dict[str, dict]:
    command = [sys.executable, "-m", "medseg_kernels.compat", str(USERS / "train_all.py"), "12"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["user"]: line for line in found}


@pytest.mark.skipif(importlib.util.find_spec("mamba_ssm") is not None, reason="mamba_ssm itself is installed")
def test_without_the_shim_there_is_no_mamba_ssm() -> None:
    with pytest.raises(ModuleNotFoundError, match="mamba_ssm"):
        importlib.import_module("mamba_ssm")


@pytest.mark.parametrize("user", ["umamba", "segmamba", "vim", "vmamba"])
def test_the_network_learns_and_every_parameter_has_a_gradient(user: str, lines: dict[str, dict]) -> None:
    losses = lines[user]["losses"]
    assert losses[-1] < 0.9 * losses[0]
    assert lines[user]["without gradient"] == []
