"""Part 5: ncu on four kernels, where it is installed; compute-sanitizer on what was wrong in part 1."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import Any

from gpu_parts.kernels import SUBJECTS

WANTED = {
    "window forward": ("window 48 7", "forward_kernel", 0),
    "scan forward": ("scan 64 tri", "forward_kernel", 0),
    "scan backward": ("scan 64 tri", "backward_kernel", 1),
    "recurrence gradient": ("recurrence scalar", "gradient_kernel", 1),
}
COLUMNS = (
    "sm__throughput",
    "gpu__time_duration",
    "launch__occupancy",
    "smsp__issue_active",
    "dram__throughput",
    "registers",
)


def jobs(dry: bool) -> list[dict[str, Any]]:
    if dry:
        return [{"name": "scan forward", "seconds": 300}]
    return [*({"name": name, "seconds": 15} for name in WANTED), {"name": "sanitizer", "seconds": 20}]


def run(job: dict[str, Any], steps: Any, dry: bool, crops: Any) -> None:
    """One kernel, or the cases that failed."""
    if job["name"] == "sanitizer":
        sanitize(steps)
        return
    subject, kernel, which = WANTED[job["name"]]
    if dry:
        SUBJECTS[subject][0]("cpu", True)[which][1]()
        steps.add("profile", job["name"], found="dry run")
        return
    if shutil.which("ncu") is None:
        steps.add("profile", job["name"], skipped="ncu is not installed")
        return
    code = f"from gpu_parts.kernels import SUBJECTS; c = SUBJECTS[{subject!r}][0]('cuda', False)[{which}][1]; c(); c()"
    command = [
        "ncu",
        "--csv",
        "--set",
        "full",
        "-k",
        f"regex:{kernel}",
        "-s",
        "1",
        "-c",
        "1",
        sys.executable,
        "-c",
        code,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = [line.split('","') for line in done.stdout.splitlines() if any(name in line for name in COLUMNS)]
    steps.add(
        "profile",
        job["name"],
        status=done.returncode,
        metrics={row[-3]: row[-1].strip('"') for row in rows if len(row) > 3},
    )


def sanitize(steps: Any) -> None:
    """Every failed case of part 1 again under compute-sanitizer."""
    failed = [row for row in steps.read() if row["part"] == "correct" and (row.get("failed") or row.get("wrong"))]
    if not failed or shutil.which("compute-sanitizer") is None:
        steps.add(
            "profile", "sanitizer", skipped="nothing failed" if not failed else "compute-sanitizer is not installed"
        )
        return
    for row in failed[:2]:
        code = (
            "import torch; from gpu_parts.correct import jobs, run\n"
            f"job = next(j for j in jobs(False) if j['name'] == {row['step']!r})\n"
            "run(job, type('S', (), {'add': lambda self, *a, **k: print(a, k)})(), False, None)"
        )
        command = ["compute-sanitizer", "--error-exitcode", "9", sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = [line for line in done.stdout.splitlines() if "=========" in line][:6]
        steps.add("profile", f"sanitizer {row['step']}", status=done.returncode, found=found)
