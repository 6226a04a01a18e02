"""Every preset as .pt2, ONNX and OpenVINO: seconds beside our operators, and whether the labels stay; makes docs/exports.md.

Nano size, a patch of 32 voxels per axis, random weights, float32, one core. A preset is recorded once by torch.export in a
process of its own; the .pt2 is that program, ONNX is written from it, OpenVINO from the ONNX. Logits and labels are compared on two
volumes of noise that the exporter has not seen. Continues where it ended: what results/exports-cpu.json holds is not run again.

    python benchmarks/exports.py [PRESET ...]        python benchmarks/exports.py page
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "exports-cpu.json"
PAGE = ROOT / "docs" / "exports.md"
SIDE, CLASSES, FORMATS = 32, 3, ("pt2", "onnx", "openvino")
SHARE, FACTOR, LIMIT_S = 0.9999, 2.0, 3600
ROUNDS = 5
NAMES = {"pt2": "`.pt2`", "onnx": "ONNX", "openvino": "OpenVINO"}


def seconds(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Medians of a few rounds in which all run in turn, after one that does not count: a disturbance hits all of them."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(1 + ROUNDS):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if number:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(seen) for name, seen in times.items()}


def runners(network: torch.nn.Module, example: torch.Tensor, folder: Path, row: dict[str, Any]) -> dict[str, Any]:
    """What each format computes, or in the row why it cannot be had."""
    from medseg.commands.export import openvino_of, run_onnx, write_onnx

    found: dict[str, Any] = {}
    start = time.perf_counter()
    program = torch.export.export(network, (example,))
    torch.export.save(program, folder / "model.pt2")
    found["pt2"] = torch.export.load(folder / "model.pt2").module()
    row["seconds_to_record"] = time.perf_counter() - start

    def onnx() -> Any:
        write_onnx(program, example, folder / "model.onnx")
        return run_onnx(folder / "model.onnx")

    for name, make in (("onnx", onnx), ("openvino", lambda: openvino_of(folder / "model.onnx", folder / "model.xml"))):
        try:
            found[name] = make()
        except Exception as error:
            row["formats"][name] = {"refused": f"{type(error).__name__}: {reason_of(error)}"}
    return found


def reason_of(error: BaseException) -> str:
    """The first line of what stands at the end of a chain of errors, without a terminal's colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    return re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()[0][:200]


def one(preset: str) -> dict[str, Any]:
    """All formats of one preset, in this process, on one core."""
    from medseg.networks import build_network

    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = build_network(preset, spatial_dims=3, in_channels=1, out_channels=CLASSES, roi_size=[SIDE] * 3).eval()
    images = [torch.randn(1, 1, SIDE, SIDE, SIDE) for _ in range(3)]
    row: dict[str, Any] = {"preset": preset, "formats": {}}
    with warnings.catch_warnings(), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        expected = [network(image) for image in images[1:]]
        calls = {"eager": network, **runners(network, images[0], Path(folder), row)}
        times = seconds({name: partial(run, images[1]) for name, run in calls.items()})
        row["eager_s"] = times.pop("eager")
        for name, taken in times.items():
            pairs = list(zip([calls[name](image) for image in images[1:]], expected, strict=True))
            row["formats"][name] = {
                "seconds": taken,
                "difference": max(float((a - b).abs().max() / b.abs().max().clamp(min=1)) for a, b in pairs),
                "equal_labels": min(float((a.argmax(1) == b.argmax(1)).float().mean()) for a, b in pairs),
            }
    row["recurrent"] = recurrent(network)
    row["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return row


def recurrent(network: torch.nn.Module) -> bool:
    """Whether a scan or recurrence runs in it, whose exported form is chunked torch."""
    from medseg.networks.mixers import MIXERS

    names = ("gated_delta", "gla", "mambavision", "mlstm", "multi_head_scan", "retention", "selective_scan", "ssd")
    return any(isinstance(module, tuple(MIXERS[name] for name in names)) for module in network.modules())


def load() -> dict[str, Any]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": {}}


def complete(row: dict[str, Any]) -> bool:
    """Whether every format was measured."""
    return all("seconds" in row.get("formats", {}).get(name, {}) for name in FORMATS)


def run_missing(presets: list[str]) -> None:
    """One process per preset that has no row; a row after each."""
    from medseg.networks import PRESETS

    for preset in presets or list(PRESETS):
        if complete(load()["rows"].get(preset, {})):
            continue
        words = [sys.executable, __file__, "one", preset]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S, check=False)
            last = done.stdout.strip().splitlines()[-1:] or [""]
            row = (
                json.loads(last[0])
                if done.returncode == 0
                else {"failed": (done.stderr.strip() or "?").splitlines()[-1][:300]}
            )
        except subprocess.TimeoutExpired:
            row = {"failed": f"not done after {LIMIT_S} s"}
        content = load()
        content |= {"date": time.strftime("%Y-%m-%d"), "torch": torch.__version__, "side": SIDE, "cores": 1}
        content["rows"][preset] = row
        RESULTS.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
        print(preset, json.dumps(row)[:300], flush=True)
        write_page()


def cell(row: dict[str, Any], name: str) -> str:
    found = row["formats"].get(name, {"refused": "not run"})
    if "refused" in found:
        return f"no: {found['refused']}"
    times = found["seconds"] / row["eager_s"]
    return f"{found['seconds']:.2f} s ({times:.1f}x), {100 * found['equal_labels']:.3f} %"


def page(content: dict[str, Any]) -> str:
    """docs/exports.md from what was measured."""
    rows = content["rows"]
    good = {name: row for name, row in rows.items() if "failed" not in row}
    shares = [
        found["equal_labels"] for row in good.values() for found in row["formats"].values() if "equal_labels" in found
    ]
    head = [
        "# Exports of every preset", "",
        "`medseg bundle export NAME --to pt2|onnx|openvino` writes the network for other software; nothing of medseg is needed to",
        "run it. Scans, recurrences and window attention become plain torch operations there, a long convolution its direct form.",
        "",
        f"Nano size, a patch of {content.get('side', SIDE)} voxels per axis, float32, one CPU core, torch "
        f"{content.get('torch', '?')}, {content.get('date', '?')}. In",
        "brackets: times our own operators on the same core. In percent: equal labels on noise that the exporter has not seen",
        f"(wanted: at least 99.99 %).{content.get('note', '')}",
        "Command: `python benchmarks/exports.py`; it continues where it ended.", "",
        f"{len(good)} presets, {len(shares)} files; the smallest share of equal labels is {100 * min(shares, default=0):.3f} %.", "",
        "| preset | scan or recurrence | our operators | " + " | ".join(NAMES[name] for name in FORMATS) + " | recorded in |",
        "|---" * (4 + len(FORMATS)) + "|",
    ]  # fmt: skip
    lines = [
        f"| `{name}` | {'yes' if row['recurrent'] else 'no'} | {row['eager_s']:.2f} s | "
        + " | ".join(cell(row, one) for one in FORMATS) + f" | {row['seconds_to_record']:.0f} s |"
        for name, row in sorted(good.items())
    ]  # fmt: skip
    lines += [f"| `{name}` | failed: {row['failed']} |" for name, row in sorted(rows.items()) if "failed" in row]
    from medseg.networks import PRESETS

    missing = ", ".join(f"`{name}`" for name in PRESETS if name not in rows)
    return "\n".join([*head, *lines, *remarks(good), f"Not measured yet: {missing or 'none'}."]) + "\n"


def write_page() -> None:
    """Make the page anew."""
    PAGE.write_text(page(load()))


def remarks(good: dict[str, Any]) -> list[str]:
    """What was asked for and is not so."""
    slow, other = [], []
    for name, row in sorted(good.items()):
        for form, found in row["formats"].items():
            if "refused" in found:
                continue
            times = found["seconds"] / row["eager_s"]
            if not row["recurrent"] and times > FACTOR:
                slow.append(f"`{name}` {NAMES[form]} {times:.1f}x")
            if found["equal_labels"] < SHARE:
                other.append(f"`{name}` {NAMES[form]} {100 * found['equal_labels']:.3f} %")
    said = [
        "",
        f"Without a scan or recurrence, slower than {FACTOR:.0f} times our operators: {', '.join(slow) or 'none'}.",
    ]
    return [*said, f"Below {100 * SHARE:.2f} % equal labels: {', '.join(other) or 'none'}."]


def main() -> None:
    from medseg.networks import PRESETS

    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("presets", nargs="*", metavar="PRESET", help="those that have no row yet, where none is named")
    asked = words.parse_args().presets
    if asked == ["page"]:
        write_page()
        return
    alone, presets = asked[:1] == ["one"], asked[1:] if asked[:1] == ["one"] else asked
    if unknown := sorted(set(presets) - set(PRESETS)):
        words.error(f"no such preset: {', '.join(unknown)}; known: {', '.join(PRESETS)}")
    if not alone:
        run_missing(presets)
    elif len(presets) == 1:
        print(json.dumps(one(presets[0])))
    else:
        words.error(f"`one` takes one preset, found {len(presets)}")


if __name__ == "__main__":
    main()
