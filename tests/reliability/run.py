"""`make reliability`: run the full figures and write docs/reliability.md with counts, the command and the machine.

    python -m tests.reliability.run [--mutations 100000] [--output docs/reliability.md]

A figure is a set of tests, short and slow together, or the fuzzer. What failed is written down as failed.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from medseg.io.atomic import write_text

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Figure:
    """One row of the table: what is claimed, and the tests that show it (paths, or paths with `::`)."""

    ids: str
    claim: str
    tests: tuple[str, ...]


FIGURES = (
    Figure(
        "R1",
        "broken volumes, lists, datasets and bundles: exit code not 0, one line with file and cause, 2 s, 200 MB, nothing left; "
        "legitimate oddities succeed",
        ("tests/io/test_corpus.py", "tests/reliability/test_corpus_commands.py", "tests/reliability/test_corpus_bundles.py"),
    ),
    Figure("R2", "no silently wrong voxels: truncations, flipped bytes, checksums", (
        "tests/io/test_nifti.py", "tests/io/test_other_formats.py", "tests/io/test_dicom.py", "tests/reliability/test_writing.py",
    )),
    Figure("R6, R7, R14, R15", "files whole or absent under kill, full disk and two writers; no names leak; no growth", (
        "tests/io/test_atomic.py", "tests/reliability/test_writing.py",
    )),
    Figure("R4, R10, R12", "failed cases stay alone; equal labels and records on repeats", ("tests/inference/test_batch.py",)),
    Figure("R8", "damaged or stale preprocessed cases are rebuilt", ("tests/io/test_store.py",)),
    Figure("R11", "stored geometry bit for bit over 48 orientations, axial, oblique and sheared", ("tests/io/test_nifti_write.py",)),
    Figure("R13", "hostile bundles are refused", ("tests/bundle/test_hostile.py",)),
)  # fmt: skip


def run_tests(figure: Figure) -> tuple[str, float]:
    """pytest's summary in words ("167 passed"), and the seconds it took."""
    begin = time.monotonic()
    present = [test for test in figure.tests if (ROOT / test.partition("::")[0]).exists()]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", *present],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    counts = re.findall(r"(\d+) (passed|failed|errors?|skipped)", result.stdout.strip().rpartition("\n")[2])
    words = ", ".join(f"{number} {word}" for number, word in counts) or f"did not run (exit code {result.returncode})"
    return words, time.monotonic() - begin


def run_fuzzer(mutations: int, seed: int) -> tuple[str, float]:
    """The fuzzer's counts in words, and the seconds it took."""
    import json

    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "fuzz.json"
        command = [sys.executable, "-m", "tests.reliability.fuzz", "--mutations", str(mutations), "--seed", str(seed)]
        subprocess.run([*command, "--output", str(output)], cwd=ROOT, capture_output=True, check=False)
        if not output.exists():
            return "did not run", 0.0
        report = json.loads(output.read_text(encoding="utf-8"))
    words = (
        f"{report['mutations']} mutations, {len(report['findings'])} findings, slowest {report['slowest_s']:.2f} s, memory growth "
        f"{report['growth_mb']:.0f} MB, {report['lines']} lines reached, {report['kept_inputs']} inputs kept by coverage"
    )
    return words, report["seconds"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "reliability.md")
    arguments = parser.parse_args()
    rows, failed = [], False
    for figure in FIGURES:
        print(f"{figure.ids}: {figure.claim}", file=sys.stderr, flush=True)
        words, seconds = run_tests(figure)
        failed |= "passed" not in words or "failed" in words or "error" in words
        rows.append((figure.ids, figure.claim, words, seconds, ", ".join(f"`{test}`" for test in figure.tests)))
        print(f"    {words} in {seconds:.0f} s", file=sys.stderr, flush=True)
    words, seconds = run_fuzzer(arguments.mutations, arguments.seed)
    failed |= " 0 findings" not in words
    rows.insert(
        2,
        (
            "R3",
            "mutated headers and streams of every reader, and the config grammar",
            words,
            seconds,
            "`tests/reliability/fuzz.py`",
        ),
    )
    print(f"R3: {words}", file=sys.stderr)
    write_text(arguments.output, report(rows, arguments.mutations, arguments.seed))
    print(f"written to {arguments.output}")
    return int(failed)


def report(rows: list[tuple[str, str, str, float, str]], mutations: int, seed: int) -> str:
    """The page, as Markdown."""
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    lines = [
        "# Reliability figures",
        "",
        f"Made by `make reliability` (fuzzer: {mutations} mutations, seed {seed}) on {datetime.date.today()}, {machine}.",
        "R numbers group claims; a row counts tests, each of which asserts the claim for its inputs.",
        "",
        "| id | claim | result | seconds | shown by |",
        "| --- | --- | --- | --- | --- |",
        *(f"| {ids} | {claim} | {words} | {seconds:.0f} | {tests} |" for ids, claim, words, seconds, tests in rows),
        "",
        "Limits: a flipped bit in the voxels of an uncompressed file carries no checksum and cannot be noticed; slices missing at",
        "either end of a DICOM series cannot be told from a shorter scan.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
