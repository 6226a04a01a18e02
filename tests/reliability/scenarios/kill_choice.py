"""R6, choice: `medseg cv` is killed before every change of a file that it makes; the bundle has the old choice or the new one.

The old choice is a bundle's own folds, the new one those of two bundles with post-processing: weights of the other bundle,
the averaged weights, four configurations, the plan, the record, the model card and the report. After each kill `predict` opens
the bundle; all these files, and the labels, have to be of one choice. Then the same `cv` again has to leave the new one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medseg.selection.unfinished import STAGED

from .base import Child, Outcome, digest, make_data, make_planned, temporary_files
from .kill_fit import SETTINGS

TRAINED = ["max_epochs=1", "steps_per_epoch=2", *SETTINGS[2:], "train::trainer::tracking=false"]
KILLED = 77


def choosing(kill_before: int) -> Callable[[], None]:
    """For `Child`: both bundles together and a step are chosen, and the process dies before one of its changes of files.

    Which candidate wins is a matter of scores, and not under test here.
    """

    def patch() -> None:
        from medseg.commands import cv
        from medseg.selection.cross_validation import Selection

        cv.choose_candidate = lambda evaluations, ensembles=(): ensembles[0]
        steps = [{"kind": "largest_component", "labels": [1]}]
        cv.choose_postprocessing = lambda *_, **__: Selection(steps, [])
        left = iter(range(kill_before))

        def deadly(change: Callable[..., Any]) -> Callable[..., Any]:
            def changed(*arguments: Any, **named: Any) -> Any:
                if kill_before >= 0 and next(left, None) is None:
                    os._exit(KILLED)
                return change(*arguments, **named)

            return changed

        for name in ("replace", "rename", "unlink", "remove"):
            setattr(os, name, deadly(getattr(os, name)))

    return patch


def state(bundle: Path) -> dict[str, Any]:
    """What decides and tells of the choice: every file outside of `runs` but those in the making, weights by their values."""
    import torch

    found: dict[str, Any] = {}
    for path in sorted(bundle.rglob("*")):
        name = path.relative_to(bundle).as_posix()
        if (
            not path.is_file()
            or name.startswith("runs/")
            or path.suffix == STAGED
            or path.name.startswith(".medseg-tmp")
        ):
            continue
        if path.suffix == ".pt":
            tensors = torch.load(path, map_location="cpu", weights_only=True)
            found[name] = {key: value.tolist() for key, value in tensors.items()}
        else:
            found[name] = digest(path)
    return found


def labels(bundle: Path, data: Path, out: Path) -> dict[str, str]:
    """What the bundle predicts; opening it finishes what was begun."""
    shutil.rmtree(out, ignore_errors=True)
    words = ["predict", str(bundle), str(data / "images"), "-o", str(out), "--threads", "1", "--engine", "eager"]
    ran = Child(words, out.parent / "log").wait()
    if ran.code:
        return {"refused": ran.text[-600:]}
    return {path.name: digest(path) for path in out.glob("*.nii.gz")}


def make_chosen(folder: Path, data: Path) -> Path:
    """Two trained bundles, `one` with its own folds as its choice, and all label maps of both and of the ensemble."""
    pristine = folder / "pristine"
    for name, seed in (("one", 0), ("two", 1)):
        make_planned(pristine / name, data)
        words = ["fit", str(pristine / name), "--fold", "all", *TRAINED, f"seed={seed}"]
        ran = Child(words, folder / "log").wait()
        assert ran.code == 0, ran.text
    for words, hook in ((["one", "two", "--dry-run"], choosing(-1)), (["one"], None)):
        places = [str(pristine / word) if word in ("one", "two") else word for word in words]
        ran = Child(["cv", *places, "--threads", "1"], folder / "log", hook).wait()
        assert ran.code == 0, ran.text
    return pristine


def run(times: int, seed: int, folder: Path) -> Outcome:
    """Killed before each change of a file; `times` ends earlier, 0 for none of that. `seed` is not needed."""
    outcome, data = Outcome(), make_data(folder / "data")
    pristine, trial, out = make_chosen(folder, data), folder / "trial", folder / "out"
    shutil.copytree(pristine, trial)
    bundle, words = trial / "one", ["cv", str(trial / "one"), str(trial / "two"), "--threads", "1"]
    choices = {"old": (state(bundle), labels(bundle, data, out))}
    undisturbed = Child(words, folder / "log", choosing(-1)).wait()
    assert undisturbed.code == 0, undisturbed.text
    choices["new"] = (state(bundle), labels(bundle, data, out))
    for number in range(times or 1000):
        shutil.rmtree(trial)
        shutil.copytree(pristine, trial)
        child = Child(words, folder / "log", choosing(number)).wait()
        if child.code == 0:
            break
        outcome.count("killed before a change")
        outcome.expect(child.code == KILLED, f"change {number}: exit code {child.code}: {child.text[-600:]}")
        predicted = labels(bundle, data, out)
        files = state(bundle)
        kinds = {name for name, (kept, shown) in choices.items() if files == kept and predicted == shown}
        for name in kinds:
            outcome.count(f"wholly the {name} choice")
        apart = {name: sorted(k for k in files.keys() | kept.keys() if files.get(k) != kept.get(k))
                 for name, (kept, _) in choices.items()}  # fmt: skip
        words_of = f"change {number}: neither choice: other files than {apart}; {predicted.get('refused', '')}"
        outcome.expect(len(kinds) == 1, words_of)
        again = Child(words, folder / "log", choosing(-1)).wait()
        outcome.expect(again.code == 0, f"change {number}: again: {again.code}: {again.text[-600:]}")
        whole = state(bundle) == choices["new"][0] and not (temporary_files(bundle) + list(bundle.rglob(f"*{STAGED}")))
        outcome.count("new choice after the same command again", whole)
        outcome.expect(whole, f"change {number}: the same command again left another choice")
    return outcome
