"""docs/requirements.md: which test shows which requirement, read from the markers in the tests without running them.

python -m tests.reliability.requirements          writes the page
python -m tests.reliability.requirements --check  says whether the committed page is up to date
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import defaultdict
from pathlib import Path

from medseg.io.atomic import write_text

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "requirements.md"
REQUIREMENTS = {
    "R1": "A broken input is refused: exit code not 0, one line with file and cause, 2 s, 200 MB, nothing left; legitimate "
    "oddities are read.",
    "R2": "No silently wrong voxels.",
    "R3": "Mutated headers, streams and expressions: no crash, hang, foreign exception or allocation beyond the limit.",
    "R4": "Bad cases in a folder are named; the good ones are segmented bit for bit as alone.",
    "R5": "A killed training resumes to bitwise equal weights.",
    "R6": "A killed preprocessing or prediction leaves whole files only; the next run goes on.",
    "R7": "Full disk, read-only output, vanished input, two writers: one line, nothing partial.",
    "R8": "Damaged or stale preprocessed cases are rebuilt with one warning.",
    "R9": "A shortage of memory steps down and finishes, or says the number that is needed.",
    "R10": "The death of a worker is named with its cause and the case within 10 s.",
    "R11": "The stored geometry comes back bit for bit in every orientation.",
    "R12": "Repeats are identical in labels and records; other threads and batches differ at near-ties only.",
    "R13": "Hostile bundles are refused.",
    "R14": "Names of people do not reach outputs, records, logs or tracking.",
    "R15": "Many cases: no growth of memory, of descriptors, of temporary files.",
    "Scope": "Cases outside of what a model was made for are warned of by name.",
}


def marked(path: Path) -> list[tuple[str, str]]:
    """(requirement, file) where a whole file carries the marker, (requirement, file::test) where a test does."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    whole: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "pytestmark" for t in node.targets):
            marks = node.value.elts if isinstance(node.value, ast.List | ast.Tuple) else [node.value]
            whole = [name for mark in marks for name in _names(mark)]
    place = path.relative_to(ROOT).as_posix()
    found = [(name, place) for name in whole]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            found += [(name, f"{place}::{node.name}") for mark in node.decorator_list for name in _names(mark)]
    return found


def _names(mark: ast.expr) -> list[str]:
    if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Attribute) and mark.func.attr == "requirement":
        return [str(value.value) for value in mark.args if isinstance(value, ast.Constant)]
    return []


def collect() -> dict[str, list[str]]:
    """Requirement -> tests, in order of the files.

    Raises:
        ValueError: a marker names no known requirement.
    """
    tests: dict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for name, test in marked(path):
            if name not in REQUIREMENTS:
                raise ValueError(f"{test}: marks {name!r}; known are {', '.join(REQUIREMENTS)}")
            tests[name].append(test)
    return tests


def page() -> str:
    """The whole page as Markdown."""
    tests = collect()
    lines = [
        "# Requirements and the tests that show them",
        "",
        "Made by `python -m tests.reliability.requirements` from the marker `requirement` in the tests; a test fails when it is",
        "out of date. The full figures with counts stand in [reliability.md](reliability.md) after `make reliability`.",
        "",
    ]
    for name, text in REQUIREMENTS.items():
        lines += [f"## {name}", "", text, ""]
        lines += [f"* `{test}`" for test in tests[name]] or ["* no test"]
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    if arguments.check:
        return int(not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page())
    write_text(PAGE, page())
    print(f"{sum(map(len, collect().values()))} marks in {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
