"""Run tutorials and write what they print: `python -m docs.site.tutorial [NAME ...] [--check]`.

A tutorial is docs/tutorials/NAME.py in percent format: `# %% [markdown]` begins words, `# %%` code. Each runs in a process and a
folder of its own; NAME.md holds its words, its code and what that printed. A figure that ends a cell becomes a picture beside
the page. With --check nothing is written: the tutorial must run, and its page must hold its code.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

TUTORIALS = Path(__file__).resolve().parents[1] / "tutorials"


class Cell(NamedTuple):
    """Words or code."""

    words: bool
    text: str


def cells_of(source: str) -> list[Cell]:
    """The cells of a file in percent format; what stands before the first marker is none."""
    found: list[tuple[bool, list[str]]] = []
    for line in source.splitlines():
        if line.startswith("# %%"):
            found.append((line.strip().endswith("[markdown]"), []))
        elif found:
            found[-1][1].append(line)
    return [Cell(words, _plain(lines) if words else "\n".join(lines).strip("\n")) for words, lines in found]


def _plain(lines: list[str]) -> str:
    return "\n".join(line[2:] if line.startswith("# ") else line.removeprefix("#") for line in lines).strip("\n")


def page_of(name: str, cells: list[Cell], outputs: list[str]) -> str:
    """The page: words, code, and below each cell what it printed."""
    parts = [f"<!-- made of {name}.py by python -m docs.site.tutorial {name}: change that file -->"]
    for cell, output in zip(cells, outputs, strict=True):
        parts.append(cell.text if cell.words else f"```python\n{cell.text}\n```")
        parts += [output] if output else []
    return "\n\n".join(parts) + "\n"


def code_of(page: str) -> list[str]:
    """The Python blocks of a page."""
    return [block.split("\n```", 1)[0].strip("\n") for block in page.split("```python\n")[1:]]


def run(name: str, pictures: Path) -> str:
    """Run a tutorial in this process and the current folder; returns its page, pictures go into a folder."""
    cells = cells_of((TUTORIALS / f"{name}.py").read_text(encoding="utf-8"))
    space: dict[str, Any] = {"__name__": "__main__"}
    outputs, figures = [], 0
    for cell in cells:
        if cell.words:
            outputs.append("")
            continue
        printed, value = _run_cell(cell.text, space)
        shown = f"```text\n{printed.rstrip()}\n```" if printed.strip() else ""
        if hasattr(value, "savefig"):
            figures += 1
            value.savefig(pictures / f"{name}_{figures}.png", dpi=70)
            shown = "\n\n".join(part for part in (shown, f"![figure {figures}]({name}_{figures}.png)") if part)
        outputs.append(shown)
    return page_of(name, cells, outputs)


def _run_cell(code: str, space: dict[str, Any]) -> tuple[str, Any]:
    """What a cell printed, and the value of its last line when that is an expression."""
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<tutorial>", "exec"), space)
        value = eval(compile(ast.Expression(last.value), "<tutorial>", "eval"), space) if last else None
        if value is not None and not hasattr(value, "savefig"):
            print(value)
    return printed.getvalue(), value


def names() -> Iterator[str]:
    """All tutorials."""
    return (path.stem for path in sorted(TUTORIALS.glob("*.py")))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m docs.site.tutorial", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--check", action="store_true", help="run, and compare the code of the page; write nothing")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:  # the process of one tutorial
        target = Path(tempfile.mkdtemp()) if arguments.check else TUTORIALS
        page = run(arguments.names[0], target)
        path = TUTORIALS / f"{arguments.names[0]}.md"
        if arguments.check:
            return 0 if code_of(path.read_text(encoding="utf-8")) == code_of(page) else 3
        path.write_text(page, encoding="utf-8")
        return 0
    failed = 0
    for name in arguments.names or names():
        with tempfile.TemporaryDirectory() as folder:
            root = str(TUTORIALS.parents[1])
            path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
            words = [sys.executable, "-m", "docs.site.tutorial", name, "--here", *(["--check"] * arguments.check)]
            code = subprocess.run(words, cwd=folder, env={**os.environ, "PYTHONPATH": path}, check=False).returncode
        failed += code != 0
        print(f"{name}: {'ran' if code == 0 else 'its page holds other code' if code == 3 else 'failed'}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
