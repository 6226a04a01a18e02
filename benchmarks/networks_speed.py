"""Seconds and peak memory of a training step of every nano preset, each beside resenc_unet; and the page docs/networks.md.

    python benchmarks/networks_speed.py [--roi 96] [--threads 2] [--rounds 3] [--output FILE] [PRESET ...]
    python benchmarks/networks_speed.py --docs

A row is a process of its own that steps (forward and backward at all scales, batch 1, float32) resenc_unet and the preset in
turn, so that a disturbance of the machine hits both; seconds are medians after one step of each that does not count. Freed
memory stays with the process, as `medseg fit` has it; without that most of a step is page faults. Peak memory is the rise of
the high-water mark of resident memory in another fresh process that runs the preset alone, after a step on a small patch.
Finished rows are kept while the code is the same: run it again to go on.

Writes benchmarks/results/networks_speed-cpu-DATE.json after every row. `--docs` measures nothing and writes docs/networks.md
from the newest row of every preset.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from contest import ask, high_water

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "networks.md"
BASELINE = "resenc_unet"
LIMIT = 3.0  # no nano preset slower than this many times the baseline
SMALL = 32  # voxels per axis of the step before memory is measured


def step(network: Any, roi: int) -> float:
    """Seconds of one forward and backward pass."""
    import torch

    image = torch.randn(1, 1, roi, roi, roi)
    start = time.perf_counter()
    sum(logits.square().mean() for logits in network.forward_scales(image)).backward()
    return time.perf_counter() - start


def time_pair(preset: str, roi: int, threads: int, rounds: int) -> dict[str, Any]:
    """The preset and the baseline in turn, in this process."""
    import torch

    from medseg.inference.windows.heap import keep_freed_memory
    from medseg.networks import build_network

    keep_freed_memory()
    torch.set_num_threads(threads)
    networks = {name: build_network(name) for name in (BASELINE, preset)}
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(1 + rounds):
        for name, network in networks.items():
            seconds[name].append(step(network, roi))
            network.zero_grad()
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    return {
        "preset": preset,
        "parameters": sum(p.numel() for p in networks[preset].parameters()),
        "seconds": medians[preset],
        "baseline_seconds": medians[BASELINE],
        "ratio": medians[preset] / medians[BASELINE],
        "all_seconds": {name: values[1:] for name, values in seconds.items()},
    }


def peak(preset: str, roi: int, threads: int) -> dict[str, int]:
    """Rise of the high-water mark in a step of the preset alone, in this process."""
    import torch

    from medseg.inference.windows.heap import keep_freed_memory
    from medseg.networks import build_network

    keep_freed_memory()
    torch.set_num_threads(threads)
    network = build_network(preset)
    step(network, SMALL)
    before = high_water()
    step(network, roi)
    return {"peak_bytes": high_water() - before}


def git(*words: str) -> str:
    """Output of a git command in the repository."""
    return subprocess.run(["git", *words], capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()


def code() -> list[str]:
    """Objects of the committed code that the figures depend on."""
    listed = git("ls-tree", "HEAD", "medseg/networks", "kernels/medseg_kernels")
    return [line.split()[2][:12] for line in listed.splitlines()]


def run(names: list[str], settings: dict[str, int], target: Path) -> None:
    """Measure what is missing, printing and saving after every row."""
    found = json.loads(target.read_text()) if target.exists() else {}
    same = found.get("code") == code() and all(found.get(key) == value for key, value in settings.items())
    rows = {row["preset"]: row for row in found["rows"]} if same else {}
    words = [f"--{key}={value}" for key, value in settings.items()]
    for name in names:
        if name not in rows:
            rows[name] = {**ask(__file__, "--pair", name, *words), **ask(__file__, "--peak", name, *words)}
        row = rows[name]
        late = "" if row["ratio"] <= LIMIT else f"   above {LIMIT}x"
        print(
            f"{name:<20}{row['seconds']:>8.2f} s{row['baseline_seconds']:>8.2f} s{row['ratio']:>7.2f}x"
            f"{row['peak_bytes'] / 1e6:>8.0f} MB{late}",
            flush=True,
        )
        about = {
            "command": "python benchmarks/networks_speed.py " + " ".join(words),
            "date": datetime.date.today().isoformat(), "device": device(), "commit": git("describe", "--always", "--dirty"),
            "code": code(), **settings, "batch": 1, "dtype": "float32", "gpu": "not measured on a GPU",
        }  # fmt: skip
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps({**about, "rows": list(rows.values())}, indent=2) + "\n")


def device() -> str:
    """Name of the processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def write_page() -> None:
    """docs/networks.md: every preset with its sizes, source and parameters, and its newest measured row."""
    from medseg.networks import MIXERS, PRESETS
    from medseg.networks.cost import measure

    rows = newest_rows()
    lines = [
        "# Networks", "",
        "`medseg networks` lists them for a patch of your own; `build_network(preset, size=...)` makes one. Every preset also",
        "comes in 2D (`spatial_dims=2`), and every token mixer can be replaced by one key: `medseg fit BUNDLE",
        "network_def::mixer=identity` is the ablation that belongs to every result.", "",
        "| preset | what it is | source | sizes | nano, parameters | GFLOP |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, preset in PRESETS.items():
        cost = measure(name, "nano", [96, 96, 96])
        lines.append(
            f"| `{name}` | {preset.summary} | {preset.source} | {', '.join(preset.sizes)} "
            f"| {cost['parameters'] / 1e6:.2f} M | {cost['flop'] / 1e9:.0f} |"
        )
    lines += [
        "", "GFLOP: a forward pass on a patch of 96 voxels per axis, two per multiply-add.",
        "Sizes named `base` are ours, where no network for images is published.",
    ]  # fmt: skip
    lines += published_lines()
    lines += ["", f"Token mixers: {', '.join(f'`{name}`' for name in MIXERS)}.", "", "## One training step", ""]
    if rows:
        lines += [
            "Nano sizes, patch 96 x 96 x 96, batch 1, float32, forward and backward, 2 threads; freed memory stays with",
            f"the process, as in `medseg fit`. The ratio is to `{BASELINE}` stepped in turn in the same process: compare",
            "ratios, since the seconds of different days are of different machines. Not measured on a GPU.",
            "Command: `python benchmarks/networks_speed.py`.",
            "", "| preset | times resenc_unet | seconds | peak memory | measured |", "|---|---|---|---|---|",
        ]  # fmt: skip
        for row in sorted(rows.values(), key=lambda row: row["ratio"]):
            megabytes = f"{row['peak_bytes'] / 1e6:.0f} MB"
            lines.append(
                f"| `{row['preset']}` | {row['ratio']:.2f} | {row['seconds']:.2f} | {megabytes} | {row['measured']} |"
            )
        missing = [name for name in PRESETS if name not in rows]
        if missing:
            lines += ["", f"Not measured yet: {', '.join(missing)}."]
    else:
        lines.append("Not measured yet: `python benchmarks/networks_speed.py` fills this table.")
    lines += memory_lines() + inductor_lines()
    PAGE.write_text("\n".join(lines) + "\n")


def newest_rows() -> dict[str, dict[str, Any]]:
    """The newest row of every preset over all results, with the day, device and commit of its measurement."""
    rows: dict[str, dict[str, Any]] = {}
    for path in sorted(RESULTS.glob("networks_speed-cpu-*.json")):
        found = json.loads(path.read_text())
        if (found["roi"], found["threads"]) != (96, 2):
            continue
        measured = f"{found['date']}, {found['commit']}, {found['device']}"
        rows.update({row["preset"]: {**row, "measured": measured} for row in found["rows"]})
    return rows


def published_lines() -> list[str]:
    """The sections about published weights, and about what of every preset is published."""
    from medseg.networks.presets.origins import table
    from medseg.networks.published import PUBLISHED

    lines = [
        "", "## Published weights", "",
        "`build_network(published=NAME)` sets preset, size, padding, norm and every setting that such weights were trained with;",
        "nothing that it sets may be given another value. No weights are in this project, and none is downloaded. Loaders:",
        "`medseg.networks.imported.nvidia.load_published`, `monai_swin_unetr.load_monai_swin_unetr`,",
        "`monai_mednext.load_monai_mednext`, `monai_segresnet.load_monai_segresnet_ds`; `medseg fit BUNDLE --init-from FILE`",
        "recognises the names of all of them. Each returns a network whose `configuration` builds it again, or says which entry",
        "does not fit first and loads nothing; `--partial head` names what may stay as made.", "",
        "The names of MambaVision, FasterViT and GC ViT were written without a released file at hand and tried on random weights "
        "only:",
        "a name that is not as expected is refused by name, never loaded in silence.", "",
        "| published | preset, size | licence |", "|---|---|---|",
    ]  # fmt: skip
    lines += [f"| `{name}` | {entry.preset}, {entry.size} | {entry.licence} |" for name, entry in PUBLISHED.items()]
    lines += [
        "", "## What is published and what is ours", "",
        "Of the first size beyond nano, in 3D; every nano size is ours. Skips belong to their level.", "", *table(),
    ]  # fmt: skip
    return lines


def inductor_lines() -> list[str]:
    """The section about networks compiled by inductor, one preset per family of kernels."""
    found = json.loads((RESULTS / "networks_inductor.json").read_text())
    lines = [
        "", "## Compiled by inductor", "",
        f"{found['about']}. {found['device']}, torch {found['torch']}, {found['date']}.",
        f"Command: `{found['command']}`.", "", "| preset | outcome | commit |", "|---|---|---|",
    ]  # fmt: skip
    return lines + [f"| `{name}` | {row['outcome']} | {row.get('commit', '')} |" for name, row in found["rows"].items()]


def memory_lines() -> list[str]:
    """The section of docs/networks.md about what is kept for the backward pass."""
    results = sorted(RESULTS.glob("networks_memory-cpu-*.json"))
    if not results:
        return []
    found = json.loads(results[-1].read_text())
    lines = [
        "", "## Kept for the backward pass", "",
        f"Patch of {found['roi']} voxels per axis, batch 1, float32, no checkpointing on either side. `permuted` is the same",
        "network with a permuted copy, a convolution and a scan per order, each left to autograd, and MONAI's blocks around",
        "them. `fused` also permutes and copies, but computes convolution, projections and step sizes of an order again in the",
        "backward pass, as ours does; mamba-ssm's kernel keeps somewhat more than it. Ours saves in the scan (one op for all",
        "orders, nothing copied) and in UNETR's residual blocks (norms and leaky ReLUs are undone, 1x1 shortcuts computed",
        "again). Command: `python benchmarks/networks_memory.py`.", "",
        "| case | ours | other | share | share of resident growth |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for case, row in found["rows"].items():
        ours, theirs = (row[side]["saved_bytes"] / 1e6 for side in ("ours", "theirs"))
        lines.append(
            f"| {case} | {ours:.0f} MB | {row['theirs']['name']}: {theirs:.0f} MB | {row['share_of_saved']:.2f} "
            f"| {row['share_of_growth']:.2f} |"
        )
    return lines


def main() -> int:
    """Parse words, run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", help="all without one")
    parser.add_argument("--roi", type=int, default=96)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--docs", action="store_true", help="write docs/networks.md from the newest rows")
    parser.add_argument("--pair", metavar="PRESET", help="time one preset beside the baseline here, print JSON")
    parser.add_argument("--peak", metavar="PRESET", help="memory of one preset in this process, print JSON")
    args = parser.parse_args()
    if args.docs:
        write_page()
    elif args.pair:
        print(json.dumps(time_pair(args.pair, args.roi, args.threads, args.rounds)))
    elif args.peak:
        print(json.dumps(peak(args.peak, args.roi, args.threads)))
    else:
        from medseg.networks import PRESETS

        unknown = [name for name in args.presets if name not in PRESETS]
        if unknown:
            parser.error(f"preset: found {unknown[0]!r}, expected one of {', '.join(PRESETS)}")
        target = args.output or RESULTS / f"networks_speed-cpu-{datetime.date.today()}.json"
        settings = {"roi": args.roi, "threads": args.threads, "rounds": args.rounds}
        run(args.presets or list(PRESETS), settings, target)
        if args.output is None:
            write_page()
    return 0


if __name__ == "__main__":
    sys.exit(main())
