"""Run scenarios with whole commands and print what they found as JSON.

    python -m tests.reliability.scenario kill_fit --times 20 --seed 1
    python -m tests.reliability.scenario endings:cv=10

Several names run one after the other in one process; the imports are paid once.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.reliability.scenarios.base import preload


def core_seconds() -> float:
    """Used by this process and those that it has waited for."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", help="files of tests/reliability/scenarios: NAME[:PART+PART][=TIMES]")
    parser.add_argument("--times", type=int, default=2, help="how many kills, cases or repeats")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    preload()
    results = {}
    for word in arguments.names:
        name, _, times = word.partition("=")
        file, _, parts = name.partition(":")
        module = importlib.import_module(f"tests.reliability.scenarios.{file}")
        with tempfile.TemporaryDirectory() as folder:
            os.environ["MEDSEG_STORE"] = str(Path(folder) / "store")
            os.environ.pop("MLFLOW_TRACKING_URI", None)  # mlflow leaves it in the process that started this one
            begin, used = time.monotonic(), core_seconds()
            chosen = [parts.split("+")] if parts else []
            outcome = module.run(int(times or arguments.times), arguments.seed, Path(folder), *chosen)
            seconds, used = round(time.monotonic() - begin, 1), round(core_seconds() - used, 1)
        results[name] = {
            "counts": outcome.counts, "faults": outcome.faults, "seconds": seconds, "core_seconds": used
        }  # fmt: skip
        words = f"{name}: {outcome.counts}, {len(outcome.faults)} faults, {seconds:.0f} s, {used:.0f} core-seconds"
        print(words, *outcome.faults[:5], sep="\n    ", file=sys.stderr, flush=True)
    print(json.dumps(results))
    return int(any(entry["faults"] for entry in results.values()))


if __name__ == "__main__":
    sys.exit(main())
