"""Who is timed by prediction.py, on which files: each contender is a process of its own that answers one line per job."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from prediction_phantom import CLASSES, phantom
from prediction_weights import checksum_of
from prediction_worker import ROI, SPACING, unet

HERE = Path(__file__).resolve().parent


# Both sides prepare the same image to 1e-5 (tests/benchmarks/test_prediction.py). Torch against torch, labels differ at exact
# ties only; another engine sums in another order, and 16 bits round: there near-ties go either way.
AGREE = {"torch": 0.9999, "fp32": 0.998, "bf16": 0.995}


SOURCE_SPACING = (0.9, 0.9, 1.5)


CONTENDERS = {
    "MONAI chain, eager fp32": {"kind": "monai"},
    "medseg, eager fp32": {"kind": "medseg", "engine": "eager", "precision": "fp32"},
    "medseg, OpenVINO fp32": {"kind": "medseg", "engine": "openvino", "precision": "fp32"},
    "medseg, OpenVINO bf16": {"kind": "medseg", "engine": "openvino", "precision": "bf16"},
}


STUBS = {
    "MONAI chain": {"kind": "monai"},
    "medseg, float32 slab": {"kind": "medseg", "engine": "eager", "precision": "fp32"},
    "medseg, float16 slab": {
        "kind": "medseg", "engine": "eager", "precision": "fp32", "options": {"slab_type": "float16"},
    },
}  # fmt: skip


class Contender:
    """A worker process and its measurements."""

    def __init__(self, name: str, **job: Any) -> None:
        self.name, self.rows = name, []
        code = str(HERE / "prediction_worker.py")
        self.process = subprocess.Popen(
            [sys.executable, code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._send(job)

    def _send(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: the worker ended early")
        return json.loads(line)

    def run(self, source: Path, target: Path, *, keep: bool = True) -> None:
        row = self._send({"source": str(source), "target": str(target)})
        if keep:
            self.rows.append(row)

    def summary(self) -> dict[str, Any]:
        seconds = [row["seconds"] for row in self.rows]
        facts = {
            "seconds_min": min(seconds),
            "seconds_median": statistics.median(seconds),
            "cpu_seconds": min(row["cpu_seconds"] for row in self.rows),
        }
        if "network_seconds" in self.rows[0]:
            shares = [1 - row["network_seconds"] / row["seconds"] for row in self.rows]
            facts["outside_network"] = statistics.median(shares)
            facts["network_seconds"] = min(row["network_seconds"] for row in self.rows)
        return facts

    def memory(self) -> dict[str, float]:
        """Of the first volume: what this process took beyond what it held before, and its high-water mark."""
        return {"extra_gib": self.rows[0]["extra_bytes"] / 2**30, "peak_gib": self.rows[0]["peak_bytes"] / 2**30}

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


def equal_share(a: Path, b: Path) -> float:
    """Share of voxels with the same label; also fails when the grids differ."""
    one, two = (nibabel.load(path) for path in (a, b))
    if not np.allclose(one.affine, two.affine, atol=1e-3):
        raise SystemExit(f"{a.name} and {b.name} lie on different grids")
    return float((np.asanyarray(one.dataobj) == np.asanyarray(two.dataobj)).mean())


def floor_seconds(windows: int, threads: int) -> dict[str, float]:
    """Windows times FLOP, divided by the best rate that a convolution reaches here now, per precision."""
    from torch.utils.flop_counter import FlopCounterMode

    torch.set_num_threads(threads)
    network, example = unet(), torch.randn(1, 1, *ROI)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(example)
    flop = counter.get_total_flops()
    rates = {}
    for name, dtype, layout in (
        ("fp32", torch.float32, torch.contiguous_format),
        ("bf16", torch.bfloat16, torch.channels_last_3d),
    ):
        best = 0.0
        for channels, size in ((32, 48), (64, 48), (128, 24)):
            conv = torch.nn.Conv3d(channels, channels, 3, padding=1).to(dtype).to(memory_format=layout)
            image = torch.randn(1, channels, size, size, size).to(dtype).contiguous(memory_format=layout)
            work = 2 * 27 * channels * channels * size**3
            with torch.inference_mode():
                conv(image)
                for _ in range(5):
                    began = time.perf_counter()
                    conv(image)
                    best = max(best, work / (time.perf_counter() - began))
        rates[name] = best
    return {name: windows * flop / rate for name, rate in rates.items()} | {
        f"{name}_gflops": rate / 1e9 for name, rate in rates.items()
    }


class Files:
    """The volumes and weights that rows share, made when they are first needed."""

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self.folder, self.arguments = folder, arguments
        self.shape = tuple(arguments.shape)
        self.checksum = ""

    def weights(self) -> Path:
        """The fixed weights; see prediction_weights.py."""
        self.checksum = checksum_of(self.arguments.weights)
        return self.arguments.weights

    def volume(self, shape: tuple[int, ...], spacing: tuple[float, ...]) -> Path:
        path = self.folder / f"ct_{'x'.join(map(str, shape))}_{spacing[0]}.nii.gz"
        if not path.is_file():
            hu, _ = phantom(shape, spacing)
            nibabel.save(nibabel.Nifti1Image(hu, np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])), path)
        return path

    def job(self, network: str) -> dict[str, Any]:
        """What every contender is told."""
        shared = {"network": network, "roi": ROI, "threads": self.arguments.threads}
        if network == "unet":
            return {**shared, "classes": CLASSES, "weights": str(self.weights()), "spacing": SPACING}
        return {**shared, "classes": self.arguments.classes, "spacing": None}
