"""docs/README.md and LICENSE of a bundle: what a reader must know before trusting its labels."""

from __future__ import annotations

import html
import math
import re
from pathlib import Path
from typing import Any

from medseg.config import read_json
from medseg.errors import printable
from medseg.evaluation.digits import two_digits
from medseg.io.atomic import write_text
from medseg.layout import Layout
from medseg.planning.plan import Plan

MARKS = re.compile(r"([\\`*\[\]|~$])")
NOT_TRAINED = "Not trained yet: `medseg fit` fills this table with the validation figures of each fold."


def plain(text: object) -> str:
    """A name or sentence of a dataset as one line of Markdown that shows it and does nothing else.

    Example:
        >>> plain("a|b <b>c</b>")
        'a\\\\|b &lt;b&gt;c&lt;/b&gt;'
    """
    return html.escape(MARKS.sub(r"\\\1", printable(str(text))), quote=False)


def _metrics_table(metrics: dict[str, Any] | None) -> str:
    """Rows of {label: {"mean": .., "low": .., "high": .., "cases": ..}}; a sentence when there are none."""
    if not metrics:
        return NOT_TRAINED
    rows = ["| label | Dice | 95 % interval | cases |", "| --- | --- | --- | --- |"]
    for label, figures in metrics.items():
        low, high = figures.get("low", math.nan), figures.get("high", math.nan)
        bounds = "not computed" if math.isnan(low) else f"{two_digits(low)} to {two_digits(high)}"
        rows.append(f"| {plain(label)} | {two_digits(figures['mean'])} | {bounds} | {figures.get('cases', '')} |")
    return "\n".join(rows)


def _facts(plan: Plan) -> str:
    labels = "\n".join(f"| {value} | {plain(name)} |" for value, name in sorted(plan.labels.items()))
    spacing = " x ".join(f"{extent:g}" for extent in plan.spacing)
    roi = " x ".join(str(extent) for extent in plan.roi_size)
    return (
        f"* Input: {len(plan.channels)} channel(s), {', '.join(map(plain, plan.channels.values()))}; resampled to {spacing} mm, "
        f"axes {plan.orientation}\n"
        f"* Network: {plan.network_name} ({plan.network.get('size', 'default size')}), window {roi} voxels\n"
        f"* Output: one label map on the grid of the input\n\n| value | label |\n| --- | --- |\n{labels}\n"
    )


def _sentence(text: str) -> str:
    return text.rstrip(". ") + "."


def model_card(
    plan: Plan, *, metrics: dict[str, Any] | None = None, trained: str = "", failures: str = "", note: str = ""
) -> str:
    """The model card as Markdown.

    Args:
        plan: the bundle's plan.
        metrics: per label the mean, interval and number of cases, on cases that the training did not see.
        trained: how it was trained (folds, steps, hardware, commit), one paragraph.
        failures: what it gets wrong, seen on real cases.
        note: on which cases, and how, the figures were found.
    """
    organs = ", ".join(plain(name) for value, name in sorted(plan.labels.items()) if value != 0)
    cases = sum(len(names) for names in (plan.splits[0] if plan.splits else {}).values())
    return f"""# {plan.name}

Labels {organs} in {"/".join(sorted({plain(name) for name in plan.channels.values()}))} volumes. A MONAI bundle made with medseg.

{_facts(plan)}
## Intended use

Research on volumes like those it was trained on. It is not a medical device.

## Not to be used for

Diagnosis, treatment planning or any decision about a patient; other modalities, body parts or populations than those of
the training data, unless it was evaluated on them first.

## Data

{cases} labelled cases. Source: {_sentence(plain(plan.reference or "not stated by the dataset"))}
Licence: {_sentence(plain(plan.licence or "not stated"))}

## Training

{trained or "See plan.json for every setting and the reason for it, configs/splits.json for the folds."}

## Figures

{_metrics_table(metrics)}{f"{chr(10) * 2}{note}" if note else ""}

## Known failures

{failures or "None recorded yet. Look at the worst cases of `medseg evaluate` before use, and write them here."}

## Use

    medseg predict {plan.name} --input scan.nii.gz --output labels/
    python -m monai.bundle run --config_file configs/inference.json --dataset_dir FOLDER --output_dir FOLDER

## Changes

See `changelog` in configs/metadata.json.
"""


def license_text(plan: Plan) -> str:
    """LICENSE of a planned bundle: what is known about the rights on configuration, weights and data."""
    weights = plan.licence or "not chosen yet; the owner of the training data must agree before they are given away"
    return (
        f"Bundle {plan.name}\n\n"
        "Configuration files: Apache License, Version 2.0, https://www.apache.org/licenses/LICENSE-2.0\n"
        f"Weights under models/: {printable(weights)}\n"
        f"Training data (not part of this bundle): {printable(plan.reference or 'source not stated')}; "
        f"licence: {printable(plan.licence or 'not stated')}\n"
    )


SECTION = re.compile(r"(## Figures\n\n).*?(?=\n## |\Z)", flags=re.DOTALL)


NOTE = (
    "Mean Dice over the fold's validation cases on the network's grid, last weights. `medseg evaluate` gives the figures on the "
    "scans' own grids, with intervals."
)


def fold_results(folder: Path) -> dict[int, dict[str, Any]]:
    """fold -> what `runs/fold_N/result.json` holds, for the folds that are finished."""
    return {fold: read_json(run.result) for fold, run in Layout(folder).finished_runs().items()}


def update_figures(folder: Path) -> None:
    """Write the validation figures of every finished fold into the section "Figures" of docs/README.md.

    The rest of the card, which people edit, stays as it is; a card without that section is left alone.
    """
    card = Layout(folder).readme
    results = fold_results(folder)
    if not card.is_file() or not results:
        return
    names = sorted({key for facts in results.values() for key in facts if key.startswith("val_dice/")})
    header = ["fold", *[plain(name.removeprefix("val_dice/")) for name in names], "mean", "steps", "seconds"]
    rows = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    for fold, facts in results.items():
        dice = [two_digits(facts[name]) if name in facts else "" for name in [*names, "val_dice"]]
        rows.append(f"| {' | '.join([str(fold), *dice, str(facts.get('steps', '')), str(facts.get('seconds', ''))])} |")
    text = card.read_text(encoding="utf-8")
    filled = _filled(text, "\n".join(rows), NOTE)
    if filled != text:
        write_text(card, filled)


def with_figures(card: str, metrics: dict[str, Any], note: str) -> str:
    """The text of docs/README.md with what cross-validation found in its section "Figures", in the place of the folds' table.

    Args:
        card: the text as it is; without that section it stays so.
        metrics: as in `model_card`.
        note: on which cases, and how, the figures were found.
    """
    return _filled(card, _metrics_table(metrics), note)


def _filled(card: str, table: str, note: str) -> str:
    return SECTION.sub(lambda match: f"{match[1]}{table}\n\n{note}\n", card)
