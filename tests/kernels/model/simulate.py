"""How long a compiled kernel would take on an H100: warps of one scheduler, in order, by the control bits of their code.

Estimates only, good to about 40 % and not calibrated on a GPU; ratios between two kernels are better. Latencies and rates are
those that public microbenchmarks of the architecture report, rounded.
"""

from __future__ import annotations

import re

from tests.kernels.model.compiled import Code, Instruction, jump

CLOCK, PROCESSORS, LATENCY = 1.755e9, 132, 500  # of memory, between the L2 cache's 260 and DRAM's 650 cycles
# base of an opcode -> latency, pipe, cycles that the pipe is taken by one warp
FIXED = {
    "MUFU": (24, "special", 8), "I2F": (24, "special", 8), "F2I": (24, "special", 8), "F2F": (24, "special", 8),
    "POPC": (24, "special", 8), "FLO": (24, "special", 8), "SHFL": (25, "memory", 4), "LDC": (40, "memory", 4),
    "BAR": (15, "control", 2), "S2R": (30, "control", 2), "S2UR": (30, "control", 2), "R2UR": (12, "integer", 2),
    "HMMA": (34, "matrix", 8), "HGMMA": (130, "matrix", 16), "FFMA": (4, "float", 1), "FADD": (4, "float", 1),
    "FMUL": (4, "float", 1), "IMAD": (5, "heavy", 2), "HFMA2": (5, "heavy", 2), "HADD2": (5, "heavy", 2),
    "HMUL2": (5, "heavy", 2), "LDGSTS": (LATENCY, "memory", 8),
}  # fmt: skip
CONTROL = {"BRA", "NOP", "EXIT", "BSSY", "BSYNC", "DEPBAR", "LDGDEPBAR", "WARPGROUP", "MEMBAR", "FENCE", "WARPSYNC"}


def _cost(one: Instruction) -> tuple[int, str, int]:
    parts = one.code.split(".")
    words = 4 if "128" in parts else 2 if "64" in parts else 1
    if one.base in FIXED:
        return FIXED[one.base]
    if one.base in ("LDG", "LD", "LDL"):
        return LATENCY if one.base != "LDL" else 60, "memory", 8 if words == 4 else 4
    if one.base in ("LDS", "LDSM"):
        return 28 + 2 * words, "memory", 4 * words
    if one.base in ("STG", "ST", "STL", "STS", "STSM"):
        return 20, "memory", 4 * words
    if one.base in CONTROL:
        return 10, "control", 1
    return (12, "uniform", 2) if one.base.startswith("U") else (5, "integer", 2)


def _path(code: Code, first: int, last: int) -> list[Instruction]:
    """Instructions of one iteration: forward branches are taken, they skip rare work."""
    found, at = [], first
    while at <= last:
        one = code.instructions[at]
        found.append(one)
        target = code.labels.get(jump(one) or "", -1)
        at = target if at < target <= last else at + 1
    return found


def cycles(code: Code, first: int, last: int, warps: int, rounds: int = 9) -> float:
    """Cycles of one pass over a range of instructions when `warps` warps of one scheduler do it again and again."""
    steps = [(one, *_cost(one)) for one in _path(code, first, last)]
    place, passes = [0] * warps, [0] * warps
    ready, barriers = [0] * warps, [[0] * 6 for _ in range(warps)]
    pipes: dict[str, int] = {}
    begun, ended, now, turn = [0] * warps, [0] * warps, 0, 0
    live = set(range(warps))
    while live:
        chosen, soonest = -1, 1 << 60
        for offset in range(1, warps + 1):
            warp = (turn + offset) % warps
            if warp not in live:
                continue
            one, _, pipe, _ = steps[place[warp]]
            at = max(ready[warp], pipes.get(pipe, 0), *(barriers[warp][b] for b in range(6) if one.wait >> b & 1), 0)
            if at <= now:
                chosen = warp
                break
            soonest = min(soonest, at)
        if chosen < 0:
            now = soonest
            continue
        one, latency, pipe, taken = steps[place[chosen]]
        pipes[pipe] = now + taken
        ready[chosen] = now + max(1, one.stall)
        if one.write < 6:
            barriers[chosen][one.write] = max(barriers[chosen][one.write], now + latency)
        if one.read < 6:
            barriers[chosen][one.read] = max(barriers[chosen][one.read], now + 14)
        turn, place[chosen] = chosen, place[chosen] + 1
        if place[chosen] == len(steps):
            place[chosen], passes[chosen] = 0, passes[chosen] + 1
            if passes[chosen] == rounds // 3:
                begun[chosen] = now
            if passes[chosen] == rounds:
                ended[chosen] = now
                live.discard(chosen)
        now += 1
    return sum(e - b for b, e in zip(begun, ended, strict=True)) / warps / (rounds - rounds // 3)


def resident(code: Code, warps: int) -> int:
    """Programs that one multiprocessor holds."""
    registers = (max(code.registers, 24) + 7) // 8 * 8
    return max(1, min(65536 // (registers * 32 * warps), 64 // warps, 32, 227 * 1024 // (code.shared + 1024)))


def microseconds(code: Code, warps: int, programs: int, iterations: list[float]) -> float:
    """A launch: programs that go through the kernel's innermost loops so often (the longest first; those without a number are
    left out), and once through the rest. A kernel without a loop is walked once from end to end."""
    held = min(resident(code, warps), max(1, -(-programs // PROCESSORS)))
    waves = max(1.0, programs / (PROCESSORS * held))
    schedule = max(1, held * warps // 4)
    loops = inner_loops(code)[: len(iterations)]
    if not loops:
        return waves * cycles(code, 0, len(code.instructions) - 1, schedule, 6) / CLOCK * 1e6
    rest = len(code.instructions) - sum(b - a + 1 for a, b in loops)
    walked = sum(times * cycles(code, *loop, schedule) for loop, times in zip(loops, iterations, strict=False))
    return waves * (walked + rest * schedule / 0.7 + LATENCY) / CLOCK * 1e6


def inner_loops(code: Code) -> list[tuple[int, int]]:
    """Loops that hold no other loop, the longest first."""
    found = [
        (a, b)
        for a, b in code.loops
        if b - a >= 10 and not any(a <= c and d <= b and (c, d) != (a, b) for c, d in code.loops)
    ]
    return sorted(found, key=lambda loop: loop[0] - loop[1])


def hot_loop(code: Code) -> tuple[int, int] | None:
    """The longest of them."""
    return next(iter(inner_loops(code)), None)


def serial_loads(code: Code, first: int, last: int) -> int:
    """Round trips to memory one after the other in an iteration: a wait for loads of this iteration, then more loads."""
    rounds, open_barriers, loaded_since = 0, set(), False
    for one in _path(code, first, last):
        if any(one.wait >> b & 1 for b in open_barriers):
            rounds, open_barriers, loaded_since = rounds + loaded_since, set(), False
        if one.base == "LDG" and one.write < 6:
            open_barriers.add(one.write)
            loaded_since = True
    return rounds


def count(code: Code, first: int, last: int, pattern: str) -> int:
    """Instructions of a range whose opcode matches."""
    return sum(bool(re.match(pattern, one.code)) for one in code.instructions[first : last + 1])
