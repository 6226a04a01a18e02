"""`make reliability`: measure every figure and write docs/reliability.md, row by row, going on where it stopped.

    python -m tests.reliability.run                       all rows that this code has not been measured with yet
    python -m tests.reliability.run --only R5 R9          these rows, again
    python -m tests.reliability.run --page                write the page from the rows that are there
    python -m tests.reliability.run --list                which rows this code still lacks, and the seconds they took last time

A row is a scenario with whole commands, the fuzzer, or a set of tests. Each is kept in docs/reliability.json as soon as it is
done, with the commit of the measured code, the command, the date and the machine. What failed is written down as failed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from medseg.io.atomic import write_json, write_text

ROOT = Path(__file__).resolve().parents[2]
MEASURED = ("medseg", "kernels/medseg_kernels", "tests/reliability", "tests/corpus")


@dataclass(frozen=True)
class Figure:
    """One row of the table.

    Attributes:
        name: its key, the requirement and what of it.
        claim: what is claimed.
        tests: paths for pytest, or () for a scenario.
        scenario: NAME=TIMES of tests/reliability/scenarios, or "" for tests.
    """

    name: str
    claim: str
    tests: tuple[str, ...] = ()
    scenario: str = ""


def _tests(name: str, claim: str, *tests: str) -> Figure:
    return Figure(name, claim, tests)


def _plays(name: str, claim: str, scenario: str) -> Figure:
    return Figure(name, claim, scenario=scenario)


SIGNALS = (
    "SIGTERM, SIGINT and SIGUSR1 at ten moments each: 143 or 130, one line, whose words then end as if undisturbed:"
)
FIGURES = (
    _tests("R1 readers", "corpus of volumes: broken ones refused by name, odd ones read right", "tests/io/test_corpus.py"),
    _tests(
        "R1 commands",
        "predict, plan, evaluate: exit code, one line with file and cause, 2 s, 200 MB, nothing left; odd inputs succeed",
        "tests/reliability/test_corpus_commands.py",
        "tests/reliability/test_corpus_bundles.py",
    ),
    _plays("R1 and R8 fit", "25 broken datasets, bundles, lists, checkpoints refused; 20 damaged stores rebuilt", "fit_inputs=25"),
    _tests(
        "R2",
        "no silently wrong voxels: truncations, flipped bytes, checksums",
        "tests/io/test_nifti.py",
        "tests/io/test_other_formats.py",
        "tests/io/test_dicom.py",
        "tests/io/test_dicom_mosaic.py",
        "tests/reliability/test_writing.py",
    ),
    Figure("R3", "mutated headers and streams of every reader, and the config grammar"),
    _plays("R4", "50 cases, 5 bad: 45 equal bit for bit to single runs, 5 named, exit code 3", "mixed=50"),
    _plays("R5", "medseg fit killed 20 times, 8 aimed into a checkpoint write; weights bitwise equal", "kill_fit=20"),
    _plays("R6 preprocessing", "store building and medseg plan killed 20 times each", "kill_prepare=20"),
    _plays("R6 choice", "medseg cv killed before every change of a file: wholly the old choice or the new one", "kill_choice=0"),
    _plays("R6 prediction", "medseg predict of a folder killed 20 times", "kill_predict=20"),
    _plays("Endings of fit", f"{SIGNALS} fit, with and without MLflow", "endings:fit+fit_mlflow=10"),
    _plays("Endings of cv", f"{SIGNALS} cv", "endings:cv=10"),
    _plays("Endings of predict", f"{SIGNALS} predict", "endings:predict=10"),
    _plays("Endings of pack and install", f"{SIGNALS} pack and install", "endings:pack+install=10"),
    _plays("Endings of plan and evaluate", f"{SIGNALS} plan and evaluate", "endings:plan+evaluate=10"),
    _plays(
        "Endings of the rest", f"{SIGNALS} export, verify, register, networks", "endings:export+verify+register+networks=10"
    ),
    _plays("Endings under SLURM", "early signals save and requeue a fit, whose second start goes on bit for bit", "endings_slurm=12"),
    _plays("R5 exact places", "fit killed at the first, a middle, a later and the last step, and between folds", "kill_steps=4"),
    _plays("Budget", "medseg fit --budget of 60, 75 and 90 s: the command takes within 10 % of it", "budget=3"),
    _plays(
        "Folds at once",
        "3 folds at once on a fresh bundle and a cold store: all end well; a second start of a living fold is refused",
        "surroundings:folds=10",
    ),
    _plays(
        "Tracking faults",
        "a tracking store that is locked, full, removed or not answering ends no training; what it did not take is sent later",
        "surroundings:tracking=1",
    ),
    _plays("R7", "full disk, read-only, vanished input, pipe, slow drive, two writers", "disk"),
    _tests("R8", "damaged or stale preprocessed cases are rebuilt", "tests/io/test_store.py"),
    _plays("R9", "memory runs out at a window: steps down and finishes, or says what is needed (CPU, simulated and real)", "memory"),
    _plays("R10", "loader processes and readers die: cause and case named within 10 s", "workers"),
    _tests("R11", "stored geometry bit for bit, 48 orientations x axial, oblique, sheared", "tests/io/test_nifti_write.py"),
    _plays("R12", "10 repeats identical; other threads and window batches differ at near-ties only (CPU)", "repeat=10"),
    _tests("R13", "hostile bundles are refused", "tests/bundle/test_hostile.py"),
    _tests("R14", "a canary name reaches no output, record, log or tracking store", "tests/bundle/test_phi.py"),
    _plays("R15", "1 000 cases through one predict: memory +5 % at most, no descriptor, no temporary file", "load=1000"),
    _tests(
        "Identity",
        "another image, detached voxels, weights, settings or labels: computed again or refused; names of people by contents",
        "tests/io/test_behind.py",
        "tests/cases/test_anonymous.py",
        "tests/commands/test_predict_again.py",
        "tests/training/test_data_record.py",
        "tests/selection/test_cross_validation.py",
    ),
    _tests(
        "Naming",
        "files, labels, metrics and channels: never one name for two things; nothing left out without a word",
        "tests/io/test_file_names.py",
        "tests/io/test_channels.py",
        "tests/io/test_listed.py",
        "tests/io/test_inputs.py",
        "tests/cases/test_outputs.py",
        "tests/datasets/test_layouts.py",
        "tests/planning/test_sides.py",
    ),
    _plays("Scope", "cases outside of the training data are warned of by name, on the screen and in the record", "scope"),
)  # fmt: skip


@dataclass
class Row:
    """What one figure gave: `ok`, the counts in words, and what it was measured with."""

    name: str
    ok: bool
    words: str
    faults: list[str]
    seconds: float
    command: str
    commit: str
    date: str
    machine: str


def code_commit() -> str:
    """The last commit that changed the measured code, with -dirty where it is changed now."""
    git = ["git", "-C", str(ROOT)]
    last = subprocess.run(
        [*git, "log", "-1", "--format=%h", "--", *MEASURED], capture_output=True, text=True, check=False
    )
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--", *MEASURED], capture_output=True, text=True, check=False
    )
    return (last.stdout.strip() or "unknown") + ("-dirty" if changed.stdout.strip() else "")


def machine() -> str:
    """The device in words; the figures are the CPU's."""
    name = next(
        (line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine()
    )
    return f"{name}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def run_tests(tests: tuple[str, ...]) -> tuple[bool, str, list[str]]:
    """Whether all passed, pytest's summary in words ("167 passed"), and the names of those that failed."""
    present = [test for test in tests if (ROOT / test.partition("::")[0]).exists()]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", *present],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    counts = re.findall(r"(\d+) (passed|failed|errors?|skipped)", result.stdout.strip().rpartition("\n")[2])
    words = ", ".join(f"{number} {word}" for number, word in counts) or f"did not run (exit code {result.returncode})"
    failed = re.findall(r"^(?:FAILED|ERROR) (.*)", result.stdout, re.MULTILINE)
    return result.returncode == 0 and "passed" in words, words, failed


def run_scenario(word: str) -> tuple[bool, str, list[str]]:
    """Whether nothing was at fault, the counts in words, and the faults."""
    command = [sys.executable, "-m", "tests.reliability.scenario", word]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if not result.stdout.strip():
        return False, "did not run", [result.stderr[-500:]]
    (entry,) = json.loads(result.stdout).values()
    words = ", ".join(f"{what}: {number:g}" for what, number in entry["counts"].items())
    return not entry["faults"], words, entry["faults"]


def run_fuzzer(mutations: int, seed: int) -> tuple[bool, str, list[str]]:
    """The same for the fuzzer."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "fuzz.json"
        command = [sys.executable, "-m", "tests.reliability.fuzz", "--mutations", str(mutations), "--seed", str(seed)]
        subprocess.run([*command, "--output", str(output)], cwd=ROOT, capture_output=True, check=False)
        if not output.exists():
            return False, "did not run", []
        report = json.loads(output.read_text(encoding="utf-8"))
    words = (
        f"{report['mutations']} mutations, {len(report['findings'])} findings, slowest {report['slowest_s']:.2f} s, memory growth "
        f"{report['growth_mb']:.0f} MB, {report['lines']} lines reached, {report['kept_inputs']} inputs kept by coverage"
    )
    return not report["findings"], words, [finding["what"] for finding in report["findings"]]


def measure(figure: Figure, mutations: int, seed: int) -> Row:
    """Run one figure."""
    begin, commit = time.monotonic(), code_commit()
    if figure.scenario:
        command = f"python -m tests.reliability.scenario {figure.scenario}"
        ok, words, faults = run_scenario(figure.scenario)
    elif figure.tests:
        command = f"pytest {' '.join(figure.tests)}"
        ok, words, faults = run_tests(figure.tests)
    else:
        command = f"python -m tests.reliability.fuzz --mutations {mutations} --seed {seed}"
        ok, words, faults = run_fuzzer(mutations, seed)
    seconds = round(time.monotonic() - begin, 1)
    return Row(figure.name, ok, words, faults[:5], seconds, command, commit, str(datetime.date.today()), machine())


def read_rows(path: Path) -> dict[str, Row]:
    """Rows of an earlier run by name; none when there is no such file."""
    if not path.is_file():
        return {}
    return {entry["name"]: Row(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))}


def report(rows: dict[str, Row]) -> str:
    """The page, as Markdown."""
    lines = [
        "# Reliability figures",
        "",
        "Made by `make reliability`, which measures again what the code has changed since. Each row names its command, the commit",
        "of the measured code, the seconds it took (on a machine that did other work as well) and the date. No row used a GPU.",
        "Requirements and their tests stand in [requirements.md](requirements.md).",
        "",
        "| figure | claim | held | counts | command | commit | s | date |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for figure in FIGURES:
        row = rows.get(figure.name)
        if row is None:
            lines.append(f"| {figure.name} | {figure.claim} | not measured | | | | | |")
            continue
        held = "yes" if row.ok else "**no**"
        lines.append(
            f"| {row.name} | {figure.claim} | {held} | {_cell(row.words)} | `{row.command}` | {row.commit} | {row.seconds:.0f} "
            f"| {row.date} |"
        )
    faults = [(row.name, fault) for row in rows.values() if not row.ok for fault in row.faults]
    if faults:
        lines += ["", "## What did not hold", "", *(f"* {name}: {_cell(fault)[:300]}" for name, fault in faults)]
    machines = sorted({row.machine for row in rows.values()})
    lines += [
        "",
        f"Machine: {'; '.join(machines) or 'none'}.",
        "",
        "## Limits",
        "",
        "* A flipped bit in the voxels of an uncompressed file carries no checksum and cannot be noticed.",
        "* Slices missing at either end of a DICOM series cannot be told from a shorter scan.",
        "* A file that cannot be read is named when its turn comes: in a folder, after the case before it.",
        "* Kills use SIGKILL on forks of one process; the loss of power and network drives were not tested.",
        "* The scenarios use a network of a few thousand weights and volumes of 8 to 176 voxels a side.",
        "",
    ]
    return "\n".join(lines)


def listing(rows: Mapping[str, Row], commit: str) -> str:
    """Each row: whether it is there for this code, and the seconds that it took when it was measured last; the sums below."""
    lines, left, total = [], 0.0, 0.0
    for figure in FIGURES:
        row = rows.get(figure.name)
        there = row is not None and row.ok and row.commit == commit
        seconds = row.seconds if row is not None else None
        total += seconds or 0.0
        left += 0.0 if there else seconds or 0.0
        known = "not known" if seconds is None else f"{seconds:.0f} s"
        lines.append(f"{'there' if there else 'to measure':10}  {known:>9}  {figure.name}")
    return "\n".join([*lines, f"{total:.0f} s in all, {left:.0f} s of them to measure, rows of unknown time left out"])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="ROW", help="rows whose name begins so, measured again"
    )
    parser.add_argument("--page", action="store_true", help="measure nothing")
    parser.add_argument("--list", action="store_true", help="measure and write nothing")
    parser.add_argument("--mutations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "reliability.md")
    arguments = parser.parse_args()
    kept = arguments.output.with_suffix(".json")
    rows, commit = read_rows(kept), code_commit()
    if arguments.list:
        print(listing(rows, commit))
        return 0
    for figure in () if arguments.page else FIGURES:
        asked = any(figure.name.startswith(word) for word in arguments.only)
        known = figure.name in rows and rows[figure.name].ok and rows[figure.name].commit == commit
        if (arguments.only and not asked) or (known and not asked):
            continue
        print(f"{figure.name}: {figure.claim}", file=sys.stderr, flush=True)
        row = rows[figure.name] = measure(figure, arguments.mutations, arguments.seed)
        print(
            f"    {'held' if row.ok else 'NOT HELD'}: {row.words} in {row.seconds:.0f} s", file=sys.stderr, flush=True
        )
        names = {one.name for one in FIGURES}
        write_json(kept, [asdict(one) for one in rows.values() if one.name in names])
    write_text(arguments.output, report(rows))
    print(f"written to {arguments.output}")
    return int(any(figure.name not in rows or not rows[figure.name].ok for figure in FIGURES))


if __name__ == "__main__":
    sys.exit(main())
