"""The cost gate: what the launches of each call cost, as a committed table. No GPU is needed.

    python -m tests.kernels.model.costs            writes costs.json anew
    python -m tests.kernels.model.costs FAMILY     shows one family's rows

Per launch: instructions of a lane per item (a score, a token's channel, a step: see `_items`), exp2 per item, round trips to
memory one after the other in an iteration, changes of layout in loops, registers, spilled bytes, programs per multiprocessor,
estimated microseconds. Per call: launches, and kernels that torch starts besides.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.kernels.model import simulate
from tests.kernels.model.calls import FAMILIES, Call
from tests.kernels.model.compiled import Code, read_code
from tests.kernels.model.launches import Launch, record

TABLE = Path(__file__).with_name("costs.json")


def _items(launch: Launch) -> int:
    """What one iteration of the hot loop (one program where there is none) deals with."""
    c = launch.constants
    if "BQ" in c:
        return int(c["BQ"]) * int(c["BK"])
    if "TOKENS" in c:
        return int(c["TOKENS"]) * int(c["BLOCK"])
    return int(c["C"]) if "C" in c else int(c.get("BLOCK", c.get("BR", 128)))


def _iterations(launch: Launch) -> list[float]:
    """How often a program goes through its innermost loops, the longest first."""
    c, n = launch.constants, launch.integers
    if "BQ" in c:
        if launch.name == "expand_kernel":
            return [1]
        if launch.name == "bias_kernel":
            return [n["windows"] * n["B"] / launch.grid[2]]
        queries, keys = -(-int(c["U"]) // int(c["BQ"])), -(-int(c["U"]) // int(c["BK"]))
        if launch.name == "fused_kernel":
            return [queries * keys, queries, queries]
        return [queries if launch.name == "key_kernel" else keys]
    if launch.name == "table_kernel":
        return [-(-n["T"] // int(c["BI"]))]
    if launch.name == "backward_kernel":
        return [n["span"] / 2, n["span"]]  # pairs of steps back, and the steps forward again
    if "ROWS" in c:
        return [-(-n["count"] // int(c["ROWS"]))]
    if launch.name == "carry_kernel":
        return [n["count"] / 4]
    for name in ("span", "count", "classes", "taps"):
        if name in n:
            return [n[name] / int(c.get("TOKENS", 1)) if name == "span" else n[name]]
    if "piece_chunks" in launch.kernel.arg_names:
        return [n["chunks"] / launch.grid[0]]
    return [max(1.0, n.get("size_v", 1) / int(c.get("BV", n.get("size_v", 1))))]


def row(launch: Launch, code: Code, estimate: bool = True) -> dict[str, float]:
    """The numbers of one launch; simulating it for the estimate takes longer than compiling it."""
    loop = simulate.hot_loop(code) or (0, len(code.instructions) - 1)
    lanes = launch.warps * 32 / _items(launch)
    found: dict[str, float] = {
        "warps": launch.warps,
        "registers": code.registers,
        "spilled": code.spilled,
        "instructions": round((loop[1] - loop[0] + 1) * lanes, 1),
        "exp2": round(simulate.count(code, *loop, r"MUFU\.EX2") * lanes, 2),
        "serial_loads": simulate.serial_loads(code, *loop),
        "conversions": code.conversions,
        "programs_per_sm": round(launch.programs / simulate.PROCESSORS, 1),
    }
    if estimate:
        taken = simulate.microseconds(code, launch.warps, launch.programs, _iterations(launch))
        found["microseconds"] = round(taken, 1)
    return found


def measure(call: Call, seen: dict[str, Code] | None = None) -> dict[str, Any]:
    """A call's row: its launches in order."""
    launches, torch_kernels = record(call.run)
    seen, kernels = {} if seen is None else seen, {}
    for launch in launches:
        code = seen.setdefault(launch.key, read_code(launch)) if launch.key not in seen else seen[launch.key]
        name, found = launch.name, row(launch, code)
        again = kernels.get(name)
        kernels[name] = found if again is None else {**found, "times": again.get("times", 1) + 1}
        if again is not None:
            kernels[name]["microseconds"] = round(found["microseconds"] + again["microseconds"], 1)
    total = round(sum(kernel["microseconds"] for kernel in kernels.values()), 1)
    return {"launches": len(launches), "torch_kernels": torch_kernels, "microseconds": total, "kernels": kernels}


def measured(family: str, quick: bool) -> dict[str, dict[str, Any]]:
    """The family's rows."""
    seen: dict[str, Code] = {}
    return {call.name: measure(call, seen) for call in FAMILIES[family]() if call.quick or not quick}


def write(families: list[str], quick: bool = False) -> None:
    """The rows of all or some families, written one by one; `quick` leaves the others as they are."""
    import triton

    for family in families:
        seen: dict[str, Code] = {}
        for call in sorted(FAMILIES[family](), key=lambda call: not call.quick):
            if call.quick or not quick:
                found = measure(call, seen)
                table = json.loads(TABLE.read_text()) if TABLE.exists() else {"families": {}}
                table["families"].setdefault(family, {})[call.name] = found
                TABLE.write_text(_text({"triton": triton.__version__, "families": table["families"]}))


def _text(table: dict[str, Any]) -> str:
    """JSON with one line per kernel."""
    lines = []
    for family, rows in table["families"].items():
        body = []
        for name, call in rows.items():
            head = json.dumps({key: value for key, value in call.items() if key != "kernels"})[:-1]
            kernels = ",\n".join(f"        {json.dumps(k)}: {json.dumps(v)}" for k, v in call["kernels"].items())
            body.append(f'      {json.dumps(name)}: {head}, "kernels": {{\n{kernels}\n      }}}}')
        lines.append(f"    {json.dumps(family)}: {{\n" + ",\n".join(body) + "\n    }")
    return f'{{\n  "triton": {json.dumps(table["triton"])},\n  "families": {{\n' + ",\n".join(lines) + "\n  }\n}\n"


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] != "write":
        print(json.dumps(measured(sys.argv[1], True), indent=1))
    else:
        names = [name for name in sys.argv[2:] if name != "--quick"]
        write(names or list(FAMILIES), "--quick" in sys.argv)
