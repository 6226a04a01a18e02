"""`make gpu` without a GPU: every part runs with tiny shapes, and what fails is found in the table."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "kernels" / "benchmarks" / "gpu_once.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_once", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_dry_run_goes_through_every_part(tmp_path: Path, script: ModuleType) -> None:
    command = [sys.executable, str(SCRIPT), "--dry-run", "--budget", "3000", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    logs = "\n".join(path.read_text()[-1500:] for path in tmp_path.glob("*.log"))
    assert done.returncode == 0, done.stdout[-2000:] + logs
    rows = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert {row["part"] for row in rows} == set(script.PARTS)
    assert {row["step"].split()[0] for row in rows if row["part"] == "correct"} == set(script.FAMILIES)
    assert (tmp_path / "table.txt").read_text().endswith(" steps, 0 failed or wrong\n")


def test_a_family_that_fails_goes_on_as_the_reference(script: ModuleType, tmp_path: Path) -> None:
    steps = script.Steps(tmp_path / "steps.jsonl")
    steps.add("correct", "selective_scan snake bfloat16", wrong={"out": 1.0})
    steps.add("correct", "short_conv causal float32", wrong={})
    steps.add("correct", "window_attention 7^3 bfloat16", failed="killed after 40 s")
    steps.add("networks", "stitch", failed="another part")
    failed = script.failures(steps.read())
    assert failed == {"selective_scan", "window_attention"}
    assert script.environment(tmp_path, failed, False)["MEDSEG_SELECTIVE_SCAN_BACKEND"] == "reference"
    assert script.table(steps.read()).splitlines()[0].startswith("correct    selective_scan snake")
    assert "4 steps, 3 failed or wrong" in script.table(steps.read())


def test_a_child_beyond_its_time_is_killed_and_written_down(script: ModuleType, tmp_path: Path) -> None:
    steps = script.Steps(tmp_path / "steps.jsonl")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    running = [(child, {"name": "sleeper", "seconds": 0.0}, 0.0)]
    script.finish(running, "kernels", steps, 1)
    assert running == []
    assert child.returncode is not None
    assert steps.read() == [{"part": "kernels", "step": "sleeper", "failed": "killed after 0.0 s"}]
