"""Compiles every launch of the recorded calls for every architecture, without a GPU, and writes down what came out.

    python -m tests.kernels.model.aot            all families: writes aot.json anew, family by family (tens of minutes)
    python -m tests.kernels.model.aot FAMILY     one family's part

Per family, architecture and kernel: how many specialisations were compiled, and of them the most registers, the most bytes spilled
and the most shared memory. `test_costs.py` (slow) compiles them again and holds them to the limits; a quick test looks at the table.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from tests.kernels.model import compiled
from tests.kernels.model.calls import FAMILIES
from tests.kernels.model.launches import Launch, record

TABLE = Path(__file__).with_name("aot.json")
ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "gfx942")


def launches(family: str) -> list[Launch]:
    """The different launches of a family's calls."""
    seen: dict[str, Launch] = {}
    for call in FAMILIES[family]():
        seen |= {launch.key: launch for launch in record(call.run)[0]}
    return list(seen.values())


def _size(made: Any, arch: str) -> dict[str, int]:
    """Registers, spilled bytes and shared memory of a compiled kernel."""
    shared = int(made.metadata.shared)
    if arch.startswith("sm_"):
        usage = compiled.usage(made.asm["cubin"])
        return {"registers": usage["REG"], "spilled": usage["STACK"] + usage["LOCAL"], "shared": shared}
    text = made.asm["amdgcn"]
    registers, spilled = (
        max(map(int, re.findall(rf"\.{word}:\s+(\d+)", text)), default=0) for word in ("vgpr_count", "vgpr_spill_count")
    )
    return {"registers": registers, "spilled": 4 * spilled, "shared": shared}


def compiled_for(family: str, arch: str) -> dict[str, dict[str, int]]:
    """Kernel -> number of specialisations, and the largest of each number over them.

    Raises:
        Exception: triton's own, where a launch does not compile.
    """
    found: dict[str, dict[str, int]] = {}
    with mock.patch.object(torch.version, "hip", "6.4" if arch.startswith("gfx") else None):
        for launch in launches(family):
            size = _size(compiled.compile_launch(launch, arch), arch)
            row = found.setdefault(launch.name, {"compiled": 0, **dict.fromkeys(size, 0)})
            row["compiled"] += 1
            row.update({key: max(row[key], value) for key, value in size.items()})
    return found


def too_large(rows: dict[str, dict[str, int]], arch: str) -> list[str]:
    """Kernels that ask for more shared memory than a program may have there."""
    limit = compiled.SHARED_LIMIT[arch]
    return [f"{name} on {arch}: {row['shared']} bytes shared" for name, row in rows.items() if row["shared"] > limit]


def write(families: list[str]) -> None:
    """The rows of some families, written after each architecture."""
    import triton

    for family in families:
        for arch in ARCHITECTURES:
            start = time.monotonic()
            rows = compiled_for(family, arch)
            table = json.loads(TABLE.read_text()) if TABLE.exists() else {"families": {}}
            table["families"].setdefault(family, {})[arch] = rows
            TABLE.write_text(_text({"triton": triton.__version__, "families": table["families"]}))
            count = sum(row["compiled"] for row in rows.values())
            print(f"{family} {arch}: {count} compiled in {time.monotonic() - start:.0f} s", flush=True)


def _text(table: dict[str, Any]) -> str:
    """JSON with one line per kernel."""
    families = []
    for family, architectures in table["families"].items():
        parts = []
        for arch, rows in architectures.items():
            body = ",\n".join(f"        {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
            parts.append(f"      {json.dumps(arch)}: {{\n{body}\n      }}")
        families.append(f"    {json.dumps(family)}: {{\n" + ",\n".join(parts) + "\n    }")
    body = ",\n".join(families)
    return f'{{\n  "triton": {json.dumps(table["triton"])},\n  "families": {{\n{body}\n  }}\n}}\n'


if __name__ == "__main__":
    write(sys.argv[1:] or list(FAMILIES))
