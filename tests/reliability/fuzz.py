"""A coverage-guided fuzzer for the readers and the config grammar, in one process with a limit on memory.

    python -m tests.reliability.fuzz --mutations 100000 --seed 1 --output fuzz.json

An input that reaches a new line of our readers, or a new pair of lines, joins the seeds. A finding is an exception that is
not a MedsegError, more than 2 s, wrong voxels under a checksum, or memory beyond the limit; its bytes are printed.
"""

from __future__ import annotations

import argparse
import base64
import json
import logging
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from tests.reliability.mutations import mutate
from tests.reliability.targets import Target, outcome, targets

SLOWEST_S = 2.0
MEMORY_MB = 200  # growth of the whole process over its idle size
TRACED = ("medseg/io/", "medseg/datasets/", "medseg/config.py", "medseg/bundle/opening/grammar")


@dataclass
class Report:
    """What a run did: counts per target and outcome, the findings, the cost."""

    mutations: int = 0
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    findings: list[dict[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    slowest_s: float = 0.0
    growth_mb: float = 0.0
    lines: int = 0
    kept_inputs: int = 0


class _Lines:
    """Lines of our own files that one call reaches."""

    def __init__(self) -> None:
        self.reached: set[tuple[int, int]] = set()
        self._wanted: dict[Any, bool] = {}

    def trace(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        code = frame.f_code
        if code not in self._wanted:
            self._wanted[code] = any(part in code.co_filename for part in TRACED)
        return self._line if self._wanted[code] else None

    def _line(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any]:
        if event == "line":
            self.reached.add((id(frame.f_code), frame.f_lineno))
        return self._line


def fuzz(
    mutations: int, *, seed: int, traced_share: float = 0.2, progress: Callable[[int], None] | None = None
) -> Report:
    """Run that many mutated inputs over all targets in turn.

    Args:
        mutations: inputs in all.
        seed: of all choices; coverage may keep other inputs on another Python version.
        traced_share: share of inputs whose coverage is watched; tracing is about five times slower.
        progress: called with the number done.
    """
    source, report, known = random.Random(seed), Report(), set[tuple[str, int, int]]()
    pool = {name: list(target.seeds) for name, target in targets().items()}
    report.counts = {name: {} for name in pool}
    begin, idle = time.monotonic(), _peak_mb()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(mutations):
            name = source.choice(list(pool))
            # sound files lead deepest into a reader: every second input starts from one
            start = targets()[name].seeds if source.random() < 0.5 else pool[name]
            content = mutate(source.choice(start), source)
            watched = source.random() < traced_share
            result, taken, lines = _run(targets()[name], content, Path(folder), watched=watched)
            new = {(name, *line) for line in lines} - known
            if new and len(content) < 1 << 16:
                known |= new
                pool[name].append(content)
            _book(report, name, content, result, taken)
            if progress and number % 1000 == 999:
                progress(number + 1)
    report.mutations, report.seconds = mutations, time.monotonic() - begin
    report.growth_mb, report.lines = _peak_mb() - idle, len(known)
    report.kept_inputs = sum(len(inputs) for inputs in pool.values()) - sum(len(t.seeds) for t in targets().values())
    if report.growth_mb > MEMORY_MB:
        report.findings.append({"target": "all", "what": f"the process grew by {report.growth_mb:.0f} MB", "bytes": ""})
    return report


def _run(target: Target, content: bytes, folder: Path, *, watched: bool) -> tuple[str, float, set[tuple[int, int]]]:
    lines = _Lines()
    path = folder / f"input{target.suffix}"
    begin = time.process_time()  # a loaded machine is no fault of ours
    if watched:
        sys.settrace(lines.trace)
    try:
        result = outcome(target, content, path)
    finally:
        sys.settrace(None)
    return result, time.process_time() - begin, lines.reached


def _book(report: Report, name: str, content: bytes, result: str, taken: float) -> None:
    if result in ("read", "refused") and taken > SLOWEST_S:
        result = f"took {taken:.1f} s"
    kind = result if result in ("read", "refused") else "finding"
    report.counts[name][kind] = report.counts[name].get(kind, 0) + 1
    report.slowest_s = max(report.slowest_s, taken)
    if kind == "finding" and len(report.findings) < 50:
        text = base64.b64encode(content[:4096]).decode()
        report.findings.append({"target": name, "what": result[:300], "bytes": text})


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def limit_address_space(extra_mb: int = 1024) -> None:
    """Let an allocation far beyond what a reader may ask for fail, instead of swapping the machine."""
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (extra_mb << 20), resource.RLIM_INFINITY))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # rounded labels and guessed orientations are no findings
    targets()
    fuzz(200, seed=0)  # every import is done before memory is measured
    limit_address_space()
    report = fuzz(
        arguments.mutations, seed=arguments.seed, progress=lambda done: print(f"{done} inputs", file=sys.stderr)
    )
    if arguments.output:
        arguments.output.write_text(json.dumps(report.__dict__, indent=2), encoding="utf-8")
    print(json.dumps({key: value for key, value in report.__dict__.items() if key != "counts"}, indent=2))
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
