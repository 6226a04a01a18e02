"""R6, preprocessing: `medseg plan` and the store building of `medseg fit` are killed at random times and run again.

Under final names stand only complete, verified cases; the next run builds what is missing, keeps what is finished, and leaves
nothing half-made behind.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

from .base import Child, Outcome, broken_files, make_data, make_planned, temporary_files
from .kill_fit import fit

CASES = 6
PAUSE_S = 0.04
ONE_EPOCH = ("max_epochs=1", "steps_per_epoch=1", "val_interval=1")


def slow_store() -> None:
    """Each stored array is written in two halves with a pause, so that kills land inside a write."""
    import numpy as np

    from medseg.io import store

    save = store._save

    def halves(path: Path, array: Any) -> dict[str, int]:
        with open(path, "wb") as stream:
            stream.write(b"half of an array")
            stream.flush()
            time.sleep(PAUSE_S)
        return save(path, np.asarray(array))

    store._save = halves


def stored(folder: Path) -> tuple[dict[str, int], list[str]]:
    """Complete cases with the time their record was written, and the incomplete ones under final names."""
    import numpy as np

    from medseg.io.store import _checksum

    whole, broken = {}, []
    for case in (one for recipe in folder.glob("*") for one in recipe.glob("*") if not one.name.startswith(".")):
        try:
            record = json.loads((case / "case.json").read_text(encoding="utf-8"))
            for name, facts in record["files"].items():
                np.load(case / name, mmap_mode="r", allow_pickle=False)
                assert _checksum(case / name) == facts["crc32"], name
            whole[case.name] = (case / "case.json").stat().st_mtime_ns
        except Exception as error:
            broken.append(f"{case.name}: {type(error).__name__}: {error}")
    return whole, broken


def kill_store(trial: int, data: Path, pristine: Path, source: random.Random, outcome: Outcome, folder: Path) -> None:
    store, bundle = folder / f"store_{trial}", folder / "bundle"
    shutil.rmtree(bundle, ignore_errors=True)
    shutil.copytree(pristine, bundle)
    os.environ["MEDSEG_STORE"] = str(store)
    child = fit(bundle, *ONE_EPOCH, before=slow_store)
    while child.running() and not list(store.glob("*/.medseg-tmp-*")):
        time.sleep(0.001)
    time.sleep(source.uniform(0, CASES * 3 * PAUSE_S))
    outcome.count("store building killed" if child.running() else "ended before the kill")
    child.kill()
    child.wait()
    outcome.count("with a case half-written", bool(temporary_files(store)))
    before, broken = stored(store)
    outcome.count("cases whole at a kill", len(before))
    outcome.expect(not broken, f"trial {trial}: incomplete under final names: {broken}")
    again = fit(bundle, *ONE_EPOCH, "--resume").wait()
    outcome.expect(again.code == 0, f"trial {trial}: the next run ended with {again.code}: {again.text[-500:]}")
    after, broken = stored(store)
    rebuilt = [name for name, when in before.items() if after.get(name) != when]
    outcome.expect(len(after) == CASES and not broken, f"trial {trial}: {len(after)} of {CASES} cases stored, {broken}")
    outcome.expect(not rebuilt, f"trial {trial}: built again although finished: {rebuilt}")
    outcome.expect(not (left := temporary_files(store, bundle)), f"trial {trial}: left {left}")
    shutil.rmtree(store)


def kill_plan(trial: int, data: Path, expected: dict[str, Any], seconds: float, source: random.Random, outcome: Outcome,
              folder: Path) -> None:  # fmt: skip
    bundle = folder / "planned"
    shutil.rmtree(bundle, ignore_errors=True)
    words = ["plan", "--data", str(data), "--output", str(bundle), "--preset", "tiny", "--quiet"]
    child = Child(words, folder / "log")
    if trial % 2:  # while files appear: the writing is the last, short part
        while child.running() and not bundle.exists():
            time.sleep(0.0005)
        time.sleep(source.uniform(0, 0.05))
    else:
        time.sleep(source.uniform(0, seconds))
    outcome.count("plan killed" if child.running() else "ended before the kill")
    child.kill()
    child.wait()
    outcome.expect(not (bad := broken_files(bundle)), f"plan {trial}: broken after the kill: {bad}")
    again = Child(words, folder / "log").wait()
    outcome.expect(again.code == 0, f"plan {trial}: the next run ended with {again.code}: {again.text[-500:]}")
    outcome.expect(_plan(bundle) == expected, f"plan {trial}: another plan than undisturbed")
    outcome.expect(not (left := temporary_files(bundle)), f"plan {trial}: left {left}")


def _plan(bundle: Path) -> dict[str, Any]:
    try:
        plan: dict[str, Any] = json.loads((bundle / "plan.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return plan


def run(times: int, seed: int, folder: Path) -> Outcome:
    outcome, source = Outcome(), random.Random(seed)
    data = make_data(folder / "data", CASES, (32, 32, 32))
    pristine = make_planned(folder / "planned", data)
    begin = time.monotonic()
    make_planned(folder / "pristine" / "planned", data)
    seconds, expected = time.monotonic() - begin, _plan(pristine)
    for trial in range(times):
        kill_store(trial, data, folder / "pristine" / "planned", source, outcome, folder)
    for trial in range(times):
        kill_plan(trial, data, expected, seconds, source, outcome, folder)
    return outcome
