"""docs/recipe.md from benchmarks/results/recipe_search.json: every row, and the differences that are shown or not.

python benchmarks/recipe_table.py
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from contest import RESULTS

from medseg.evaluation.statistics import paired_difference

RESULT = RESULTS / "recipe_search.json"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "recipe.md"
BEGIN, END = "<!-- rows -->\n", "<!-- end of rows -->\n"


def rows_text(rows: list[dict[str, Any]]) -> str:
    """The table, and a line per difference from the average that medseg keeps."""
    lines = [
        "| arm | fold | crops | core-minutes | weights | mean Dice | minus the moving average (95 %) | CPU seconds of 42 cases |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        kept = row["averages"]["ema"]["case_dice"]
        for name, found in row["averages"].items():
            shown = "" if name == "ema" else difference(found["case_dice"], kept)
            lines.append(
                f"| {row['arm']} | {row['fold']} | {row['samples']} | {row['core_minutes']} | {name} | "
                f"{statistics.fmean(found['case_dice']):.4f} | {shown} | {found['cpu_seconds']} |"
            )
    return "\n".join(lines) + "\n"


def difference(first: list[float], second: list[float]) -> str:
    """Mean and interval of a paired difference, and what it shows."""
    found = paired_difference(first, second)
    verdict = "better" if found.low > 0 else "worse" if found.high < 0 else "no difference shown"
    return f"{found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f}): {verdict}"


def write_page() -> None:
    """Exchange the rows of docs/recipe.md; the words around them stay."""
    rows = json.loads(RESULT.read_text(encoding="utf-8"))["rows"]
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{rows_text(rows)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    write_page()
