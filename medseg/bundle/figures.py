"""Keep the figures of the model card in step with the trainings."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from medseg.io.atomic import write_text

from .layout import Layout

SECTION = re.compile(r"(## Figures\n\n).*?(?=\n## |\Z)", flags=re.DOTALL)
NOTE = (
    "Mean Dice over the fold's validation cases on the network's grid, last weights. `medseg evaluate` gives the figures on the "
    "scans' own grids, with intervals."
)


def fold_results(folder: Path) -> dict[int, dict[str, Any]]:
    """fold -> what `runs/fold_N/result.json` holds, for the folds that are finished."""
    results = {}
    for path in sorted(Layout(folder).runs.glob("fold_*/result.json")):
        number = path.parent.name.removeprefix("fold_")
        if number.isdigit():
            results[int(number)] = json.loads(path.read_text(encoding="utf-8"))
    return results


def update_figures(folder: Path) -> None:
    """Write the validation figures of every finished fold into the section "Figures" of docs/README.md.

    The rest of the card, which people edit, stays as it is; a card without that section is left alone.
    """
    card = Layout(folder).readme
    results = fold_results(folder)
    if not card.is_file() or not results:
        return
    names = sorted({key for facts in results.values() for key in facts if key.startswith("val_dice/")})
    header = ["fold", *[name.removeprefix("val_dice/") for name in names], "mean", "steps", "seconds"]
    rows = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    for fold, facts in results.items():
        dice = [f"{facts[name]:.4f}" if name in facts else "" for name in [*names, "val_dice"]]
        rows.append(f"| {' | '.join([str(fold), *dice, str(facts.get('steps', '')), str(facts.get('seconds', ''))])} |")
    table = "\n".join(rows)
    text = card.read_text(encoding="utf-8")
    filled = SECTION.sub(lambda match: f"{match[1]}{table}\n\n{NOTE}\n", text)
    if filled != text:
        write_text(card, filled)
