"""docs/prediction.md from the newest results of prediction.py and prediction_nnunet.py: what is held, and by how much.

python benchmarks/whole_volume_table.py
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from contest import RESULTS

PAGE = Path(__file__).resolve().parents[1] / "docs/prediction.md"
HEAD = """# Whole volumes: measured beside others

Each line was measured by the command in its last column, contenders in turns in one run; the command fails where their outputs
disagree. All on a CPU, not measured on a GPU; lines of one thread on one core of two, while the other trained networks or ran
tests. Raw figures are in [benchmarks/results](../benchmarks/results).

| what | asked | measured | held | threads | date, commit | command |
|---|---|---|---|---|---|---|
"""
Row = Mapping[str, Any]
Found = tuple[str, str, str, bool]  # what, asked, measured, held


def at_least(what: str, least: float, value: float, unit: str = "x") -> Found:
    """A figure that must not fall below a limit."""
    shown = f"{value:.2f}{unit}" if unit else f"{value:.5f}"  # a share of equal labels is not rounded up to all
    return what, f">= {least:g}{unit}", shown, value >= least


def at_most(what: str, most: float, value: float, unit: str = "", shown: str = "") -> Found:
    """A figure that must not exceed a limit."""
    return what, f"<= {most:g}{unit}", (shown or f"{value:.4f}{unit}"), value <= most


def file_to_file(row: Row) -> Iterator[Found]:
    """P1, P1b, P2, P4, P7."""
    them = row["contenders"]
    monai, eager = them["MONAI chain, eager fp32"], them["medseg, eager fp32"]
    best, brain = them["medseg, OpenVINO fp32"], them["medseg, OpenVINO bf16"]

    def faster(one: Row) -> float:
        return float(monai["seconds_median"] / one["seconds_median"])

    yield at_least("P1 file to file, best fp32 engine, against MONAI's bundle chain", 2, faster(best))
    yield at_least("P1b the same, torch eager on both sides", 1.2, faster(eager))
    yield at_least("P2 the same in bf16", 5, faster(brain))
    yield at_least("P2 labels equal to fp32", 0.995, brain["equal_to_eager_fp32"], "")
    yield at_most("P4 share outside the network, fp32", 0.10, best["outside_network"])
    yield at_most("P7 above the floor of the convolutions, fp32", 1.7, best["above_floor"], "x")
    yield at_most("P7 the same in bf16", 4.5, brain["above_floor"], "x")


def extra_memory(row: Row) -> Iterator[Found]:
    """P3."""
    for name, facts in row["contenders"].items():
        text = f"P3 extra memory of P1 against MONAI's, {name.removeprefix('medseg, ')}"
        if "OpenVINO fp32" in name:
            yield at_most(text, 0.334, facts["share_of_monai"])
        elif "medseg, eager" in name:  # mostly the network's own, which both sides hold alike
            yield text, "", f"{facts['share_of_monai']:.3g}", True


def source_grid(row: Row) -> Iterator[Found]:
    """P5."""
    for facts in row["contenders"]:
        least = {"nnU-Net default": 20, "interpolate all, argmax": 4}.get(facts["way"])
        if least is not None:
            text = f"P5 {facts['classes']} classes to the source grid, against {facts['way']}"
            yield at_least(text, least, facts["fused_is_faster"])


def many_classes(row: Row) -> Iterator[Found]:
    """P6: asked of the longest volume, where MONAI's share is its accumulators alone, since it does not fit into this machine."""
    ours = {name: facts for name, facts in row["contenders"].items() if not name.startswith("MONAI")}
    longest = max(int(name.rpartition("x")[2]) for name in ours)
    for name, facts in ours.items():
        text = f"P6 peak memory with {row['classes']} classes against MONAI's, {name.removeprefix('medseg, ')}"
        if name.endswith(f"x{longest}"):
            yield at_most(text, 0.334, facts["share_of_monai"])
        else:
            yield text, "", f"{facts['share_of_monai']:.3g}", True


def whole_body(row: Row) -> Iterator[Found]:
    """105 classes in 8 GB."""
    peak = row["peak_gib"] * 2**30 / 1e9
    text = f"{row['classes']} classes at {'x'.join(map(str, row['shape']))}, 16-bit slab: peak memory"
    yield at_most(text, 8, peak, " GB", f"{peak:.2f} GB")
    yield at_least("the same: labels equal to a 32-bit slab's", 0.999, row["equal_to_float32_on_a_crop"], "")


def writing(row: Row) -> Iterator[Found]:
    """P8."""
    for facts in row["contenders"]:
        least = {"nibabel": 3, "SimpleITK": 8}.get(facts["writer"])
        if least is not None:
            yield at_least(f"P8 writing a CT as .nii.gz, against {facts['writer']}", least, facts["medseg_is_faster"])


def start_up(row: Row) -> Iterator[Found]:
    """P13."""
    seconds = row["contenders"]["medseg --help"]["median_s"]
    yield at_most("P13 `medseg --help`", 0.5, seconds, " s")


def folder(row: Row) -> Iterator[Found]:
    """P14."""
    yield at_most(f"P14 memory after {row['cases']} cases / after 10", 1.05, row["growth"])


def against_nnunet(row: Row) -> Iterator[Found]:
    """nnUNetv2_predict as a whole command."""
    shape = "x".join(map(str, row["shape"]))
    yield at_least(f"`medseg predict` against `nnUNetv2_predict`, {shape}", 3, row["auto"]["faster"])
    yield at_least("the same: equal labels", 0.999, row["equal"], "")


READERS: dict[str, Callable[[Row], Iterator[Found]]] = {
    "P1": file_to_file, "P3": extra_memory, "P5": source_grid, "P6": many_classes, "105": whole_body, "P8": writing,
    "P13": start_up, "P14": folder,
}  # fmt: skip


def newest(name: str) -> dict[str, Row]:
    """Rows of the newest results file of a benchmark."""
    files = sorted(RESULTS.glob(f"{name}-cpu-*.json"))
    return dict(json.loads(files[-1].read_text(encoding="utf-8"))["rows"]) if files else {}


def lines() -> Iterator[str]:
    """Lines of the table, and of rows that were not measured."""
    rows, nnunet = newest("prediction"), newest("prediction_nnunet")
    for key, reader in READERS.items():
        if key not in rows:
            yield f"| {key} | | not measured | | | | `python benchmarks/prediction.py --only {key}` |"
            continue
        for found in reader(rows[key]):
            yield _line(found, rows[key])
    speeds = [row for key, row in nnunet.items() if key.startswith("whole command")]
    for row in speeds:
        for found in against_nnunet(row):
            yield _line(found, row)
    for key, row in nnunet.items():
        if key.startswith("equal: "):
            found = at_least(f"labels of an imported nnU-Net, {key.removeprefix('equal: ')}", 0.999, row["equal"], "")
            yield _line((found[0], found[1], f"{row['equal']:.6f}", found[3]), row)


def _line(found: Found, row: Row) -> str:
    what, asked, measured, held = found
    about = f"{row.get('torch_threads', '')} | {row['date']} {row.get('commit', '')} | `{row['command']}`"
    return f"| {what} | {asked} | {measured} | {('yes' if held else '**no**') if asked else ''} | {about} |"


def main() -> None:
    """Write the page."""
    PAGE.write_text(HEAD + "\n".join(lines()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
