"""The table P1 to P14 of whole-volume prediction: each row by itself, kept when it is done.

    python benchmarks/prediction.py                              all rows, an hour or so
    python benchmarks/prediction.py --only P1 --rounds 3         one row, or several: --only P5 P8
    python benchmarks/prediction.py --only P1 --shape 96 96 64   small, to try it

Rows (hold): P1 file to file against MONAI's bundle chain (>= 2x with the best engine), P1b the same with torch eager on both
sides (>= 1.2x), P2 in bf16 (>= 5x, >= 99.5 % equal labels), P4 share outside the network (<= 10 % in fp32), P7 distance above
the floor (<= 1.7x fp32, 4.5x bf16): all measured by P1. P3 extra memory (<= 1/3 of MONAI's). P5 logits to the source grid
(>= 20x nnU-Net's default, >= 4x interpolate + argmax). P6 memory with 105 classes (<= 1/3), and `105`: 512x512x600 under
8 GB. P8 writing (>= 3x nibabel, 8x SimpleITK). P9 to P12 are the tables of bench_metrics.py and bench_augmentation.py. P13
`medseg --help` (< 0.5 s). P14 memory over a folder of 1000 cases (<= 5 %).

Contenders run in processes of their own, in turns. A row fails when outputs disagree. Data are made here, a phantom of
ellipsoids; the network is a small U-Net that has converged on such phantoms, made once by benchmarks/prediction_weights.py and
named in each row by its checksum. A row that stands in the results file for this very code is kept, unless --again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from prediction_contenders import (
    AGREE,
    CONTENDERS,
    HERE,
    SOURCE_SPACING,
    STUBS,
    Contender,
    Files,
    equal_share,
    floor_seconds,
)
from prediction_parts import blending, to_source_grid, use_nnunet, writing
from prediction_phantom import phantom
from prediction_rows import Rows
from prediction_weights import DEFAULT
from prediction_worker import ROI, SPACING


def file_to_file(files: Files, rows: Rows) -> None:
    """P1, P1b, P2, P4, P7."""
    from medseg.inference.windows.slab import plan_windows
    from medseg.transforms.grid import make_grid_map

    job, source = files.job("unet"), files.volume(files.shape, SOURCE_SPACING)
    small = files.volume((120, 120, 72), SOURCE_SPACING)
    contenders = [Contender(name, **extra, **job) for name, extra in CONTENDERS.items()]
    outputs = [files.folder / f"out{n}.nii.gz" for n in range(len(contenders))]
    for contender, output in zip(contenders, outputs, strict=True):
        contender.run(small, output, keep=False)  # loads, converts, allocates
    for _ in range(files.arguments.rounds):
        for contender, output in zip(contenders, outputs, strict=True):
            contender.run(source, output)
    grid = make_grid_map(files.shape, np.diag([-0.9, -0.9, 1.5, 1.0]), spacing=SPACING)
    windows = plan_windows(grid.shape, ROI, (0.5, 0.5, 0.5)).count
    floors = floor_seconds(windows, files.arguments.threads)
    monai, found = contenders[0].summary(), {}
    for contender, output in zip(contenders, outputs, strict=True):
        facts = contender.summary()
        precision = "bf16" if "bf16" in contender.name else "fp32"
        facts["floor_seconds"] = floors[precision]
        if "network_seconds" in facts:
            facts["above_floor"] = facts["seconds_min"] / floors[precision]
            facts["network_above_floor"] = facts["network_seconds"] / floors[precision]
        facts["equal_to_monai"] = equal_share(output, outputs[0])
        facts["equal_to_eager_fp32"] = equal_share(output, outputs[1])
        facts["faster"] = monai["seconds_min"] / facts["seconds_min"]
        facts["faster_in_cpu_seconds"] = monai["cpu_seconds"] / facts["cpu_seconds"]
        found[contender.name] = facts
        contender.close()
        kind = "torch" if "eager" in contender.name else precision
        if min(facts["equal_to_monai"], facts["equal_to_eager_fp32"]) < AGREE[kind]:
            raise SystemExit(f"{contender.name}: outputs disagree: {facts}")
    rows.put("P1", {"shape": files.shape, "weights": files.checksum, "windows": windows, "rounds": files.arguments.rounds,
                    "floors": floors, "contenders": found})  # fmt: skip


def fresh_memory(files: Files, network: str, name: str, extra: dict[str, Any], source: Path, target: Path) -> Any:
    """One volume in a process that has predicted only a small one."""
    contender = Contender(name, **extra, **files.job(network))
    if network == "unet":
        contender.run(files.volume((120, 120, 72), SOURCE_SPACING), target, keep=False)
    contender.run(source, target)
    facts = {**contender.memory(), "seconds": contender.rows[0]["seconds"]}
    contender.close()
    return facts


def extra_memory(files: Files, rows: Rows) -> None:
    """P3."""
    source, found = files.volume(files.shape, SOURCE_SPACING), {}
    outputs = {name: files.folder / f"memory{n}.nii.gz" for n, name in enumerate(CONTENDERS)}
    for name, extra in CONTENDERS.items():
        facts = fresh_memory(files, "unet", name, extra, source, outputs[name])
        facts["equal_to_monai"] = equal_share(outputs[name], outputs["MONAI chain, eager fp32"])
        found[name] = facts
        if facts["equal_to_monai"] < AGREE["bf16"]:
            raise SystemExit(f"{name}: outputs disagree: {facts}")
        facts["share_of_monai"] = facts["extra_gib"] / found["MONAI chain, eager fp32"]["extra_gib"]
    rows.put("P3", {"shape": files.shape, "weights": files.checksum, "contenders": found})


def many_classes(files: Files, rows: Rows) -> None:
    """P6: peak memory with many classes, the network a stub, no resampling.

    All contenders on a volume of `--monai-planes` planes; ours also on the whole `--long-shape`, where MONAI would not fit into
    this machine: there the share is of `monai_accumulators_gib`, the one float32 per class and voxel that it holds at least.
    """
    long = tuple(files.arguments.long_shape)
    short = (*long[:2], min(long[2], files.arguments.monai_planes))
    found: dict[str, Any] = {}
    for shape in dict.fromkeys((short, long)):
        source = files.volume(shape, (1.0, 1.0, 1.0))
        target = {name: files.folder / f"many{n}_{shape[2]}.nii.gz" for n, name in enumerate(STUBS)}
        for name, extra in STUBS.items():
            if name == "MONAI chain" and shape != short:
                continue
            facts = fresh_memory(files, "stub", name, extra, source, target[name])
            first = next(iter(target.values())) if shape == short else target["medseg, float32 slab"]
            facts["equal_to_first"] = equal_share(target[name], first)
            if facts["equal_to_first"] < 0.999:
                raise SystemExit(f"{name}: outputs disagree: {facts}")
            found[f"{name}, {'x'.join(map(str, shape))}"] = facts
    monai = next(facts for name, facts in found.items() if name.startswith("MONAI"))
    accumulators = float(files.arguments.classes * np.prod(long) * 4 / 2**30)
    for name, facts in found.items():
        whole = name.endswith("x".join(map(str, long)))
        facts["share_of_monai"] = facts["extra_gib"] / (accumulators if whole and short != long else monai["extra_gib"])
    rows.put("P6", {"classes": files.arguments.classes, "monai_accumulators_gib": accumulators, "contenders": found})


def body_of_105(files: Files, rows: Rows) -> None:
    """105 classes, 512x512x600, a 16-bit slab, one process; labels compared with a float32 slab on a crop."""
    shape, crop = tuple(files.arguments.big_shape), files.arguments.crop
    source = files.volume(shape, (0.8, 0.8, 1.0))
    job = {**files.job("stub"), "engine": "eager", "precision": "fp32", "kind": "medseg"}
    job["roi"], overlap = files.arguments.big_roi, files.arguments.big_overlap
    outputs = [files.folder / "big.nii.gz", files.folder / "crop.nii.gz"]
    contender = Contender("float16 slab", **job, options={"slab_type": "float16", "overlap": overlap})
    contender.run(source, outputs[0])
    facts = {**contender.memory(), "seconds": contender.rows[0]["seconds"]}
    contender.close()
    image = nibabel.load(source)
    # X and Y are stored from right and from front: the network's first voxels are the file's last ones
    corner = (slice(shape[0] - crop, None), slice(shape[1] - crop, None), slice(crop))
    part = np.asanyarray(image.dataobj[corner])
    nibabel.save(nibabel.Nifti1Image(part, image.affine), files.folder / "part.nii.gz")
    contender = Contender("float32 slab", **job, options={"slab_type": "float32", "overlap": overlap})
    contender.run(files.folder / "part.nii.gz", outputs[1])
    contender.close()
    # far from the crop's last planes, where windows lie elsewhere than in the whole volume
    inner = (slice(job["roi"][0], None), slice(job["roi"][1], None), slice(crop - job["roi"][2]))
    one, two = (np.asanyarray(nibabel.load(path).dataobj) for path in outputs)
    one = one[corner]
    facts["equal_to_float32_on_a_crop"] = float((one[inner] == two[inner]).mean())
    facts["labels_in_the_crop"] = len(np.unique(two[inner]))
    rows.put(
        "105", {"shape": shape, "classes": files.arguments.classes, "roi": job["roi"], "overlap": overlap, **facts}
    )
    if facts["equal_to_float32_on_a_crop"] < 0.999 or facts["peak_gib"] * 2**30 > 8e9:
        raise SystemExit(f"105 classes: {facts}")


def start_up(files: Files, rows: Rows) -> None:
    """P13: seconds from nothing to an answer, a new process each time."""
    commands = {
        "medseg --help": ["-m", "medseg", "--help"],
        "medseg predict --help": ["-m", "medseg", "predict", "--help"],
        "import monai.transforms": ["-c", "import monai.transforms"],
        "import torch": ["-c", "import torch"],
    }
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(1 + files.arguments.rounds):
        for name, words in commands.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *words], check=True, capture_output=True)
            taken[name].append(time.perf_counter() - began)
    found = {name: {"min_s": min(t[1:]), "median_s": statistics.median(t[1:])} for name, t in taken.items()}
    for facts in found.values():
        facts["share_of_monai"] = facts["median_s"] / found["import monai.transforms"]["median_s"]
    rows.put("P13", {"contenders": found})


def folder_of_cases(files: Files, rows: Rows) -> None:
    """P14: resident memory of one process over a folder of cases."""
    cases = files.arguments.cases
    hu, _ = phantom((40, 36, 30), (2.0, 2.0, 2.0))
    inputs = files.folder / "cases"
    inputs.mkdir(exist_ok=True)
    for number in range(cases):
        nibabel.save(nibabel.Nifti1Image(np.roll(hu, number, 0), np.eye(4)), inputs / f"case{number:04}.nii.gz")
    code = str(HERE / "prediction_worker.py")
    command = [sys.executable, code, "--folder", str(inputs), str(files.folder / "labels")]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    held = json.loads(answer.stdout.splitlines()[-1])["rss_bytes"]
    early = held[min(9, cases - 1)]
    growth = held[-1] / early
    rows.put("P14", {"cases": cases, "rss_mib_after_10": early / 2**20, "rss_mib_at_end": held[-1] / 2**20,
                     "growth": growth})  # fmt: skip


def elsewhere(name: str, script: str) -> Callable[[Files, Rows], None]:
    """A row that another script measures and saves."""

    def run(files: Files, rows: Rows) -> None:
        subprocess.run([sys.executable, str(HERE / script)], check=True)
        rows.put(name, {"table": script})

    return run


def source_grid(files: Files, rows: Rows) -> None:
    """P5."""
    use_nnunet(files.arguments.nnunet_env)
    rows.put("P5", {"contenders": to_source_grid(files.arguments.rounds, small=files.arguments.small)})


def file_writing(files: Files, rows: Rows) -> None:
    """P8."""
    rows.put("P8", {"contenders": writing(files.folder, files.arguments.rounds, small=files.arguments.small)})


def window_blending(files: Files, rows: Rows) -> None:
    """Blending alone."""
    rows.put("windows", {"contenders": blending(files.arguments.rounds)})


ROWS: dict[str, Callable[[Files, Rows], None]] = {
    "P1": file_to_file,
    "P3": extra_memory,
    "P5": source_grid,
    "P6": many_classes,
    "105": body_of_105,
    "P8": file_writing,
    "windows": window_blending,
    "P9": elsewhere("P9", "bench_metrics.py"),
    "P11": elsewhere("P11", "bench_augmentation.py"),
    "P13": start_up,
    "P14": folder_of_cases,
}
SAME = {"P1b": "P1", "P2": "P1", "P4": "P1", "P7": "P1", "P10": "P9", "P12": "P11"}


def main() -> None:
    """Run and save, row by row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=(*ROWS, *SAME), default=list(ROWS), metavar="ROW")
    parser.add_argument("--again", action="store_true", help="measure rows that are there already, too")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    # 250 * 0.9 / 1.5 is whole: MONAI keeps the asked spacing and ours the volume's edges, so only then is the grid the same
    parser.add_argument("--shape", type=int, nargs=3, default=(250, 250, 128), help="of the volume of P1 and P3")
    parser.add_argument("--weights", type=Path, default=DEFAULT, help="made once by prediction_weights.py")
    parser.add_argument("--classes", type=int, default=105, help="of P6 and 105")
    parser.add_argument("--long-shape", type=int, nargs=3, default=(256, 256, 600), help="of P6")
    parser.add_argument("--monai-planes", type=int, default=192, help="of P6 where MONAI takes part")
    parser.add_argument("--big-shape", type=int, nargs=3, default=(512, 512, 600), help="of 105")
    parser.add_argument("--big-roi", type=int, nargs=3, default=(96, 96, 80))
    parser.add_argument("--big-overlap", type=float, default=0.25)
    parser.add_argument("--crop", type=int, default=240, help="of 105: extent of the part computed in float32")
    parser.add_argument("--cases", type=int, default=1000, help="of P14")
    parser.add_argument("--nnunet-env", type=Path, help="virtual environment with nnunetv2, for P5")
    parser.add_argument("--small", action="store_true", help="small volumes in P5 and P8, to try them")
    arguments = parser.parse_args()
    rows = Rows("prediction", again=arguments.again)
    with tempfile.TemporaryDirectory() as name:
        files = Files(Path(name), arguments)
        for row in dict.fromkeys(SAME.get(one, one) for one in arguments.only):
            if not rows.has(row):
                ROWS[row](files, rows)


if __name__ == "__main__":
    main()
