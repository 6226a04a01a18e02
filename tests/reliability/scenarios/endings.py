"""Signals at random moments: every verb ends with 130 or 143, says in one line how to go on, and those words then do.

SIGTERM, SIGINT and SIGUSR1 meet fit, cv, predict, plan, evaluate, pack, install and export. The words of the last line are
then run as they stand; they have to succeed and to leave what a command leaves that nobody disturbed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shlex
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .base import Child, Outcome, broken_files, digest, listens, make_data, make_planned, make_predicting
from .kill_fit import SETTINGS, result

SENT = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
LENGTHS = ["max_epochs=5", "steps_per_epoch=4", *SETTINGS[2:]]


@dataclass(frozen=True)
class Verb:
    """A verb under test.

    Attributes:
        words: from the trial's folder to the command.
        start: puts what the command needs into a fresh folder.
        outcome: what it leaves, comparable.
    """

    words: Callable[[Path], list[str]]
    start: Callable[[Path], None]
    outcome: Callable[[Path], Any]


def files(folder: Path, *patterns: str) -> dict[str, str]:
    """Digest of every file below a folder."""
    found = [path for pattern in patterns or ("*",) for path in folder.rglob(pattern) if path.is_file()]
    return {path.relative_to(folder).as_posix(): digest(path) for path in sorted(found)}


def weights_and_curve(folder: Path) -> Any:
    state, rows = result(folder / "bundle")
    return {name: tensor.tolist() for name, tensor in state.items()}, rows


def registered(folder: Path) -> Any:
    """Names in the registry whose alias leads to a version that is ready."""
    with contextlib.closing(sqlite3.connect(folder / "bundle" / "runs" / "mlflow.db")) as database:
        return database.execute(
            "select a.name, a.alias, v.status from registered_model_aliases a join model_versions v on a.name = v.name "
            "and a.version = v.version"
        ).fetchall()


def verbs(pristine: Path, trained: Path, data: Path, zipped: Path) -> dict[str, Verb]:
    def nothing(folder: Path) -> None:
        folder.mkdir(parents=True)

    def copy_of(source: Path) -> Callable[[Path], None]:
        return lambda folder: shutil.copytree(source, folder / "bundle") and None

    def choice(folder: Path) -> Any:
        texts = files(folder / "bundle", "inference.json", "cross_validation.json", "plan.json")
        return {name: value for name, value in texts.items() if not name.startswith("runs/")}

    def labels(folder: Path) -> Any:
        return files(folder / "out", "*.nii.gz", "*.csv")

    def scores(folder: Path) -> Any:
        return json.loads((folder / "scores" / "evaluation.json").read_text(encoding="utf-8"))

    def planned(folder: Path) -> Any:
        return {name: value for name, value in files(folder / "new").items() if not name.endswith("metadata.json")}

    def fit(*more: str) -> Callable[[Path], list[str]]:
        return lambda folder: ["fit", str(folder / "bundle"), *LENGTHS, *more]

    def predict(folder: Path) -> list[str]:
        words = ["predict", str(trained), str(data / "images"), "-o", str(folder / "out")]
        return [*words, "--threads", "1", "--engine", "eager"]

    def evaluate(folder: Path) -> list[str]:
        places = ["--prediction", str(data / "labels"), "--reference", str(data / "labels")]
        return ["evaluate", *places, "--output", str(folder / "scores")]

    return {
        "fit": Verb(fit("train::trainer::tracking=false"), copy_of(pristine), weights_and_curve),
        "fit_mlflow": Verb(fit(), copy_of(pristine), weights_and_curve),
        "cv": Verb(lambda folder: ["cv", str(folder / "bundle"), "--threads", "1"], copy_of(trained), choice),
        "predict": Verb(predict, nothing, labels),
        "plan": Verb(
            lambda folder: ["plan", "--data", str(data), "--output", str(folder / "new"), "--preset", "tiny"],
            nothing,
            planned,
        ),
        "evaluate": Verb(evaluate, nothing, scores),
        "pack": Verb(
            lambda folder: ["bundle", "pack", str(trained), "-o", str(folder / "x.zip")],
            nothing,
            lambda folder: digest(folder / "x.zip"),
        ),
        "install": Verb(
            lambda folder: ["bundle", "install", str(zipped)],
            nothing,
            lambda folder: files(folder / "installed"),
        ),
        "verify": Verb(lambda folder: ["bundle", "verify", str(trained)], nothing, lambda folder: None),
        "register": Verb(lambda folder: ["bundle", "register", str(folder / "bundle")], copy_of(trained), registered),
        "networks": Verb(lambda folder: ["networks", "tiny", "--roi-size", "8,8,8"], nothing, lambda folder: None),
        "export": Verb(
            lambda folder: ["bundle", "export", str(trained), "--to", "torchscript", "-o", str(folder / "x.ts")],
            nothing,
            lambda folder: sorted(path.name for path in folder.glob("x*")),
        ),
    }


def in_folder(folder: Path) -> Callable[[], None]:
    """For `Child`: bundles are installed below the trial's folder."""
    return lambda: os.environ.update(MEDSEG_BUNDLES=str(folder / "installed"))


def going_on(text: str) -> list[list[str]]:
    """The words, without the program, of every line that says how to go on."""
    commands = [line.split("go on with: ", 1)[1] for line in text.splitlines() if "go on with: " in line]
    split = [shlex.split(command) for command in commands]
    return [words[words.index("medseg") + 1 :] if "medseg" in words else words[1:] for words in split]


def trial(name: str, verb: Verb, number: signal.Signals, moment: float, folder: Path, outcome: Outcome) -> None:
    """One signal at one moment, and what has to come of it."""
    shutil.rmtree(folder, ignore_errors=True)
    verb.start(folder)
    label = f"{name}, {number.name} after {moment:.2f} s"
    child = Child(verb.words(folder), folder.parent / "log", in_folder(folder))
    while child.running() and not listens(child.pid):
        time.sleep(0.001)
    time.sleep(moment)
    if child.running():
        os.kill(child.pid, number)
    child.wait(60)
    lines, text = going_on(child.text), child.text
    if child.code == 0:
        outcome.count("ended before the signal, or too late for it")
        outcome.expect(not lines, f"{label}: exit code 0 and {lines}")
        return
    outcome.count(f"{name} ended")
    wanted = 130 if number == signal.SIGINT else 143
    outcome.expect(child.code == wanted, f"{label}: exit code {child.code}, expected {wanted}: {text[-600:]}")
    outcome.expect("Traceback" not in text, f"{label}: {text[-1200:]}")
    said = len(lines) == 1 and f"({number.name}); go on with: " in text
    outcome.expect(said, f"{label}: {len(lines)} lines say how to go on: {text[-600:]}")
    left = [p.name for p in folder.rglob("*") if p.name.startswith((".medseg-tmp", ".unpacking_", ".fetching_"))]
    outcome.expect(not left, f"{label}: left {left}")
    outcome.expect(not (bad := broken_files(folder)), f"{label}: broken {bad}")
    if not lines:
        return
    again = Child(lines[0], folder.parent / "log_again", in_folder(folder)).wait()
    outcome.expect(again.code == 0, f"{label}: {lines[0]} ended with {again.code}: {again.text[-600:]}")


def make_trained(folder: Path, data: Path, *, folds: bool) -> Path:
    """A bundle that predicts, with a training of every fold where that is asked for; the planned one lies beside it."""
    pristine, trained = folder / "pristine", folder / "trained"
    if not folds:
        make_predicting(trained, data)
        shutil.copytree(trained, pristine, ignore=shutil.ignore_patterns("model.pt"))
        return trained
    make_planned(pristine, data)
    shutil.copytree(pristine, trained)
    quick = ["max_epochs=1", "steps_per_epoch=2", *SETTINGS[2:], "train::trainer::tracking=false"]
    made = Child(["fit", str(trained), "--fold", "all", *quick], folder / "log").wait()
    assert made.code == 0, made.text
    return trained


def run(times: int, seed: int, folder: Path, parts: Sequence[str] = ()) -> Outcome:
    """Signals at `times` moments of each verb, or of those in `parts`, for each kind of signal; 0 for one of two kinds."""
    outcome, source = Outcome(), random.Random(seed)
    data = make_data(folder / "data")
    trained = make_trained(folder, data, folds=not parts or "cv" in parts)
    packed = Child(["bundle", "pack", str(trained), "-o", str(folder / "m.zip")], folder / "log").wait()
    assert packed.code == 0, packed.text
    found = verbs(folder / "pristine", trained, data, folder / "m.zip")
    for name in parts or found:
        verb, whole = found[name], folder / "whole"
        shutil.rmtree(whole, ignore_errors=True)
        verb.start(whole)
        undisturbed = Child(verb.words(whole), folder / "log", in_folder(whole)).wait()
        assert undisturbed.code == 0, undisturbed.text
        expected = verb.outcome(whole)
        for number in SENT if times else SENT[:2]:
            for _ in range(max(1, times)):
                moment = source.uniform(0, 0.95 * undisturbed.seconds)
                # all trials of a verb work in one place, so that nothing but the disturbance differs
                trial(name, verb, number, moment, whole, outcome)
                try:
                    same = verb.outcome(whole) == expected
                except (OSError, ValueError):
                    same = False
                outcome.count("signals")
                outcome.count("undisturbed result in the end", same)
                outcome.expect(same, f"{name}, {number.name} after {moment:.2f} s: another result")
        words = f"endings of {name} ({undisturbed.seconds:.1f} s): {len(outcome.faults)} faults"
        print(words, file=sys.stderr, flush=True)
    return outcome
