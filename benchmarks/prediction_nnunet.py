"""A trained nnU-Net folder, by `nnUNetv2_predict` and by `medseg predict` after the import: equal labels, and seconds.

    python benchmarks/prediction_nnunet.py --nnunet-env ENV               equality of several models, then the whole commands
    python benchmarks/prediction_nnunet.py --nnunet-env ENV --only equal
    python benchmarks/prediction_nnunet.py --nnunet-env ENV --only speed --shape 512 512 200

ENV is a virtual environment of its own with nnunetv2 (`python -m venv ENV; ENV/bin/pip install nnunetv2==2.8.1`, with the
same torch as here). Both run as whole commands on the CPU: same weights, same step, mirroring off. The models are trained
here for a minute on made-up volumes. Fails when less than 99.9 % of the labels are equal.

`--wide` runs nnU-Net a second time with its two float16 accumulators changed to float32 (a copy of the package in a
temporary folder), which shows how much of a difference is its own rounding.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from prediction_nnunet_models import MODELS, Model, make_case, make_model
from prediction_rows import Rows

from medseg.commands.import_nnunet import import_nnunet
from medseg.commands.predict import predict_bundle
from medseg.inference.settings import PredictOptions

LEAST_EQUAL = 0.999


def timed(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Run a whole command; wall seconds and its peak memory (of the largest process in it)."""
    began = time.perf_counter()
    code = f"import subprocess, resource, sys; r = subprocess.run({command!r}, capture_output=True, text=True); " \
        "sys.stderr.write(r.stdout[-1500:] + r.stderr[-3000:]) if r.returncode else None; " \
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(r.returncode)"  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{Path(command[0]).name} failed:\n{done.stderr}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak = int(done.stdout.split()[-1]) / 2**20
    return {"seconds": time.perf_counter() - began, "cpu_seconds": cpu, "peak_gib": peak}


class Contest:
    """One model, one volume, and the commands that predict it."""

    def __init__(self, model: Model, root: Path, environment: Path, threads: int) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root, self.threads = root, threads
        self.results, self.images = root / "results", root / "images"
        self.folder = make_model(model, self.results)
        make_case(model, self.images)
        self.model, self.bin = model, environment / "bin"
        self.bundle = root / "bundle"
        import_nnunet(self.folder, self.bundle)

    def nnunet(self) -> tuple[Path, dict[str, float]]:
        """`nnUNetv2_predict` with its default number of processes."""
        target = self.root / "nnunet"
        folds = [str(fold) for fold in range(self.model.folds)]
        command = [str(self.bin / "nnUNetv2_predict"), "-i", str(self.images), "-o", str(target), "-d", "1",
                   "-c", "3d_fullres", "-f", *folds, "-device", "cpu", "--disable_tta"]  # fmt: skip
        return target / "case.nii.gz", timed(command, self.nnunet_environment())

    def nnunet_environment(self) -> dict[str, str]:
        """Where nnU-Net looks for models."""
        folders = {"nnUNet_results": self.results, "nnUNet_raw": self.root, "nnUNet_preprocessed": self.root}
        return {**self._environment(), **{key: str(path) for key, path in folders.items()}}

    def medseg(self, engine: str = "auto", precision: str = "fp32") -> tuple[Path, dict[str, float]]:
        """`medseg predict` with the imported bundle, as its user types it; a preview and a record are made too."""
        target = self.root / f"medseg_{engine}_{precision}"
        command = [sys.executable, "-m", "medseg", "predict", str(self.bundle), "-i", str(self.images), "-o",
                   str(target), "--mirror", "none", "--engine", engine, "--precision", precision,
                   "--threads", str(self.threads), "--device", "cpu"]  # fmt: skip
        return target / "case.nii.gz", timed(command, self._environment())

    def _environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        root = str(Path(__file__).resolve().parents[1])
        return {**kept, "OMP_NUM_THREADS": str(self.threads), "PYTHONPATH": f"{root}{os.pathsep}{root}/kernels"}


def _wide_copy(binaries: Path, target: Path) -> Path:
    """nnU-Net with float32 accumulators, to be found before the installed one."""
    ask = "import nnunetv2, pathlib; print(pathlib.Path(nnunetv2.__file__).parent)"
    source = subprocess.run([str(binaries / "python"), "-c", ask], check=True, capture_output=True, text=True)
    shutil.copytree(source.stdout.split()[-1], target / "nnunetv2", dirs_exist_ok=True)
    path = target / "nnunetv2" / "inference" / "predict_from_raw_data.py"
    text = path.read_text(encoding="utf-8")
    if text.count("dtype=torch.half") != 2:
        raise SystemExit("this nnU-Net does not accumulate in two float16 tensors; run without --wide")
    path.write_text(text.replace("dtype=torch.half", "dtype=torch.float"), encoding="utf-8")
    return target


def agreement(one: Path, two: Path) -> dict[str, float]:
    """Share of equal voxels, of equal voxels among those that either calls an organ, and labels there are."""
    a, b = (nibabel.load(path) for path in (one, two))
    if not np.allclose(a.affine, b.affine, atol=1e-4):
        raise SystemExit(f"{one.name}: the grids differ")
    a, b = np.asanyarray(a.dataobj), np.asanyarray(b.dataobj)
    organ = (a > 0) | (b > 0)
    inside = float((a == b)[organ].mean()) if organ.any() else 1.0
    return {"equal": float((a == b).mean()), "equal_in_organs": inside, "labels": len(np.unique(a))}


# Run by nnU-Net's own Python: several trained folders in one process, since starting it takes longer than predicting.
SEQUENTIAL = """
import json, sys, torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
torch.set_num_threads(int(sys.argv[2]))
for job in json.loads(sys.argv[1]):
    predictor = nnUNetPredictor(tile_step_size=0.5, use_gaussian=True, use_mirroring=False,
                                perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(job["model"], tuple(range(job["folds"])), "checkpoint_final.pth")
    predictor.predict_from_files_sequential(job["images"], job["output"], overwrite=True)
"""


def sequential(contests: Sequence[Contest], threads: int, *, wide: bool = False) -> list[Path]:
    """nnU-Net's label maps of several models."""
    jobs, outputs = [], []
    for contest in contests:
        output = contest.root / ("nnunet_wide" if wide else "nnunet")
        output.mkdir(exist_ok=True)
        folder, images = str(contest.folder), str(contest.images)
        jobs.append({"model": folder, "images": images, "output": str(output), "folds": contest.model.folds})
        outputs.append(output / "case.nii.gz")
    first = contests[0]
    environment = first.nnunet_environment()
    if wide:
        environment["PYTHONPATH"] = str(_wide_copy(first.bin, first.root / "wide"))
    command = [str(first.bin / "python"), "-c", SEQUENTIAL, json.dumps(jobs), str(threads)]
    timed(command, environment)
    return outputs


def equality(rows: Rows, work: Path, environment: Path, threads: int, *, wide: bool, chosen: str) -> None:
    """Labels of imported bundles against nnU-Net's own."""
    numbered = [(number, model) for number, model in enumerate(MODELS) if chosen in model.name]
    wanted = [(number, model) for number, model in numbered if not rows.has(f"equal: {model.name}")]
    if not wanted:
        return
    contests = [Contest(model, work / f"equal{number}", environment, threads) for number, model in wanted]
    theirs = sequential(contests, threads)
    wider = sequential(contests, threads, wide=True) if wide else theirs
    low = []
    for (_, model), contest, one, other in zip(wanted, contests, theirs, wider, strict=True):
        found = {}
        for kind in ("auto", "float32"):
            options = PredictOptions(mirror=(), engine="eager", precision="fp32", slab_type=kind)
            output = contest.root / f"medseg_{kind}"
            predict_bundle(contest.bundle, contest.images, output, options=options, preview=False)
            found[kind] = output / "case.nii.gz"
        facts: dict[str, Any] = agreement(one, found["auto"])
        facts["float32_equals_nnunet"] = agreement(one, found["float32"])["equal"]
        if wide:
            facts["float32_equals_nnunet_in_float32"] = agreement(other, found["float32"])["equal"]
        rows.put(f"equal: {model.name}", {**facts, "network": model.kind, "folds": model.folds})
        if facts["equal"] < LEAST_EQUAL:
            low.append(f"{model.name}: {facts['equal']:.3%}")
    if low:
        raise SystemExit(f"fewer than {LEAST_EQUAL:.1%} of the labels are equal: {'; '.join(low)}")


def speed(rows: Rows, work: Path, environment: Path, threads: int, shape: tuple[int, ...], rounds: int) -> None:
    """Seconds of the whole commands."""
    name = f"whole command: {'x'.join(map(str, shape))}"
    if rows.has(name):
        return
    model = Model(
        "speed", shape=shape, source=(0.8, 0.8, 1.5), patch=(96, 96, 96), classes=15, steps=20,
        features=(16, 32, 64, 128), kernels=((3, 3, 3),) * 4, strides=((1, 1, 1), *((2, 2, 2),) * 3),
    )  # fmt: skip
    contest = Contest(model, work / "speed", environment, threads)
    taken: dict[str, list[dict[str, float]]] = {"nnUNetv2_predict": [], "eager": [], "auto": []}
    for _ in range(rounds):
        theirs, facts = contest.nnunet()
        taken["nnUNetv2_predict"].append(facts)
        for engine in ("eager", "auto"):
            ours, facts = contest.medseg(engine)
            taken[engine].append(facts)
            equal = agreement(theirs, ours)
            if equal["equal"] < LEAST_EQUAL:
                raise SystemExit(f"{engine}: only {equal['equal']:.3%} of the labels are equal")
    found: dict[str, Any] = {"shape": list(shape), "threads": threads, **equal}
    for engine, runs in taken.items():
        found[engine] = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        found[engine]["faster"] = found["nnUNetv2_predict"]["seconds"] / found[engine]["seconds"]
    rows.put(name, found)


def main() -> None:
    """Run and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nnunet-env", type=Path, required=True, help="virtual environment with nnunetv2")
    parser.add_argument("--only", choices=("equal", "speed"))
    parser.add_argument("--model", default="", help="only models with this in their name")
    parser.add_argument("--wide", action="store_true", help="also nnU-Net with float32 accumulators")
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 200))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--work", type=Path, help="folder that keeps the trained models (default: a temporary one)")
    parser.add_argument("--again", action="store_true", help="measure rows that are there already, too")
    arguments = parser.parse_args()
    rows = Rows("prediction_nnunet", again=arguments.again)
    with tempfile.TemporaryDirectory() as name:
        work = arguments.work or Path(name)
        if arguments.only in (None, "equal"):
            equality(rows, work, arguments.nnunet_env, arguments.threads, wide=arguments.wide, chosen=arguments.model)
        if arguments.only in (None, "speed"):
            speed(rows, work, arguments.nnunet_env, arguments.threads, tuple(arguments.shape), arguments.rounds)


if __name__ == "__main__":
    main()
