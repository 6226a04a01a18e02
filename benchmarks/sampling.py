"""Seconds and memory of sampling volumes with a generator of random weights.

    python benchmarks/sampling.py [--grid 40 56 40] [--steps 36] [--threads 2] [--size nano]

A count of samples is a process of its own: 1 and 3, made one after another as `medseg synthesize sample` makes them. Seconds are the
median of single samples; memory is the high-water mark of the process, which must not grow with the number of samples. Weights
do not change what a step costs. Writes benchmarks/results/sampling-cpu.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "sampling-cpu.json"
COUNTS = (1, 3)
SEED = 0


def sample_here(grid: list[int], steps: int, threads: int, size: str, count: int) -> dict[str, object]:
    """Seconds of each of `count` samples of one channel and three classes, and this process's peak of resident memory."""
    from medseg.commands.synthesize_plan import SIZES
    from medseg.networks.diffusion.edm import build_diffit, label_channels
    from medseg.synthesis.sampler import Steps, noise_of, sample

    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    network = build_diffit(sigma_data=1.0, image_channels=1, classes=3, **SIZES[size]).eval()
    label = torch.zeros(grid, dtype=torch.long)
    label[grid[0] // 4 : grid[0] // 2, grid[1] // 4 : grid[1] // 2] = 1
    channels, seconds = label_channels(label[None], 3), []
    with torch.inference_mode():
        for number in range(count):
            noise, start = noise_of(SEED, [number], (1, *grid)), time.perf_counter()
            sample(lambda x, s: network(x, torch.full((1,), s), channels), noise, Steps(steps))
            seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    parameters = sum(weight.numel() for weight in network.parameters())
    return {"samples": count, "seconds": seconds, "peak_bytes": peak, "parameters": parameters}


def main() -> None:
    """Measure each count in a fresh process, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", type=int, nargs=3, default=[40, 56, 40])
    parser.add_argument("--steps", type=int, default=36)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", default="nano")
    parser.add_argument("--count", type=int, help="make this many here and print JSON")
    args = parser.parse_args()
    if args.count:
        print(json.dumps(sample_here(args.grid, args.steps, args.threads, args.size, args.count)))
        return
    words = [
        "--grid",
        *map(str, args.grid),
        "--steps",
        str(args.steps),
        "--threads",
        str(args.threads),
        "--size",
        args.size,
    ]
    rows = []
    for count in COUNTS:
        command = [sys.executable, __file__, *words, "--count", str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.strip()
    found = {
        "command": " ".join(["python benchmarks/sampling.py", *words]), "date": datetime.date.today().isoformat(),
        "commit": commit, "torch": torch.__version__, "gpu": "not measured on a GPU",
        "seconds_per_sample": statistics.median(second for row in rows for second in row["seconds"]),
        "memory_of_3_over_1": rows[-1]["peak_bytes"] / rows[0]["peak_bytes"], "rows": rows,
    }  # fmt: skip
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    print(f"{found['seconds_per_sample']:.1f} s a sample; memory of 3 samples {found['memory_of_3_over_1']:.3f} of 1")


if __name__ == "__main__":
    main()
