"""`medseg split leakage`: attack every site's features on this machine and report what could be rebuilt, beside the Dice."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np

from medseg.collaboration.leakage import HEADER, Attack, Leak, attack_site
from medseg.collaboration.opening import open_image_site, open_label_site
from medseg.errors import DataError
from medseg.evaluation.overlap import dice, joint_histogram, label_counts
from medseg.evaluation.report.page import Section, write_report
from medseg.evaluation.statistics import mean_interval
from medseg.io.atomic import write_json
from medseg.io.volume import read_label
from medseg.planning.folds import read_splits

from .split import predict_split, split_job, unseen_fold

MEANING = (
    "A network was trained to rebuild images from features, on the patients that trained the bundle, and tried on patients that "
    "nobody had trained with. SSIM is given above that of the constant mean image, since that alone scores high on some images. "
    "Another attacker may do better: these figures are what one attack got, no bound and no promise."
)


def measure_leakage(bundle: str | Path, attack: Attack, output: Path, *, fold: int | None = None) -> list[Leak]:
    """Attack each level of each site without labels; needs all halves on this machine. Writes the page and its figures.

    Args:
        bundle: a trained split bundle.
        attack: how hard is tried.
        output: the HTML page; a JSON file of the same name lies beside it.
        fold: whose training patients the attacker knows; its validation patients are to be rebuilt. That of the training if None.

    Raises:
        BundleError: a half is missing; ConfigError: the halves learnt another fold; DataError: the fold has no unseen patient.
    """
    fold = unseen_fold(bundle, fold)
    layout, job = split_job(bundle, {}, fold)
    splits = read_splits(layout.folder)[fold]
    if not splits["val"]:
        raise DataError(f"fold {fold} of {bundle} has no unseen patient to rebuild")
    label = open_label_site(layout.site(job.label_site).folder, job)
    references = label.references([*splits["train"], *splits["val"]])
    leaks: list[Leak] = []
    promises = []
    for name in job.image_sites:
        party = open_image_site(layout.site(name).folder, job)
        party.load()
        party.geometry(references, job.allow_missing)
        leaks += attack_site(party, splits["train"], splits["val"], attack)
        # one item per crop of every step; predictions and this attack release more
        promises.append(f"{name}: {party.defence.words(party.settings.steps * party.settings.batch_size)}")
    _write(leaks, mean_dice(bundle, splits["val"], fold), attack, output, promises)
    return leaks


def mean_dice(bundle: str | Path, names: Sequence[str], fold: int) -> dict[str, float]:
    """patient -> mean Dice over the labels that either map holds, predicted across the sites with their defences on."""
    layout, job = split_job(bundle, {}, fold)
    label = open_label_site(layout.site(job.label_site).folder, job)
    scores = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, path in zip(names, predict_split(bundle, Path(folder), names, fold=fold, here=True), strict=True):
            source = label.cases[name].label
            assert source is not None
            scores[name] = map_dice(path, source)
    return scores


def map_dice(found: Path, wanted: Path) -> float:
    """Mean Dice over the labels that either map holds; NaN where there is none."""
    predicted, reference = read_label(found).array, read_label(wanted).array
    values = [0, *sorted({int(value) for each in (predicted, reference) for value in np.unique(each)} - {0})]
    counts = joint_histogram(reference, predicted, values)
    each = [dice(label_counts(counts, [place])) for place in range(1, len(values))]
    return float(np.mean(each)) if each else float("nan")


def _write(
    leaks: Sequence[Leak], scored: dict[str, float], attack: Attack, output: Path, promises: Sequence[str]
) -> None:
    told = (
        f"{attack.steps} steps, {attack.seeds} seeds, {attack.crops} crops a patient, {attack.repeats} repeated queries"
    )
    table = (
        Section("What could be rebuilt")
        .text(MEANING)
        .table(HEADER, [leak.row() for leak in leaks])
        .text(told, quiet=True)
        .text(f"Done at the sites before anything left, in training: {'; '.join(promises)}.", quiet=True)
    )
    mean = mean_interval(list(scored.values()), bounds=(0.0, 1.0))
    known = f" (95 % interval {mean.low:.3f} to {mean.high:.3f})" if mean.count > 1 else ", too few for an interval"
    scores = Section("Dice of unseen patients").text(
        f"Predicted across the sites, with their defences on: {mean.mean:.3f} in {mean.count} patients{known}."
    )
    scores.table(["patient", "mean Dice"], [[f"patient {n}", value] for n, value in enumerate(scored.values(), 1)])
    pictures = Section("Rebuilt beside the original")
    for leak in leaks:
        caption = f"{leak.site}, level {leak.level}, defence: {leak.defence}; original left, rebuilt right"
        pictures.figure(picture(leak.original, leak.rebuilt), caption)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_report(output, "Leakage of split training", [table, scores, pictures])
    rows: list[dict[str, Any]] = [
        {key: value for key, value in dataclasses.asdict(leak).items() if key not in ("original", "rebuilt")}
        for leak in leaks
    ]
    facts = {
        "attack": dataclasses.asdict(attack), "rows": rows, "dice": [_plain(value) for value in scored.values()],
        "mean_dice": {key: _plain(value) for key, value in mean.as_dict().items()},
    }  # fmt: skip
    write_json(output.with_suffix(".json"), facts)


def _plain(value: float) -> float | None:
    """None where it is not defined, as JSON says it."""
    return value if math.isfinite(value) else None


def picture(left: Any, right: Any) -> str:
    """Two slices side by side on the grey scale of the first, as a `data:` address."""
    low, high = float(left.min()), float(left.max())
    both = np.concatenate([left.T, np.full((left.shape[1], 2), low), right.T], axis=1)
    grey = np.clip((both - low) / max(high - low, 1e-6), 0, 1).repeat(4, axis=0).repeat(4, axis=1)
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, grey, cmap="gray", vmin=0, vmax=1, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
