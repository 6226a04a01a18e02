"""`medseg demo`: the whole path on a dataset made on the spot, each finished stage skipped the next time."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medseg.bars import progress_bar
from medseg.bundle.checks.verify import verify_bundle
from medseg.config import read_json
from medseg.datasets.demo import make_demo_dataset, template_path
from medseg.devices import choose_device
from medseg.errors import BundleError
from medseg.evaluation import Evaluation, evaluate_folders, read_evaluation
from medseg.evaluation.report import sections as pages
from medseg.evaluation.report.page import write_report
from medseg.inference.settings import PredictOptions
from medseg.io.atomic import write_json
from medseg.io.volume import read_image, read_label
from medseg.layout import Layout

from .fit import fit_bundle
from .plan import plan_bundle
from .predict import predict_bundle

log = logging.getLogger(__name__)

# Seconds of training: on two CPU cores the whole demo then ends within six minutes.
BUDGET_S = {"cpu": 150.0, "cuda": 60.0, "mps": 120.0}
NOTE = (
    "The subjects are random deformations of one template, the MNI152 T1. A Dice on them shows that the pipeline runs; "
    "it is no claim of accuracy."
)


@dataclass
class Demo:
    """Paths and timings of one demo folder."""

    folder: Path
    device: str = "auto"
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle_brain_mr_demo"

    @property
    def labels(self) -> Path:
        return self.folder / "labels"

    @property
    def evaluation(self) -> Path:
        return self.folder / "evaluation.json"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    @property
    def record(self) -> Path:
        return self.folder / "demo.json"

    def stage(self, title: str, done: Callable[[], bool], work: Callable[[], object]) -> None:
        """Run one stage unless it is done, and remember how long it took."""
        if done():
            log.info("== %s: done before, skipped", title)
            return
        log.info("== %s", title)
        started = time.monotonic()
        work()
        self.seconds[title] = round(time.monotonic() - started, 1)
        write_json(self.record, {"seconds": self.seconds})


def run_demo(folder: Path, *, device: str = "auto", force: bool = False) -> Path:
    """Make data, plan, fit, predict, evaluate, verify, report.

    Args:
        folder: everything is written here.
        device: see `medseg.devices.choose_device`.
        force: start from nothing.

    Returns:
        Path of report.html.

    Raises:
        BundleError: the bundle it made does not verify.
        DataError: the package nilearn, which brings the template, is not installed.
    """
    if force and (folder / "demo.json").is_file():
        shutil.rmtree(folder)
    demo = Demo(folder, device)
    kind = choose_device(device).type  # before anything is made
    folder.mkdir(parents=True, exist_ok=True)
    if demo.record.is_file():
        demo.seconds = dict(read_json(demo.record)["seconds"])
    template = template_path("t1")
    layout = Layout(demo.bundle)
    fitted = layout.run(0).result
    log.info("%s", NOTE)
    demo.stage("make the dataset", lambda: (demo.data / "dataset.json").is_file(), lambda: _make_data(demo))
    demo.stage("plan", layout.plan.is_file, lambda: plan_bundle(demo.data, demo.bundle, device=device))
    demo.stage(
        "fit",
        fitted.is_file,
        lambda: fit_bundle(
            demo.bundle, fold=0, resume=True, budget_s=BUDGET_S[kind], device=device, overrides={"steps_per_epoch": 10}
        ),
    )
    scans = sorted((demo.data / "test_images").glob("*.nii.gz"))
    options = PredictOptions(device=device)
    demo.stage(
        "predict the left-out subject",
        lambda: all((demo.labels / "left_out" / scan.name).is_file() for scan in scans),
        lambda: _predict(demo, scans, demo.labels / "left_out", options),
    )
    whole = demo.labels / "template"
    demo.stage(
        "predict the untouched MNI152 T1 at 1 mm",
        lambda: any(whole.glob("*.nii.gz")),
        lambda: _predict(demo, [template], whole, options),
    )
    demo.stage("evaluate", demo.evaluation.is_file, lambda: _evaluate(demo))
    demo.stage("verify the bundle", lambda: False, lambda: _verify(demo))
    _write_report(demo, template)
    log.info("report: %s", demo.report.absolute())
    return demo.report


def _make_data(demo: Demo) -> None:
    with progress_bar("subjects", 7, unit="subject") as advance:
        make_demo_dataset(demo.data, subjects=6, left_out=1, on_progress=lambda done, total: advance(done))


def _predict(demo: Demo, scans: list[Path], output: Path, options: PredictOptions) -> None:
    with progress_bar("predicting", len(scans), unit="scan") as advance:
        result = predict_bundle(
            demo.bundle,
            [str(scan) for scan in scans],
            output,
            options=options,
            finished=lambda case, done, total: advance(done),
        )
    if result.failed:
        raise BundleError(f"prediction failed: {result.failed[0].to_dict()}")


def _evaluate(demo: Demo) -> None:
    names = read_json(demo.data / "dataset.json")["labels"]
    labels = {int(value): name for value, name in _by_value(names).items()}
    evaluation = evaluate_folders(demo.labels / "left_out", demo.data / "test_labels", labels=labels)
    evaluation.to_json(demo.evaluation)


def _by_value(names: dict[str, Any]) -> dict[str, str]:
    """dataset.json may map value -> name or name -> value; give value -> name."""
    return {str(k): str(v) for k, v in names.items()} if "0" in names else {str(v): k for k, v in names.items()}


def _verify(demo: Demo) -> None:
    for check in verify_bundle(demo.bundle):
        if check.faults:
            raise BundleError(f"{demo.bundle}: {check.name}: {check.faults[0]}")
        log.info("   %s: ok", check.name)


def _scenes(demo: Demo, evaluation: Evaluation, template: Path) -> list[pages.Scene]:
    scenes = []
    for case in evaluation.cases:
        image = read_image(demo.data / "test_images" / f"{case.name}.nii.gz")
        prediction = read_label(demo.labels / "left_out" / f"{case.name}.nii.gz")
        reference = read_label(demo.data / "test_labels" / f"{case.name}.nii.gz")
        scenes.append(
            pages.Scene(f"{case.name}, left out", image.array[0], prediction.array, reference.array, image.affine, case)
        )
    whole, label = read_image(template), read_label(next((demo.labels / "template").glob("*.nii.gz")))
    title = f"MNI152 T1, {'x'.join(str(n) for n in label.array.shape)} voxels of 1 mm, no reference"
    scenes.append(pages.Scene(title, whole.array[0], label.array, None, whole.affine))
    return scenes


def _write_report(demo: Demo, template: Path) -> None:
    evaluation = read_evaluation(demo.evaluation)
    layout = Layout(demo.bundle)
    rows = read_json(layout.run(0).metrics)
    manifest = read_json(layout.run(0).manifest)
    plan = read_json(layout.plan)
    labels = {int(value): name for value, name in plan["labels"].items()}
    paths = {
        "dataset": demo.data,
        "bundle": demo.bundle,
        "weights": layout.weights,
        "label map of the left-out subject": demo.labels / "left_out",
        "label map of the MNI152 T1": demo.labels / "template",
        "scores": demo.evaluation,
        "MLflow record": layout.runs / "mlflow.db",
        "this report": demo.report,
    }
    facts = {
        "network": f"{plan['network']['preset']}, {plan['network']['size']}: {manifest['parameters'] / 1e6:.2f} million parameters",
        "device": manifest["device"],
        "precision": manifest["precision"],
        "training": f"{manifest['training_cases']} subjects, {manifest['max_epochs']} epochs of {manifest['steps_per_epoch']} steps",
        "left out": f"{len(evaluation.cases)} subject; mean Dice {np.nanmean(evaluation.values('dice')):.2f}",
    }
    sections = [
        pages.facts_section("What was done", facts),
        pages.overlays_section(_scenes(demo, evaluation, template), labels),
        pages.scores_section(evaluation, title="Dice of the left-out subject", metrics=("dice", "hd95_mm"), note=NOTE),
        pages.training_section(rows),
        pages.timings_section(demo.seconds),
        pages.paths_section({name: path.absolute() for name, path in paths.items()}),
    ]
    write_report(demo.report, "medseg demo", sections, subtitle=NOTE)
