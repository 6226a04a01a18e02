"""Write what cross-validation chose into a bundle: weights to average, post-processing, scores, the report."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medseg.assurance.trust_section import trust_section
from medseg.bundle.card import plain, with_figures
from medseg.bundle.load import Bundle
from medseg.bundle.together import write_together
from medseg.config import read_json
from medseg.evaluation.report.page import Section, write_report
from medseg.evaluation.report.sections import (
    Scene,
    agreement_section,
    cases_section,
    overlays_section,
    practice_section,
    scores_section,
    showcase,
    training_section,
)
from medseg.io.atomic import atomic_path
from medseg.io.locks import alone_in
from medseg.io.volume import read_image, read_label
from medseg.layout import Layout
from medseg.planning.plan import Plan
from medseg.selection.averaging import configs_of, write_average
from medseg.selection.unfinished import make_ready, staged
from medseg.transforms.postprocessing import Postprocessing, describe

from .cv import CrossValidation, practice_card, validation_cases
from .cv_tables import candidates, comparisons, tried
from .cv_trust import learn_trust

STEP = "medseg.components.PostprocessLabeld"


def record_choice(result: CrossValidation, *, report: bool = False) -> Layout:
    """Write the choice into `result.bundle`, and its report where that is wanted; returns its layout.

    `plan.json` and `inference.json` get the post-processing; `inference.json` lists the weights that are averaged (those
    of another bundle are copied in), `models/model.pt` holds them as one network; `metadata.json` gets the scores;
    `docs/cross_validation.json` all of it, `configs/trust.json` what new cases are judged by, the model card the figures,
    `docs/cross_validation.html` the report. A kill at any moment leaves the old choice or the new one.
    """
    layout = result.bundle.layout
    with alone_in(layout.files_lock):
        make_ready(layout)
        models, networks, copied = _collect_weights(result)
        places = [layout.folder / name for name in models]
        with atomic_path(staged(layout.weights)) as temporary:
            write_average([staged(path) if path in copied else path for path in places], temporary)
        copied.append(layout.weights)
        if report:
            write_cv_report(result, staged(layout.cross_validation_report))
            copied.append(layout.cross_validation_report)
        write_together(layout, _new_files(result, models, networks), copied)
    return layout


def _new_files(result: CrossValidation, models: list[str], networks: dict[str, Any]) -> dict[Path, Any]:
    """Path -> new content of every file but weights and the report."""
    layout, files = result.bundle.layout, dict[Path, Any]()
    for path, config in configs_of(layout, models, networks).items():
        files[path] = _with_steps(config, result.selection.steps)
    plan = Plan.read(layout.plan)
    plan.inference["postprocessing"] = result.selection.steps
    plan.reasons["inference"] = _reason(result)
    files[layout.plan] = plan.to_dict()
    means = {label: row["dice"].mean for label, row in result.final.summary().items() if row["dice"].count}
    files[layout.metadata] = {**read_json(layout.metadata), "eval_metrics": mean_metrics(means)}
    files[layout.cross_validation_record] = _without_nan(result.as_dict())
    files[layout.trust] = learn_trust(result, [staged(layout.weights)]).as_dict()
    if layout.readme.is_file():
        files[layout.readme] = with_figures(layout.readme.read_text(encoding="utf-8"), *_figures(result))
    return files


def mean_metrics(means: Mapping[str, float]) -> dict[str, float]:
    """Entries of metadata.json's `eval_metrics`, one per label: "left kidney" and "left_kidney" do not share one.

    Example:
        >>> mean_metrics({"left kidney": 0.91234})
        {'mean_dice_left_kidney': 0.9123}
    """
    plain = {label: label.replace(" ", "_") for label in means}
    shared = Counter(plain.values())
    return {
        f"mean_dice_{plain[label] if shared[plain[label]] == 1 else label}": round(value, 4)
        for label, value in means.items()
    }


def write_cv_report(result: CrossValidation, path: Path, *, shown: int = 5) -> Path:
    """One HTML file: the comparison, the chosen candidate's scores and cases, training curves, the practice card."""
    bundle = result.bundle
    scores = scores_section(
        result.final,
        title=f"Chosen: {result.chosen}",
        note="Every case is scored with the network that did not train on it"
        + (", after post-processing." if result.selection.steps else "."),
    )
    sections = [
        overlays_section(_scenes(result, shown), bundle.labels, title="Worst, median and best case"),
        cases_section(result.final, pictured={case.name for _, case in showcase(result.final, shown)}),
        scores,
        agreement_section(result.final),
        trust_section(learn_trust(result)),
        _candidates(result),
        _tried(result),
        *(_curves(bundle, fold) for fold in result.folds[result.chosen]),
        practice_section(practice_card(result)),
    ]
    subtitle = f"{len(result.final.cases)} cases, {len(result.folds[result.chosen])} folds"
    return write_report(path, f"Cross-validation of {', '.join(result.evaluations)}", sections, subtitle=subtitle)


def _figures(result: CrossValidation) -> tuple[dict[str, dict[str, Any]], str]:
    """Per label what the model card's table shows, and on which cases it was found."""
    rows = {}
    for label, row in result.final.summary().items():
        dice = row["dice"]
        rows[label] = {"mean": dice.mean, "low": dice.low, "high": dice.high, "cases": dice.count}
    count, folds = len(result.final.cases), ", ".join(map(str, result.folds[result.chosen]))
    steps = "after" if result.selection.steps else "without"
    note = (
        f"Cross-validation of {plain(result.chosen)}, {'folds' if ',' in folds else 'fold'} {folds}: Dice on the scans' own "
        f"grids, {steps} post-processing, over {count} cases, each segmented by networks that did not train on it."
    )
    return rows, note


def _collect_weights(result: CrossValidation) -> tuple[list[str], dict[str, Any], list[Path]]:
    """Weight files to average, relative to the bundle, the configuration of each that is another network, and the copies."""
    home, *others = result.members[result.chosen]
    folds = result.folds[result.chosen]
    models = [f"models/fold_{fold}/model.pt" for fold in folds]
    networks: dict[str, Any] = {}
    copied = []
    for other in others:
        for fold in folds:
            name = f"models/{other.name}/fold_{fold}/model.pt"
            copied.append(home.folder / name)
            with atomic_path(staged(copied[-1])) as temporary:
                shutil.copyfile(other.layout.fold_weights(fold), temporary)
            models.append(name)
            networks[name] = other.own_network_def
    return models, networks, copied


def _with_steps(config: dict[str, Any], steps: list[dict[str, Any]]) -> dict[str, Any]:
    """inference.json or evaluate.json with the chosen post-processing, in the place of what was chosen before."""
    transforms = config["postprocessing"]["transforms"]
    kept = [entry for entry in transforms if entry.get("_target_") != STEP]
    if steps:
        place = 1 + next(i for i, entry in enumerate(kept) if str(entry.get("_target_", "")).endswith("RestoreLabeld"))
        kept.insert(place, {"_target_": STEP, "keys": "pred", "steps": steps})
    config["postprocessing"]["transforms"] = kept
    return config


def _reason(result: CrossValidation) -> str:
    steps = "; ".join(f"{describe(step)} for {step['labels']}" for step in result.selection.steps)
    return (
        f"cross-validation of {', '.join(result.evaluations)} on {len(result.final.cases)} cases chose {result.chosen}; "
        + (f"post-processing that improved it: {steps}" if steps else "no post-processing improved it")
    )


def _candidates(result: CrossValidation) -> Section:
    section = Section("Candidates").table(*candidates(result))
    for name, reason in result.left_out.items():
        section.text(f"{name} was not tried as an ensemble: {reason}.", quiet=True)
    return section.table(*comparisons(result)) if result.comparisons else section


def _tried(result: CrossValidation) -> Section:
    section = Section("Post-processing tried").table(*tried(result))
    return section.text(
        "In each round a label keeps the step that gains it most, of those whose interval lies above 0.", quiet=True
    )


def _scenes(result: CrossValidation, count: int) -> Iterator[Scene]:
    bundle = result.bundle
    cases = validation_cases(bundle, result.folds[result.chosen])
    images = {case.name: case.images for entries in cases.values() for case in entries}
    change = Postprocessing(result.selection.steps)
    for role, case in showcase(result.final, count):
        assert case.prediction is not None
        assert case.reference is not None
        image, prediction, reference = (
            read_image(images[case.name]),
            read_label(case.prediction),
            read_label(case.reference),
        )
        label = change(prediction.array, prediction.affine)
        yield Scene(case.name, image.array[0], label, reference.array, image.affine, case, role=role)


def _curves(bundle: Bundle, fold: int) -> Section | None:
    try:
        rows = read_json(bundle.layout.run(fold).metrics)
        return training_section(rows, title=f"Training of fold {fold}")
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a bundle that was trained elsewhere has no runs/


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and value != value else value
