"""File to file against MONAI's bundle chain: time, memory, agreement, distance from the floor (P1 to P4, P6, P7).

    python benchmarks/prediction.py                      all of it, some minutes; writes benchmarks/results/
    python benchmarks/prediction.py --only P1 --rounds 3

Contenders run in processes of their own, in turns. It fails when outputs disagree. Data and network are made here: a
phantom of ellipsoids and a small U-Net trained on it for a minute, so that label maps are like those of a real model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from contest import save  # noqa: E402
from prediction_worker import CLASSES, LOWER, ROI, SPACING, UPPER, unet  # noqa: E402

AGREE = {"fp32": 0.998, "bf16": 0.995}


def phantom(shape: tuple[int, ...], spacing: tuple[float, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A CT-like volume (int16 HU) and its labels: a body, air around, an ellipsoid per class."""
    rng = np.random.default_rng(seed)
    axes = [(np.arange(n, dtype=np.float32) - n / 2) * s for n, s in zip(shape, spacing, strict=True)]
    x, y, z = (axis.reshape([-1 if a == i else 1 for a in range(3)]) for i, axis in enumerate(axes))
    extent = np.array([n * s for n, s in zip(shape, spacing, strict=True)])
    inside = (x / (0.42 * extent[0])) ** 2 + (y / (0.36 * extent[1])) ** 2 <= 1
    hu = np.where(np.broadcast_to(inside, shape), 0.0, -1000.0).astype(np.float32)
    label = np.zeros(shape, dtype=np.uint8)
    for value in range(1, CLASSES):
        centre = rng.uniform(-0.28, 0.28, 3) * extent
        radius = rng.uniform(0.05, 0.12, 3) * extent.min()
        organ = sum(((axis - c) / r) ** 2 for axis, c, r in zip((x, y, z), centre, radius, strict=True)) <= 1
        organ = organ & np.broadcast_to(inside, shape)
        hu[organ], label[organ] = -500.0 + 100.0 * value, value
    hu += rng.normal(0, 12, shape).astype(np.float32)
    return hu.astype(np.int16), label


def train(path: Path, steps: int = 40) -> None:
    """A minute of training on phantoms at 1.5 mm, so that logits are those of a network that has learned something."""
    torch.manual_seed(0)
    network = unet().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    rng = np.random.default_rng(1)
    middle, half = (UPPER + LOWER) / 2, (UPPER - LOWER) / 2
    scans = [phantom((120, 120, 96), SPACING, seed) for seed in range(1, 4)]
    for step in range(steps):
        hu, label = scans[step % len(scans)]
        box = tuple(slice(int(a), int(a) + 48) for a in rng.integers(0, np.array(hu.shape) - 48))
        image = torch.from_numpy(((np.clip(hu[box], LOWER, UPPER) - middle) / half).astype(np.float32))[None, None]
        logits = network(image)
        logits = logits[:, 0] if logits.ndim == 6 else logits
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(label[box].astype(np.int64))[None])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save(network.state_dict(), path)


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
            "extra_gib": max(row["extra_bytes"] for row in self.rows) / 2**30,
        }
        if "network_seconds" in self.rows[0]:
            shares = [1 - row["network_seconds"] / row["seconds"] for row in self.rows]
            facts["outside_network"] = statistics.median(shares)
            facts["network_seconds"] = min(row["network_seconds"] for row in self.rows)
        return facts

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


def equal_share(a: Path, b: Path) -> float:
    """Share of voxels with the same label; also fails when the grids differ."""
    import nibabel

    one, two = (nibabel.load(path) for path in (a, b))
    if not np.allclose(one.affine, two.affine, atol=1e-3):
        raise SystemExit(f"{a} and {b} lie on different grids")
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


def file_to_file(
    folder: Path, rounds: int, threads: int, shape: tuple[int, ...], weights: Path | None
) -> list[dict[str, Any]]:
    """P1, P1b, P2, P3, P4, P7."""
    import nibabel

    from medseg.inference.slab import plan_windows
    from medseg.transforms.grid import make_grid_map

    spacing = (0.9, 0.9, 1.5)
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    hu, _ = phantom(shape, spacing)
    source, weights = folder / "ct.nii.gz", weights or folder / "unet.pt"
    nibabel.save(nibabel.Nifti1Image(hu, affine), source)
    if not weights.is_file():
        train(weights)
    small = folder / "small.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(hu[:120, :120, :72]), affine), small)
    job = {
        "network": "unet",
        "classes": CLASSES,
        "weights": str(weights),
        "spacing": SPACING,
        "roi": ROI,
        "threads": threads,
    }
    contenders = [
        Contender("MONAI chain, eager fp32", kind="monai", **job),
        Contender("medseg, eager fp32", kind="medseg", engine="eager", precision="fp32", **job),
        Contender("medseg, OpenVINO fp32", kind="medseg", engine="openvino", precision="fp32", **job),
        Contender("medseg, OpenVINO bf16", kind="medseg", engine="openvino", precision="bf16", **job),
    ]
    outputs = [folder / f"out{n}.nii.gz" for n in range(len(contenders))]
    for contender, output in zip(contenders, outputs, strict=True):
        contender.run(small, output, keep=False)  # loads, converts, allocates
    for _ in range(rounds):
        for contender, output in zip(contenders, outputs, strict=True):
            contender.run(source, output)
    grid = make_grid_map(shape, affine, spacing=SPACING)
    windows = plan_windows(grid.shape, ROI, (0.5, 0.5, 0.5)).count
    floors = floor_seconds(windows, threads)
    rows = []
    for contender, output in zip(contenders, outputs, strict=True):
        facts = {"contender": contender.name, "windows": windows, **contender.summary()}
        precision = "bf16" if "bf16" in contender.name else "fp32"
        facts["floor_seconds"] = floors[precision]
        if "network_seconds" in facts:
            facts["above_floor"] = facts["network_seconds"] / floors[precision]
        facts["equal_to_monai"] = equal_share(output, outputs[0])
        facts["equal_to_eager_fp32"] = equal_share(output, outputs[1])
        facts["speedup"] = contenders[0].summary()["seconds_min"] / facts["seconds_min"]
        facts["speedup_in_cpu_seconds"] = contenders[0].summary()["cpu_seconds"] / facts["cpu_seconds"]
        facts["memory_ratio"] = facts["extra_gib"] / contenders[0].summary()["extra_gib"]
        rows.append(facts)
        contender.close()
    for facts in rows:
        least = AGREE["bf16" if "bf16" in facts["contender"] else "fp32"]
        if min(facts["equal_to_monai"], facts["equal_to_eager_fp32"]) < least:
            raise SystemExit(f"{facts['contender']}: outputs disagree: {facts}")
    return rows


def many_classes(folder: Path, threads: int, shape: tuple[int, ...], classes: int) -> list[dict[str, Any]]:
    """P6: peak memory with many classes, the network a stub, no resampling."""
    import nibabel

    hu, _ = phantom(shape, (1.0, 1.0, 1.0))
    source = folder / "long.nii.gz"
    nibabel.save(nibabel.Nifti1Image(hu, np.diag([-1.0, -1.0, 1.0, 1.0])), source)
    job = {"network": "stub", "classes": classes, "spacing": None, "roi": ROI, "threads": threads}
    rows, outputs = [], []
    for name, extra in (
        ("MONAI chain", {"kind": "monai"}),
        ("medseg, float32 slab", {"kind": "medseg", "engine": "eager", "precision": "fp32"}),
        (
            "medseg, float16 slab",
            {"kind": "medseg", "engine": "eager", "precision": "fp32", "options": {"slab_type": "float16"}},
        ),
    ):
        outputs.append(folder / f"many{len(outputs)}.nii.gz")
        contender = Contender(name, **extra, **job)
        contender.run(source, outputs[-1])
        facts = {"contender": name, "classes": classes, "shape": list(shape), **contender.summary()}
        contender.close()
        facts["equal_to_monai"] = equal_share(outputs[-1], outputs[0])
        if facts["equal_to_monai"] < 0.999:
            raise SystemExit(f"{name}: outputs disagree: {facts}")
        rows.append(facts)
    for facts in rows:
        facts["memory_ratio"] = facts["extra_gib"] / rows[0]["extra_gib"]
        facts["speedup"] = rows[0]["seconds_median"] / facts["seconds_median"]
    return rows


def main() -> None:
    """Run and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("P1", "P6"), help="P1: file to file; P6: many classes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--shape", type=int, nargs=3, default=(256, 256, 128))
    parser.add_argument("--long-shape", type=int, nargs=3, default=(128, 128, 384))
    parser.add_argument("--weights", type=Path, help="file to keep the trained weights in, and to take them from")
    parser.add_argument("--classes", type=int, default=105)
    arguments = parser.parse_args()
    command = " ".join(["python benchmarks/prediction.py", *sys.argv[1:]])
    with tempfile.TemporaryDirectory() as name:
        if arguments.only in (None, "P1"):
            rows = file_to_file(
                Path(name), arguments.rounds, arguments.threads, tuple(arguments.shape), arguments.weights
            )
            save("prediction_file_to_file", {"command": command, "threads": arguments.threads, "rows": rows})
        if arguments.only in (None, "P6"):
            rows = many_classes(Path(name), arguments.threads, tuple(arguments.long_shape), arguments.classes)
            save("prediction_many_classes", {"command": command, "threads": arguments.threads, "rows": rows})


if __name__ == "__main__":
    main()
