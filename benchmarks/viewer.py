"""What a report and `medseg view` ask of a browser: bytes, seconds to the first picture and to the viewer, requests, memory.

    python benchmarks/viewer.py --output benchmarks/results/viewer-cpu-DATE.json

Chromium without a window, with software graphics (the worst case: a machine without a GPU), a new profile each time. The
load of the machine is written down: seconds are worth keeping where it was below one half. Memory is the sum of the
proportional set sizes of all processes of the browser, the graphics process among them, sampled in a round of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from medseg.io.header import Header
from medseg.io.volume import write_image, write_label
from tests.evaluation.report.viewer.chromium import chromium, visit
from tests.evaluation.report.viewer.pages import forty_cases

CT_SHAPE, CT_LABELS = (512, 512, 600), 117
LIMITS = {"report_bytes": 6e6, "report_ready_s": 4.0, "view_first_slice_s": 5.0, "view_browser_bytes": 1.5e9}


class Memory:
    """The most that the browser below this process takes while the block runs, in bytes."""

    def __init__(self) -> None:
        self.most, self._ended = 0, threading.Event()

    def __enter__(self) -> Memory:
        threading.Thread(target=self._sample, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _sample(self) -> None:
        while not self._ended.wait(0.3):
            total = 0
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error, OSError):
                    if "chrom" in process.name():
                        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
                        total += 1024 * int(rollup.partition("\nPss:")[2].split()[0])
            self.most = max(self.most, total)


def report(start: Callable[..., Any], folder: Path, rounds: int) -> dict[str, Any]:
    """A page of 40 cases with three volumes, opened from a file with spaces and umlauts in its path."""
    place = folder / "Bericht für Ärzte"
    place.mkdir()
    address = forty_cases(place / "report 40.html")
    seconds, pictures, memory = [], [], Memory()
    for number in range(rounds + 1):
        browser = start()
        with memory if number == rounds else nullcontext():
            begun = time.time()
            seen = visit(browser, address)
            failed = seen.ready()
            ready = time.time() - begun
        assert not failed, failed
        seconds.append(ready)
        pictures.append(seen.pictured() - begun)
        found = {"requests": len(seen.requests) - 1, "violations": len(seen.violations()), "errors": len(seen.errors)}
        browser.close()
    return {
        "bytes": (place / "report 40.html").stat().st_size,
        "pictures_s": pictures[:rounds],
        "ready_s": seconds[:rounds],
        "browser_bytes": memory.most,
        **found,
    }


def phantom(folder: Path) -> tuple[Path, Path]:
    """A CT with as many labels as TotalSegmentator gives: noise on smooth tissue, a lattice of balls."""
    random = np.random.default_rng(0)
    like = Header.of_array(CT_SHAPE, np.diag([0.8, 0.8, 1.0, 1.0]))
    scan = np.empty(CT_SHAPE, np.int16)
    label = np.zeros(CT_SHAPE, np.uint8)
    x, y = np.meshgrid(*(np.linspace(-1, 1, size) for size in CT_SHAPE[:2]), indexing="ij")
    body = x**2 + (1.5 * y) ** 2 < 0.8
    for z in range(CT_SHAPE[2]):
        scan[:, :, z] = np.where(body, 40 + 30 * np.sin(z / 40), -1000) + random.normal(0, 12, CT_SHAPE[:2])
    places = [(i, j, k) for k in range(5) for j in range(4) for i in range(6)][:CT_LABELS]
    grid = np.indices((40, 40, 60)) - np.array([20, 20, 30])[:, None, None, None]
    ball = (grid**2 / np.array([400, 400, 900])[:, None, None, None]).sum(0) < 1
    for value, (i, j, k) in enumerate(places, start=1):
        corner = 120 + 45 * i, 160 + 48 * j, 30 + 110 * k
        part = label[corner[0] : corner[0] + 40, corner[1] : corner[1] + 40, corner[2] : corner[2] + 60]
        part[ball] = value
    write_image(folder / "ct.nii.gz", scan, like)
    write_label(folder / "ct_label.nii.gz", label, like)
    return folder / "ct.nii.gz", folder / "ct_label.nii.gz"


@contextmanager
def viewing(*words: str) -> Iterator[str]:
    """The address of a `medseg view` in a process of its own."""
    command = [sys.executable, "-m", "medseg", "view", *words, "--no-browser", "--json"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield json.loads(server.stdout.readline())["address"]
    finally:
        server.terminate()
        server.wait()


def view(start: Callable[..., Any], scan: Path, label: Path, rounds: int) -> dict[str, Any]:
    """From the start of the command, its interpreter included, to the first planes and to the viewer."""
    first, ready, served, memory = [], [], [], Memory()
    for number in range(rounds + 1):
        browser = start()  # a person's browser runs already
        with memory if number == rounds else nullcontext():
            begun = time.time()
            with viewing(str(scan), str(label)) as address:
                served.append(time.time() - begun)
                seen = visit(browser, address, until="commit")
                failed = seen.ready(300)
                ready.append(time.time() - begun)
                assert not failed, failed
                first.append(seen.pictured() - begun)
                rows = seen.page.locator("#viewer-legend tbody tr").count()
                found = {"violations": len(seen.violations()), "notes": seen.page.inner_text("#viewer-notes")}
        browser.close()
    return {
        "served_s": served[:rounds],
        "first_planes_s": first[:rounds],
        "viewer_ready_s": ready[:rounds],
        "browser_bytes": memory.most,
        "labels": rows,
        "requests_elsewhere": sum(not one.startswith(address) for one in seen.requests),
        **found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("report", "view"))
    parser.add_argument("--work", type=Path, help="keep the phantom here")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    result: dict[str, Any] = {"cores": os.cpu_count(), "load_before": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as temporary, chromium() as start:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        if arguments.only != "view":
            result["report"] = report(start, Path(temporary), arguments.rounds)
        if arguments.only != "report":
            scan, label = work / "ct.nii.gz", work / "ct_label.nii.gz"
            if not label.exists():
                scan, label = phantom(work)
            result["view"] = view(start, scan, label, arguments.rounds)
    result["load_after"] = os.getloadavg()[0]
    for part in ("report", "view"):
        for name, value in result.get(part, {}).items():
            print(part, name, value if not isinstance(value, list) else [round(one, 2) for one in value if one])
    if arguments.output:
        arguments.output.write_text(json.dumps({"limits": LIMITS, **result}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
