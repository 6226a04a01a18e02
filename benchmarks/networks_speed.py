"""Seconds and peak memory of a training step for every nano preset, each in a process of its own.

    python benchmarks/networks_speed.py [--roi 96] [--threads 2] [PRESET ...]

Prints one row per preset (median of three forward + backward passes, batch 1, float32) and the ratio to resenc_unet, and
writes benchmarks/results/networks_speed.json after every row.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

RESULT = Path(__file__).parent / "results" / "networks_speed.json"


def measure(preset: str, roi: int, threads: int) -> dict[str, float | str]:
    """One preset in this process."""
    import torch

    from medseg.networks import build_network

    torch.set_num_threads(threads)
    network = build_network(preset)
    image = torch.randn(1, 1, roi, roi, roi)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        sum(logits.square().mean() for logits in network.forward_scales(image)).backward()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"preset": preset, "seconds": statistics.median(seconds[1:]), "peak_mb": peak / 1024}


def main() -> int:
    """Run all presets, resenc_unet first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("presets", nargs="*")
    parser.add_argument("--roi", type=int, default=96)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", action="store_true", help="measure the first preset in this process, print JSON")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.presets[0], args.roi, args.threads)))
        return 0
    from medseg.networks import PRESETS

    names = ["resenc_unet", *(name for name in args.presets or PRESETS if name != "resenc_unet")]
    rows: list[dict[str, float | str]] = []
    for name in names:
        command = [sys.executable, __file__, name, "--one", "--roi", str(args.roi), "--threads", str(args.threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
        row["ratio"] = float(row["seconds"]) / float(rows[0]["seconds"])
        print(f"{name:<20}{row['seconds']:>8.2f} s{row['peak_mb']:>9.0f} MB{row['ratio']:>7.2f}x", flush=True)
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps({"roi": args.roi, "threads": args.threads, "rows": rows}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
