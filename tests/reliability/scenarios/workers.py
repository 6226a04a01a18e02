"""R10: processes and threads that die in the middle of a case; the command ends within 10 s with the case's name and the cause."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .base import Child, Outcome, make_data, make_planned, make_predicting
from .kill_fit import fit

LIMIT_S = 10.0
VICTIM = "ball_0002"


def crop_does(action: Callable[[], Any], note_folder: Path) -> Callable[[], None]:
    """For `Child`: making a training crop of one case does this instead."""

    def patch() -> None:
        from medseg.training.datamodule import TrainingDataset

        sample = TrainingDataset._sample

        def faulty(self: Any, key: Any, case: Any, *arguments: Any) -> Any:
            if case.name == VICTIM:
                (note_folder / "pid").write_text(str(os.getpid()))
                action()
            return sample(self, key, case, *arguments)

        TrainingDataset._sample = faulty  # type: ignore[method-assign]

    return patch


def reading_does(error: Exception, note_folder: Path) -> Callable[[], None]:
    """For `Child`: reading the image of one case raises this, in preprocessing and in prediction."""

    def patch() -> None:
        from medseg.cases import batch
        from medseg.training import prepare

        def faulty_for(read: Callable[..., Any]) -> Callable[..., Any]:
            def read_or_fail(path: Any, *arguments: Any, **options: Any) -> Any:
                if VICTIM in str(path):
                    (note_folder / "pid").write_text(str(os.getpid()))
                    raise error
                return read(path, *arguments, **options)

            return read_or_fail

        batch.read_case_image = faulty_for(batch.read_case_image)
        prepare.read_case_image = faulty_for(prepare.read_case_image)

    return patch


def raises(error: Exception) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


def surfaced(child: Child, note: Path, *, kill: bool = False) -> float:
    """Wait for the fault and then for its line on the screen; the seconds between."""
    while child.running() and not note.exists():
        time.sleep(0.005)
    if kill:
        time.sleep(0.3)  # the file is complete
        os.kill(int(note.read_text()), signal.SIGKILL)
    began = time.monotonic()
    while child.running() and not any(VICTIM in line for line in child.errors):
        time.sleep(0.01)
    seconds = time.monotonic() - began
    child.wait(60)
    note.unlink(missing_ok=True)
    return seconds


def check(outcome: Outcome, name: str, child: Child, seconds: float, words: list[str], code: int = 1) -> None:
    """The claim for one fault: exit code, time, one line with these words, no traceback."""
    outcome.count("faults planted")
    outcome.counts["slowest s"] = max(outcome.counts.get("slowest s", 0.0), round(seconds, 1))
    lines = [line for line in child.errors if VICTIM in line and "see above" not in line]
    outcome.expect(child.code == code, f"{name}: exit code {child.code}: {child.text[-500:]}")
    outcome.expect(seconds <= LIMIT_S, f"{name}: took {seconds:.1f} s")
    outcome.expect(len(lines) == 1 and all(word in lines[0] for word in words), f"{name}: said {child.text[-700:]}")
    outcome.expect("Traceback" not in child.text, f"{name}: a traceback: {child.text[-700:]}")


def run(times: int, seed: int, folder: Path) -> Outcome:
    outcome = Outcome()
    data = make_data(folder / "data", 6)
    pristine = make_planned(folder / "pristine", data)
    loaders = ("num_workers=2", "steps_per_epoch=20", "max_epochs=50")
    note, trial = folder / "pid", folder / "trial"
    crashes: dict[str, tuple[Callable[[], Any], list[str]]] = {
        "killed": (lambda: time.sleep(120), ["killed by signal", "num_workers"]),
        "segmentation fault": (lambda: os.kill(os.getpid(), signal.SIGSEGV), ["Segmentation fault"]),
        "left": (lambda: os._exit(3), ["exit code 3"]),
        "import error": (raises(ImportError("no module named codec")), ["ImportError", "no module named codec"]),
        "out of memory": (raises(MemoryError("9 GiB")), ["MemoryError", "9 GiB"]),
    }
    for name, (action, words) in crashes.items():
        shutil.copytree(pristine, trial)
        child = fit(trial, *loaders, before=crop_does(action, folder))
        check(outcome, f"fit, loader {name}", child, surfaced(child, note, kill=name == "killed"), words)
        shutil.rmtree(trial, ignore_errors=True)
    bundle = make_predicting(folder / "predicting", data)
    for error in (ImportError("no module named codec"), MemoryError("9 GiB"), RuntimeError("decoder broke")):
        os.environ["MEDSEG_STORE"] = str(folder / "other_store" / type(error).__name__)
        shutil.copytree(pristine, trial)
        child = fit(trial, before=reading_does(error, folder))
        check(outcome, f"fit, preprocessing {type(error).__name__}", child, surfaced(child, note), [str(error)])
        shutil.rmtree(trial, ignore_errors=True)
        command = [
            "predict",
            str(bundle),
            str(data / "images"),
            "-o",
            str(trial),
            "--threads",
            "1",
            "--engine",
            "eager",
        ]
        child = Child(command, folder / "log", reading_does(error, folder))
        check(outcome, f"predict, reader {type(error).__name__}", child, surfaced(child, note), [str(error)], code=3)
        outcome.expect(len(list(trial.glob("*.nii.gz"))) == 5, "predict: the other cases were not finished")
        shutil.rmtree(trial, ignore_errors=True)
    return outcome
