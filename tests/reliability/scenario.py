"""Run scenarios with whole commands and print what they found as JSON.

    python -m tests.reliability.scenario kill_fit --times 20 --seed 1

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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", help="files of tests/reliability/scenarios, NAME or NAME=TIMES")
    parser.add_argument("--times", type=int, default=2, help="how many kills, cases or repeats")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    preload()
    results = {}
    for word in arguments.names:
        name, _, times = word.partition("=")
        module = importlib.import_module(f"tests.reliability.scenarios.{name}")
        with tempfile.TemporaryDirectory() as folder:
            os.environ["MEDSEG_STORE"] = str(Path(folder) / "store")
            os.environ.pop("MLFLOW_TRACKING_URI", None)  # mlflow leaves it in the process that started this one
            begin = time.monotonic()
            outcome = module.run(int(times or arguments.times), arguments.seed, Path(folder))
            seconds = round(time.monotonic() - begin, 1)
        results[name] = {"counts": outcome.counts, "faults": outcome.faults, "seconds": seconds}
        print(f"{name}: {outcome.counts}, {len(outcome.faults)} faults, {seconds:.0f} s", file=sys.stderr, flush=True)
    print(json.dumps(results))
    return int(any(entry["faults"] for entry in results.values()))


if __name__ == "__main__":
    sys.exit(main())
