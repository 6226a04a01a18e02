"""`medseg networks`: the presets with their parameters, and arithmetic and memory for a patch."""

from __future__ import annotations

import argparse
import json
from typing import Any

from medseg.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    parser.add_argument("names", nargs="*", metavar="PRESET", help="presets to list; all without one")
    parser.add_argument("--size", default="nano", help="size to measure (default: nano); `all` lists every size")
    parser.add_argument("--roi-size", default="96,96,96", metavar="X,Y,Z", help="patch, voxels per axis; two for 2D")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the table; 0 on success."""
    roi_size = parse_roi_size(args.roi_size)
    from medseg.networks import PRESETS

    unknown = [name for name in args.names if name not in PRESETS]
    if unknown:
        from medseg.errors import nearest

        raise ConfigError(f"preset: found {unknown[0]!r}. {nearest(unknown[0], PRESETS)}")
    from medseg.networks.cost import measure

    rows: list[dict[str, Any]] = []
    for name in args.names or PRESETS:
        sizes = PRESETS[name].sizes if args.size == "all" else (args.size,)
        for size in sizes:
            if size in PRESETS[name].sizes:
                rows.append({"preset": name, "size": size, **measure(name, size, roi_size)})
    if not rows:
        raise ConfigError(f"size: found {args.size!r}, which none of these presets has; sizes are listed by --size all")
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    print(f"patch {' x '.join(str(n) for n in roi_size)}, one channel, two classes, float32, batch 1")
    print(f"{'preset':<20}{'size':<11}{'parameters M':>13}{'GFLOP':>10}{'training MB':>13}")
    for row in rows:
        print(
            f"{row['preset']:<20}{row['size']:<11}{row['parameters'] / 1e6:>13.2f}"
            f"{row['flop'] / 1e9:>10.1f}{row['training_bytes'] / 1e6:>13.0f}"
        )
    print(
        "GFLOP: one forward pass, two per multiply-add: convolutions, matrix products, attention, scans, recurrences."
    )
    print("training MB: what the forward pass keeps for the backward pass, and parameters with their gradients and two")
    print("moments (estimated).")
    return 0


def parse_roi_size(text: str) -> list[int]:
    """`96,96,64` as numbers.

    Raises:
        ConfigError: not two or three positive numbers.
    """
    parts = text.replace("x", ",").split(",")
    if len(parts) not in (2, 3) or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise ConfigError(f"--roi-size: found {text!r}, expected two or three positive numbers such as 96,96,64")
    return [int(part) for part in parts]
