"""docs/hippocampus.md from results/hippocampus_presets.json: each hybrid beside its identity ablation.

python benchmarks/hippocampus_table.py     write the page again (hippocampus_presets.py does it after each row)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from contest import RESULTS

from medseg.evaluation.statistics import paired_difference

RESULT = RESULTS / "hippocampus_presets.json"
PAGE = Path(__file__).resolve().parents[1] / "docs/hippocampus.md"
HEAD = """# The nano networks on hippocampus, fold 0

Trained and scored by `python benchmarks/hippocampus_presets.py`: plan, fit for a number of samples or a time, predict the
42 validation cases, evaluate on the scans' own grids; last weights, no mirroring, no ensemble. All rows share the patch of
{patch} voxels, the
batch, optimiser, augmentation, seed and budget ({budget} on {threads} CPU core(s) without a GPU); what differs is the network,
and so how many samples it saw.
`identity` is the same network with every token mixer replaced by the identity (`network_def::mixer=identity`).
Rows whose budget is a number of samples saw exactly these; where it is a time, six steps timed at the start, on a machine that
other work shared, decided how many fit, so that samples differ between trainings of one network too: `resenc_unet` again at
0d5bf41 gave 0.883 with 2400 samples and 0.871 with 1400. Seconds of the rows counted in samples are of a busy machine and compare
with nothing. Rows of commits from 8784afe on keep freed memory with the process, which makes steps 5 to 15 % quicker.
Ten minutes of `pctnet` were 88 steps, on a processor with AVX2 only and under a load of 17: its Dice is that of a training that
has hardly begun, and compares with nothing.

| {columns} |
|---|---|---|---|---|---|---|---|---|---|
"""
COLUMNS = (
    *("network", "mean Dice", "anterior (95 %)", "posterior (95 %)", "parameters", "samples seen"),
    *("all four commands (s)", "training (s)", "peak memory (MB)", "commit"),
)


def render(table: Mapping[str, Any]) -> str:
    """The page as Markdown; rows in the order of their Dice, each followed by its ablation."""
    rows = {row["row"]: row for row in table["rows"]}
    text = HEAD.format(
        columns=" | ".join(COLUMNS),
        patch="x".join(map(str, table.get("patch", (40, 56, 40)))),
        budget=" or ".join(sorted({row["budget"] for row in rows.values()})),
        threads=" or ".join(sorted({str(row["threads"]) for row in rows.values()})),
    )
    text += "".join(_line(row) + "\n" for row in _ordered(rows))
    about = table["machine"]
    text += f"\nMachine: {about['cpu']}, {about['cores']} cores, torch {about['torch']}, no GPU; {dates(rows)}.\n"
    return text + "\n## Beside their ablations\n\n" + _findings(rows)


def dates(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Day or days of the measurements."""
    return " and ".join(sorted({row["date"][:10] for row in rows.values()}))


def _ordered(rows: Mapping[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    presets = [row for name, row in rows.items() if ":" not in name]
    for row in sorted(presets, key=lambda row: -float(row["mean_dice"])):
        yield row
        if f"{row['row']}:identity" in rows:
            yield rows[f"{row['row']}:identity"]


def _line(row: Mapping[str, Any]) -> str:
    preset, _, mixer = row["row"].partition(":")
    parts = [f"{part['mean']:.3f} ({part['low']:.3f} to {part['high']:.3f})" for part in row["dice"].values()]
    wall = f"{row['wall_seconds']:.0f}" if row["wall_seconds"] else "not measured alone"
    cells = [
        f"&nbsp;&nbsp;{mixer}" if mixer else f"`{preset}`", f"{row['mean_dice']:.4f}", *parts,
        f"{row['parameters'] / 1e6:.2f} M", row["samples"], wall, f"{row['fit_seconds']:.0f}",
        row["fit_peak_mb"], row["commit"],
    ]  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def _findings(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """What the mixers added, network by network: paired over the cases."""
    text = (
        "Difference of mean Dice, network minus its ablation, paired over the 42 cases, with 95 % bootstrap interval and signed-rank "
        "test.\nThe interval is over cases; another seed would move each training too, and was not tried.\n\n"
    )
    for row in sorted((row for name, row in rows.items() if ":" not in name), key=lambda row: row["row"]):
        ablation = rows.get(f"{row['row']}:identity")
        if ablation is None:
            continue
        gain = paired_difference(row["case_dice"], ablation["case_dice"])
        winner = "the mixers help" if gain.mean > 0 else "the ablation is better"
        verdict = winner if gain.p_value < 0.05 and gain.low * gain.high > 0 else "no difference shown"
        seen = ablation["samples"] / row["samples"]
        text += (
            f"* `{row['row']}`: {gain.mean:+.4f} ({gain.low:+.4f} to {gain.high:+.4f}, p = {gain.p_value:.2g}): {verdict}; "
            f"without its mixers it saw {seen:.2f} times the samples.\n"
        )
    return text


def case_dice(evaluation: Path) -> list[float]:
    """Mean Dice over the labels of each case of an evaluation.json, in the order of the cases' names."""
    cases = json.loads(evaluation.read_text(encoding="utf-8"))["cases"]
    found = {case["case"]: [figures["dice"] for figures in case["labels"].values()] for case in cases}
    return [round(sum(found[name]) / len(found[name]), 5) for name in sorted(found)]


def main() -> None:
    """Write the page."""
    PAGE.write_text(render(json.loads(RESULT.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
