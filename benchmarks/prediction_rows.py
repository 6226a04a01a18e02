"""Rows of a results file that outlive an interrupted run: each is written as soon as it is measured, and kept while the
code that it measured is the same.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from contest import RESULTS, machine

ROOT = Path(__file__).resolve().parents[1]
# what the prediction benchmarks measure; a change in one of these makes the rows old
MEASURED = (
    "medseg/inference", "medseg/io", "medseg/transforms", "medseg/commands/predict.py", "medseg/networks/imported/nnunet.py",
    "kernels/medseg_kernels/stitch", "benchmarks/prediction",
)  # fmt: skip


def code_digest(parts: Sequence[str] = MEASURED) -> str:
    """A hash of the source that the rows depend on."""
    digest = hashlib.sha256()
    for part in parts:
        for path in sorted({*ROOT.glob(f"{part}*"), *ROOT.glob(f"{part}/**/*")}):
            if path.suffix in (".py", ".cpp") and path.is_file():
                digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


class Rows:
    """results/NAME-cpu-DATE.json, row by row.

    Args:
        name: of the benchmark.
        again: measure also what is there already.
        parts: source that the rows depend on.
    """

    def __init__(self, name: str, *, again: bool = False, parts: Sequence[str] = MEASURED) -> None:
        self.name, self.about, self.code = name, machine(), code_digest(parts)
        self.path = RESULTS / f"{name}-cpu-{self.about['date']}.json"
        self.again = again
        newest = sorted(RESULTS.glob(f"{name}-cpu-*.json"))
        kept = json.loads(newest[-1].read_text(encoding="utf-8")) if newest else {}
        self.rows: dict[str, dict[str, Any]] = dict(kept["rows"]) if isinstance(kept.get("rows"), dict) else {}

    def has(self, key: str) -> bool:
        """Whether a row of this very code is there and need not be measured."""
        there = self.rows.get(key, {}).get("code") == self.code and not self.again
        if there:
            print(f"{key}: kept from {self.rows[key]['date']} (--again measures it anew)")
        return there

    def put(self, key: str, facts: Mapping[str, Any]) -> None:
        """Add or replace a row and write the file."""
        about = {key: self.about[key] for key in ("date", "commit", "torch_threads", "load_average")}
        command = " ".join([f"python benchmarks/{Path(sys.argv[0]).name}", *_without_paths(sys.argv[1:])])
        self.rows[key] = {**facts, **about, "code": self.code, "command": command}
        content = {"benchmark": self.name, "machine": self.about, "rows": self.rows}
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        print(key, json.dumps(self.rows[key], indent=1))


def _without_paths(words: Sequence[str]) -> list[str]:
    """The command line for the record; a folder of this machine is nobody's business."""
    return ["ENV" if word.startswith("/") else word for word in words]
