"""Turn a trained run into a bundle that the project ships: clean plan, metadata, model card, licence, and checks.

    medseg plan --data Task04_Hippocampus --output RUN --preset fastervit
    medseg fit RUN --fold 0 --budget 12m
    medseg predict RUN --input VALIDATION_IMAGES --output labels
    medseg evaluate --prediction labels --reference Task04_Hippocampus/labelsTr --cases predicted --labels RUN --output eval
    python -m benchmarks.ship_bundle RUN hippocampus_mr_fastervit --evaluation eval/evaluation.json --data hippocampus

Figures come from evaluation.json and the run's own records, never from the command line. The bundle is written beside
its final place and gets its name only when every check has passed. Shipping the same name again keeps the changelog.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.bundle.card import model_card
from medseg.bundle.checks.verify import verify_bundle
from medseg.bundle.configs.inference import evaluate_config, inference_config
from medseg.bundle.configs.train import train_config
from medseg.bundle.write import write_bundle
from medseg.datasets import demo
from medseg.errors import BundleError, MedsegError
from medseg.evaluation import Evaluation, read_evaluation
from medseg.io.atomic import write_json, write_text
from medseg.layout import Layout
from medseg.planning.plan import Plan

LARGEST_WEIGHTS = 12_000_000  # bytes; git keeps every version for ever
BUNDLES = Path(__file__).resolve().parents[1] / "bundles"
PATHS = re.compile(r"(?<![\w/:])/(?:home|root|tmp|mnt|work|data|Users|opt|srv)/")


@dataclass(frozen=True)
class Source:
    """What a reader must know of the training data, and the terms under which weights made from it are given away."""

    folder: str
    reference: str
    licence: str
    copyright: str
    weights_licence: str
    limits: str


SOURCES = {
    "hippocampus": Source(
        folder="data/Task04_Hippocampus",
        reference=(
            "Medical Segmentation Decathlon, Task04 Hippocampus (Vanderbilt University Medical Center; "
            "Antonelli et al. 2022, Simpson et al. 2019)"
        ),
        licence="CC-BY-SA 4.0",
        copyright=("weights CC BY-SA 4.0 (derived from the Medical Segmentation Decathlon); configuration Apache-2.0"),
        weights_licence=(
            "Creative Commons Attribution-ShareAlike 4.0 International (CC BY-SA 4.0),\n"
            "https://creativecommons.org/licenses/by-sa/4.0/; attribution: derived from the Medical Segmentation "
            "Decathlon, Task04 Hippocampus"
        ),
        limits=(
            "The border between anterior and posterior is a convention of the raters and the main source of error. "
            "Input must be a crop around one hippocampus, as in the training data: whole-head scans were never seen."
        ),
    ),
    "demo": Source(
        folder="data/brain_mr_demo",
        reference=demo.REFERENCE,
        licence=demo.LICENCE,
        copyright="weights: see LICENSE (derived from the ICBM 152 2009a template); configuration Apache-2.0",
        weights_licence=demo.LICENCE,
        limits=(
            "It has seen one single brain, the ICBM 152 template, under random deformations: it shows that the "
            "pipeline runs and is of no use on patients. The reference is the largest of three tissue maps; thin "
            "CSF is what it gets wrong most."
        ),
    ),
}


@dataclass(frozen=True)
class Run:
    """A trained fold: its plan, and the records that `medseg fit` left beside the weights."""

    layout: Layout
    fold: int
    plan: Plan
    manifest: dict[str, Any]
    result: dict[str, Any]

    @property
    def training_cases(self) -> set[str]:
        return set(self.plan.splits[self.fold]["train"])


def read_run(folder: Path, fold: int) -> Run:
    """Read a finished fold.

    Raises:
        BundleError: it is not finished, or its configuration no longer is what its plan says.
    """
    layout = Layout(folder)
    records: list[dict[str, Any]] = []
    for name in ("manifest.json", "result.json"):
        path = layout.run_folder(fold) / name
        if not path.is_file():
            raise BundleError(f"{path} is missing: fold {fold} is not finished; run `medseg fit` to its end first")
        records.append(json.loads(path.read_text(encoding="utf-8")))
    plan = Plan.read(layout.plan)
    made = {layout.train: train_config, layout.inference: inference_config, layout.evaluate: evaluate_config}
    for path, make in made.items():
        key = first_change(json.loads(path.read_text(encoding="utf-8")), json.loads(json.dumps(make(plan))))
        if key is not None:
            raise BundleError(
                f"{path}: {key} differs from what plan.json gives; put the change into plan.json and write again"
            )
    return Run(layout, fold, plan, records[0], records[1])


def first_change(found: Any, written: Any, key: str = "") -> str | None:
    """The first key of a run's configuration whose value its plan does not give; keys newer than the run do not count."""
    if not (isinstance(found, dict) and isinstance(written, dict)):
        return None if found == written else key
    for name, value in found.items():
        if name not in written:
            return f"{key}::{name}" if key else str(name)
        changed = first_change(value, written[name], f"{key}::{name}" if key else name)
        if changed is not None:
            return changed
    return None


def figures(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """Rows of the model card: per label and for the mean over labels Dice, its interval and the number of cases."""
    rows = {}
    for label, metrics in evaluation.summary().items():
        dice = metrics["dice"].as_dict()
        row = {"mean": dice["mean"], "cases": dice["count"]}
        if dice["count"] > 1:
            row |= {"low": dice["low"], "high": dice["high"]}
        rows["mean over labels" if label.lower() == "mean" else label] = row
    return rows


def scored_on(run: Run, evaluation: Evaluation) -> str:
    """The sentence that says on which cases the figures stand.

    Raises:
        BundleError: a scored case was trained on, a case failed, or only a part of the fold was scored.
    """
    names = {case.name for case in evaluation.cases}
    if evaluation.failed or not names:
        raise BundleError(f"evaluation: {len(evaluation.failed)} cases failed, {len(names)} were scored")
    leaked = sorted(names & run.training_cases)
    if leaked:
        raise BundleError(f"evaluation: {leaked[0]} and {len(leaked) - 1} more were trained on in fold {run.fold}")
    val = set(run.plan.splits[run.fold]["val"])
    how = "on the scans' own grid, by `medseg predict` and `medseg evaluate`; intervals by Student's t over cases."
    if names == val:
        folds = len(run.plan.splits)
        return f"Dice on fold {run.fold}'s {len(names)} validation cases (one fold of {folds}, the others not trained), {how}"
    if names & val:
        raise BundleError(
            f"evaluation: scores {len(names & val)} of fold {run.fold}'s {len(val)} validation cases; give all"
        )
    return f"Dice on {len(names)} cases left out of every fold, {how}"


def how_trained(run: Run) -> str:
    """The paragraph "Training" of the card, from the records."""
    facts, settings = run.manifest, run.plan.optimization
    epochs, steps = facts["max_epochs"], facts["steps_per_epoch"]
    others = len(run.plan.splits) - 1
    return (
        f"Fold {run.fold} alone: {facts['training_cases']} cases, {run.result['steps']} steps of {facts['batch_size']} crops "
        f"({epochs} epochs of {steps}), {settings['optimizer']}, {run.result['seconds'] / 60:.1f} minutes on "
        f"{facts['device']} ({facts['cpu_cores']} cores in the machine), precision {facts['precision']}, "
        f"{facts['parameters'] / 1e6:.2f} M parameters, exponential average of the weights, last weights (no choice on the "
        f"validation cases), medseg {facts['medseg']} at {facts['commit']}, torch {facts['packages']['torch']}, "
        f"{facts['date'][:10]}. The other {others} folds were not trained."
    )


def worst_cases(evaluation: Evaluation, limits: str) -> str:
    """The paragraph "Known failures": the three worst cases by name, and what is known of the data."""
    label = None if len(evaluation.regions) > 1 else next(iter(evaluation.regions))
    worst = evaluation.worst(3, label=label)
    values = dict(zip([case.name for case in evaluation.cases], evaluation.values("dice", label), strict=True))
    listed = ", ".join(f"{values[case.name]:.3f} ({case.name})" for case in worst)
    return f"Of the scored cases the lowest mean Dice values were {listed}. {limits}"


def license_of(plan: Plan, source: Source) -> str:
    return (
        f"Bundle {plan.name}\n\n"
        "Configuration files: Apache License, Version 2.0, https://www.apache.org/licenses/LICENSE-2.0\n"
        f"Weights under models/: {source.weights_licence}\n"
        f"Training data (not part of this bundle): {source.reference.rstrip('.')}; licence: {source.licence}\n"
    )


def write_shipped(target: Path, run: Run, evaluation: Evaluation, source: Source, version: str, change: str) -> Layout:
    """Write the whole bundle into `target`, whose name becomes the bundle's."""
    plan = Plan.read(run.layout.plan)
    plan.name, plan.data_folder = target.name, source.folder
    plan.reference, plan.licence = source.reference, source.licence
    note = scored_on(run, evaluation)
    rows = figures(evaluation)
    layout = write_bundle(target, plan)
    earlier = Layout(BUNDLES / target.name).metadata
    changelog = json.loads(earlier.read_text(encoding="utf-8"))["changelog"] if earlier.is_file() else {}
    metadata = json.loads(layout.metadata.read_text(encoding="utf-8"))
    metadata |= {
        "version": version,
        "changelog": {**changelog, version: change},
        "authors": "the medseg developers",
        "copyright": source.copyright,
        "eval_metrics": {
            f"dice_fold{run.fold}_{label.replace(' ', '_')}": round(row["mean"], 4) for label, row in rows.items()
        },
    }
    write_json(layout.metadata, metadata)
    write_text(layout.license, license_of(plan, source))
    failures = worst_cases(evaluation, source.limits)
    write_text(layout.readme, model_card(plan, metrics=rows, trained=how_trained(run), failures=failures, note=note))
    shutil.copyfile(run.layout.fold_weights(run.fold), layout.weights)
    return layout


def check_shippable(layout: Layout) -> None:
    """Everything that a bundle of this project must hold to.

    Raises:
        BundleError: the first thing that is wrong.
    """
    size = layout.weights.stat().st_size
    if size > LARGEST_WEIGHTS:
        raise BundleError(f"{layout.weights}: {size / 1e6:.1f} MB; at most {LARGEST_WEIGHTS / 1e6:.0f} MB are shipped")
    for path in sorted(layout.folder.rglob("*")):
        if path.is_file() and path != layout.weights and PATHS.search(path.read_text(encoding="utf-8")):
            raise BundleError(f"{path.relative_to(layout.folder)}: holds a path of this machine")
    for check in verify_bundle(layout.folder):
        if check.faults:
            raise BundleError(f"{check.name}: {check.faults[0]}")


def ship(
    run: Path, name: str, evaluation: Path, data: str, *, fold: int = 0, version: str = "0.1.0", change: str = ""
) -> Path:
    """Make bundles/NAME from a trained run; an earlier one of that name is replaced.

    Raises:
        BundleError: a record is missing or something does not fit; nothing is changed then.
    """
    scores = read_evaluation(evaluation)
    with tempfile.TemporaryDirectory() as place:
        text = change or f"first weights, fold {fold}"
        layout = write_shipped(Path(place) / name, read_run(run, fold), scores, SOURCES[data], version, text)
        check_shippable(layout)
        target = BUNDLES / name
        if target.exists():
            shutil.rmtree(target)
        shutil.copytree(layout.folder, target)
    return target


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Turn a trained run into a shipped bundle.")
    parser.add_argument("run", type=Path, metavar="RUN", help="a bundle that `medseg fit` has trained")
    parser.add_argument("name", metavar="NAME", help="name of the shipped bundle, such as hippocampus_mr_fastervit")
    parser.add_argument(
        "--evaluation", type=Path, required=True, metavar="FILE", help="evaluation.json on unseen cases"
    )
    parser.add_argument("--data", choices=sorted(SOURCES), required=True, help="which data it was trained on")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--version", default="0.1.0")
    parser.add_argument("--change", default="", metavar="TEXT", help="what the changelog says of this version")
    given = parser.parse_args(words)
    try:
        target = ship(
            given.run,
            given.name,
            given.evaluation,
            given.data,
            fold=given.fold,
            version=given.version,
            change=given.change,
        )
    except MedsegError as error:
        print(f"ship_bundle: {error}", file=sys.stderr)
        return 1
    print(f"bundles/{target.name}: {Layout(target).weights.stat().st_size / 1e6:.1f} MB of weights")
    return 0


if __name__ == "__main__":
    sys.exit(main())
