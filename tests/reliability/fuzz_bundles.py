"""Mutated bundle files through the front doors, under an audit hook, in blocks that a later call continues.

    python -m tests.reliability.fuzz_bundles --mutations 200000 --output docs/fuzz_bundles.json

A finding is an exception that is not a MedsegError, a message of several lines, more than 2 s of processor time, or an
audit event of tests/reliability/audit.py: a write, a connection, a process, a change, an import, code, unpickling.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import json
import logging
import os
import random
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from medseg.errors import MedsegError
from tests.reliability.audit import Watch
from tests.reliability.bundle_targets import Door, doors

BLOCK = 1000
SLOWEST_S = 2.0


@dataclass
class Report:
    """What was done so far: counts by door and outcome, findings with their bytes, the slowest input."""

    seed: int
    mutations: int = 0
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    findings: list[dict[str, str]] = field(default_factory=list)
    slowest_s: float = 0.0
    seconds: float = 0.0
    command: str = "make fuzz"


class Fuzzer:
    """Doors in a temporary folder and a watch over them; the hook stays in the process, so make one only."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.doors = doors(place)
        self.watch = Watch()
        for name, door in self.doors.items():  # every import is done before the watch begins
            for seed in door.seeds:
                door.file.write_bytes(seed)
                door.open()
                result = self.outcome(door, seed)
                assert result == "read", (name, result)

    def outcome(self, door: Door, content: bytes) -> str:
        """`read`, `refused`, or what is wrong."""
        door.file.write_bytes(content)
        result = "read"
        with self.watch.watching(self.place) as broken, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                door.open()
            except MedsegError as error:
                result = "refused" if "\n" not in str(error) else f"several lines: {error}"
            except Exception as error:
                result = f"{type(error).__name__}: {error}"
        return broken[0] if broken else result

    def block(self, report: Report, count: int = BLOCK) -> None:
        """Run the next inputs; the same seed and number give the same inputs."""
        source = random.Random(f"{report.seed}/{report.mutations}")
        begin = time.monotonic()
        for _ in range(count):
            name = source.choice(list(self.doors))
            content = self.doors[name].mutated(source)
            started = time.process_time()
            result = self.outcome(self.doors[name], content)
            taken = time.process_time() - started
            report.slowest_s = max(report.slowest_s, round(taken, 3))
            if result in ("read", "refused") and taken > SLOWEST_S:
                result = f"took {taken:.1f} s"
            kind = result if result in ("read", "refused") else "finding"
            counts = report.counts.setdefault(name, {})
            counts[kind] = counts.get(kind, 0) + 1
            if kind == "finding" and len(report.findings) < 50:
                text = base64.b64encode(content[:8192]).decode()
                what = result.replace(str(self.place), "PLACE")[:300]
                report.findings.append({"door": name, "what": what, "bytes": text})
        report.mutations += count
        report.seconds = round(report.seconds + time.monotonic() - begin, 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, help="kept after every block; continued where it ends")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    report = Report(arguments.seed)
    if arguments.output and arguments.output.is_file():
        kept = Report(**json.loads(arguments.output.read_text(encoding="utf-8")))
        report = kept if kept.seed == arguments.seed and not kept.findings else report
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve()
        os.environ["MEDSEG_TRUSTED"], os.environ["MEDSEG_BUNDLES"] = str(place / "t.json"), str(place / "installed")
        fuzzer = Fuzzer(place)
        while report.mutations < arguments.mutations:
            fuzzer.block(report, min(BLOCK, arguments.mutations - report.mutations))
            if arguments.output:
                arguments.output.write_text(json.dumps(dataclasses.asdict(report), indent=2) + "\n", encoding="utf-8")
            print(f"{report.mutations} inputs, {len(report.findings)} findings", file=sys.stderr)
    print(json.dumps({key: value for key, value in dataclasses.asdict(report).items() if key != "findings"}, indent=2))
    for finding in report.findings[:10]:
        print(f"{finding['door']}: {finding['what']}")
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
