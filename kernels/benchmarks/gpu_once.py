"""Everything worth knowing from a first short time on a GPU, in one command: `make gpu`.

    python kernels/benchmarks/gpu_once.py --budget 450 --out runs/gpu [--only probe,correct,kernels,networks,training,profile]
    python kernels/benchmarks/gpu_once.py --dry-run --out DIR          every part on a CPU with tiny shapes: does it run?

This process holds no CUDA context. Every part runs in processes of its own with a hard limit, since a CUDA error stays with its
process. Each step appends one JSON line to OUT/steps.jsonl at once; a table comes last (OUT/table.txt). One TRITON_CACHE_DIR serves
all. A family that fails "correct" runs the later parts on its reference form, and the rows say so.

Bare machines: torch, triton and numpy are enough for all parts but the rivals (MONAI, flash-linear-attention by PYTHONPATH).
`--crops FILE` names an npz with image (N, X, Y, Z) and label; without it the training part makes blobs and says so.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# part -> seconds of the 450 it may take
PARTS = {"probe": 15, "correct": 80, "kernels": 130, "networks": 100, "training": 60, "profile": 50}
FAMILIES = ("window_attention", "selective_scan", "gated_linear_recurrence", "short_conv", "stitch")


class Steps:
    """Appends steps to a file, a line each, flushed: what was measured before a crash is kept."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, part: str, step: str, **found: Any) -> None:
        """One step's row."""
        line = json.dumps({"part": part, "step": step, **found}, default=str)
        with self.path.open("a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(line, flush=True)

    def read(self) -> list[dict[str, Any]]:
        """All rows so far."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text().splitlines() if line.strip()]


def jobs(part: str, dry: bool) -> list[dict[str, Any]]:
    """What a part's processes are given, in order: {"name", "seconds", "parallel", ...}."""
    return list(importlib.import_module(f"gpu_parts.{part}").jobs(dry))


def environment(out: Path, failed: set[str], dry: bool) -> dict[str, str]:
    """Of every child."""
    found = {
        **os.environ,
        "TRITON_CACHE_DIR": str(out / "triton_cache"),
        "PYTHONPATH": os.pathsep.join([str(HERE), str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")]),
        **{f"MEDSEG_{family.upper()}_BACKEND": "reference" for family in failed},
    }
    return {**found, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"} if dry else found


def start(part: str, job: dict[str, Any], args: argparse.Namespace, failed: set[str]) -> subprocess.Popen[bytes]:
    """A child in a process group of its own."""
    command = [sys.executable, __file__, "--child", part, "--job", json.dumps(job), "--out", str(args.out)]
    command += ["--dry-run"] * args.dry_run + (["--crops", str(args.crops)] if args.crops else [])
    log = (args.out / f"{part}-{job['name']}.log".replace("/", "_").replace(" ", "_")[:200]).open("wb")
    return subprocess.Popen(
        command, env=environment(args.out, failed, args.dry_run), stdout=log, stderr=log, start_new_session=True
    )


def finish(running: list[tuple[Any, dict[str, Any], float]], part: str, steps: Steps, most: int) -> None:
    """Wait until fewer than `most` children run; kill those beyond their time, and write down how others failed."""
    while len(running) >= most:
        for entry in list(running):
            child, job, until = entry
            code = child.poll()
            if code is None and time.monotonic() < until:
                continue
            running.remove(entry)
            if code is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                steps.add(part, job["name"], failed=f"killed after {job['seconds']} s")
            elif code != 0:
                steps.add(part, job["name"], failed=f"exit status {code}; see its log")
        time.sleep(0.05)


def left_until(deadline: float) -> float:
    """Seconds."""
    return max(0.0, deadline - time.monotonic())


def run_part(part: str, args: argparse.Namespace, steps: Steps, deadline: float) -> None:
    """All processes of a part, none of them beyond the deadline."""
    failed = failures(steps.read())
    running: list[tuple[Any, dict[str, Any], float]] = []
    waiting = jobs(part, args.dry_run)
    if args.dry_run:  # no CUDA context to be lost: one process, one import of torch and triton for all of a part
        waiting = [{"name": "all", "seconds": left_until(deadline), "jobs": waiting}]
    while waiting:
        job = waiting.pop(0)
        left = deadline - time.monotonic()
        if left < 1:
            steps.add(part, job["name"], skipped="no time left")
            continue
        job = {**job, "seconds": min(job["seconds"], left)}
        finish(running, part, steps, 2 if args.dry_run and job.get("parallel", 1) > 1 else job.get("parallel", 1))
        began = time.monotonic()
        running.append((start(part, job, args, failed), job, began + job["seconds"]))
        if "resume" in job:  # the rest of the list runs anew after a failure: a CUDA error stays with its process
            finish(running, part, steps, 1)
            done = {row["step"] for row in steps.read() if row["part"] == part}
            rest = [name for name in job["resume"] if name not in done]
            if rest and len(rest) < len(job["resume"]):
                waiting.insert(0, {**job, "resume": rest})
            elif rest:
                steps.add(part, rest[0], failed="the process ended without a row")
                waiting.insert(0, {**job, "resume": rest[1:]}) if rest[1:] else None
    finish(running, part, steps, 1)


def failures(rows: list[dict[str, Any]]) -> set[str]:
    """Families with a wrong, failed or killed case in part 1."""
    of_part = [row for row in rows if row["part"] == "correct" and (row.get("failed") or row.get("wrong"))]
    return {family for family in FAMILIES for row in of_part if row["step"].startswith(family)}


def table(rows: list[dict[str, Any]]) -> str:
    """A line per step: what failed first."""
    ordered = sorted(rows, key=lambda row: not (row.get("failed") or row.get("wrong")))
    lines = []
    for row in ordered:
        rest = {key: value for key, value in row.items() if key not in ("part", "step")}
        shown = " ".join(
            f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in rest.items()
        )
        lines.append(f"{row['part']:10} {row['step'][:60]:60} {shown}")
    wrong = sum(bool(row.get("failed") or row.get("wrong")) for row in rows)
    return "\n".join([*lines, f"{len(rows)} steps, {wrong} failed or wrong"]) + "\n"


def child(args: argparse.Namespace) -> None:
    """Runs one job of a part."""
    job = json.loads(args.job)
    steps = Steps(args.out / "steps.jsonl")
    for each in job.get("jobs", [job]):
        importlib.import_module(f"gpu_parts.{args.child}").run(each, steps, args.dry_run, args.crops)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=450, help="seconds for all parts")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    parser.add_argument("--crops", type=Path, help="npz for the training part")
    parser.add_argument("--dry-run", action="store_true", help="every part on a CPU with tiny shapes")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.child:
        child(args)
        return 0
    wanted = args.only.split(",")
    if unknown := [part for part in wanted if part not in PARTS]:
        parser.error(f"--only: unknown {', '.join(unknown)}; there are {', '.join(PARTS)}")
    sys.path[:0] = [str(HERE), str(ROOT), str(ROOT / "kernels")]
    steps, began = Steps(args.out / "steps.jsonl"), time.monotonic()
    end = began + args.budget
    for part in wanted:
        share = args.budget * PARTS[part] / sum(PARTS[name] for name in wanted)
        run_part(part, args, steps, min(end, time.monotonic() + share))
    text = table(steps.read())
    (args.out / "table.txt").write_text(text)
    print(text)
    return int(any(row.get("failed") or row.get("wrong") for row in steps.read()))


if __name__ == "__main__":
    sys.exit(main())
