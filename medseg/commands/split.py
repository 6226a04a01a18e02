"""`medseg split run`, `predict`, `join`, `export`: the sites of a split bundle on this machine, or a job for others."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from medseg.bundle.catalogue import find_bundle
from medseg.bundle.made_here import stays_ours
from medseg.collaboration.exchange import begin, train
from medseg.collaboration.half import read_half, trained_cases
from medseg.collaboration.jobs import export, need_nvflare, run_apart, split_recipe
from medseg.collaboration.opening import SplitJob, open_image_site, open_label_site
from medseg.collaboration.sites import check_definition, check_overrides, definition_digest, read_site
from medseg.collaboration.split_settings import read_settings
from medseg.config import read_json
from medseg.errors import BundleError, ConfigError
from medseg.io.atomic import write_json
from medseg.layout import Layout, SiteFolder
from medseg.planning.folds import read_splits
from medseg.selection.averaging import average_finished
from medseg.training.checkpoint_io import write_weights


def split_record(bundle: str | Path) -> tuple[Layout, dict[str, Any]]:
    """Layout and `collaboration.json` of a split bundle. Raises BundleError for another."""
    layout = Layout(find_bundle(bundle))
    record = read_json(layout.collaboration) if layout.collaboration.is_file() else {}
    if record.get("kind") != "split":
        raise BundleError(f"{bundle} was not planned for split training; write such a bundle with `medseg split plan`")
    return layout, record


def split_job(
    bundle: str | Path, overrides: Mapping[str, Any], fold: int, timeout_s: float = 600.0
) -> tuple[Layout, SplitJob]:
    """What the sites of a bundle are told to train a fold.

    Raises:
        BundleError: no split bundle; ConfigError: no such fold.
    """
    layout, record = split_record(bundle)
    splits = read_splits(layout.folder)
    if not 0 <= fold < len(splits):
        raise ConfigError(f"fold {fold} was asked for; {bundle} has the folds 0 to {len(splits) - 1}")
    check_overrides(overrides)
    read_settings(layout.folder, record["label_site"], overrides)
    others = tuple(site for site in record["sites"] if site != record["label_site"])
    job = SplitJob(
        definition_digest(layout.folder), record["label_site"], others, tuple(splits[fold]["train"]), overrides=dict(overrides),
        wire=record["wire"], timeout_s=timeout_s, allow_missing=bool(record["allow_missing"]),
    )  # fmt: skip
    return layout, job


def unseen_fold(bundle: str | Path, fold: int | None) -> int:
    """The fold whose validation patients the halves have not learnt from: that of the training where None is asked for.

    Raises:
        ConfigError: the halves learnt from another fold's training patients.
    """
    layout, record = split_record(bundle)
    learnt = trained_cases(layout.site(record["label_site"]).folder)
    found = [number for number, each in enumerate(read_splits(layout.folder)) if sorted(each["train"]) == learnt]
    if fold is None or not found:
        return fold or (found[0] if found else 0)
    if fold not in found:
        raise ConfigError(
            f"--fold is {fold}, the halves were trained with fold {found[0]}: they know patients of that validation. Leave --fold "
            "out, or name patients with --cases"
        )
    return fold


def _folders(layout: Layout, job: SplitJob) -> dict[str, Path]:
    return {name: layout.site(name).folder for name in (job.label_site, *job.image_sites)}


def _run(layout: Layout, job: SplitJob, *, poc: bool, here: bool) -> None:
    """All sites of this machine: in this process with `here`, else in NVFlare's simulator or POC."""
    folders = _folders(layout, job)
    if not here:
        need_nvflare()
        facts = {
            "split": dataclasses.asdict(job), "name": layout.folder.resolve().name,
            "environment": "poc" if poc else "simulator", "workspace": str((layout.runs / "nvflare").resolve()),
        }  # fmt: skip
        run_apart(facts, folders, layout.runs / "nvflare.log")
        return
    label = open_label_site(folders[job.label_site], job)
    others = {name: open_image_site(folders[name], job) for name in job.image_sites}
    if job.purpose == "predict":
        from medseg.collaboration.across import predict_across

        made = SiteFolder(folders[job.label_site]).predictions
        predict_across(label, others, job.cases, made, allow_missing=job.allow_missing)
        return
    first = begin(label, others, job.cases, allow_missing=job.allow_missing)
    write_json(layout.site(job.label_site).losses, train(label, others, first))


def run_split(
    bundle: str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    fold: int = 0,
    poc: bool = False,
    here: bool = False,
    timeout_s: float = 600.0,
    keep_every: int = 1,
    overwrite: bool = False,
) -> list[float]:
    """Train with every site on this machine; goes on from the last step whose state all sites kept. Returns all losses.

    With `overwrite`, another training that the sites hold is forgotten; without, it is refused.

    Raises:
        ConfigError, BundleError, DataError, ResourceError: the site that failed and its cause are named.
    """
    layout, job = split_job(bundle, overrides or {}, fold, timeout_s)
    _run(layout, dataclasses.replace(job, keep_every=keep_every, overwrite=overwrite), poc=poc, here=here)
    return [float(loss) for loss in read_json(layout.site(job.label_site).losses)]


def predict_split(
    bundle: str | Path,
    output: Path,
    cases: Sequence[str] | None = None,
    *,
    fold: int | None = None,
    poc: bool = False,
    here: bool = False,
) -> list[Path]:
    """Label maps of patients, predicted across the sites without joining; of the trained fold's validation patients by default."""
    fold = (fold or 0) if cases else unseen_fold(bundle, fold)
    layout, job = split_job(bundle, {}, fold)
    for folder in _folders(layout, job).values():
        read_half(folder)
    names = tuple(cases or read_splits(layout.folder)[fold]["val"])
    job = dataclasses.replace(job, purpose="predict", cases=names)
    _run(layout, job, poc=poc, here=here)
    output.mkdir(parents=True, exist_ok=True)
    made = SiteFolder(_folders(layout, job)[job.label_site]).predictions
    return [Path(shutil.copy(made / f"{name}.nii.gz", output / f"{name}.nii.gz")) for name in names]


def join_split(bundle: str | Path, halves: Path | None = None) -> Path:
    """Make one whole bundle of the sites' halves, which discloses the encoders to whoever has it.

    Args:
        bundle: the split bundle.
        halves: folder with a folder per site; the bundle's own `runs/sites` by default.

    Raises:
        BundleError: a half is missing, of another version, or learnt another number of steps.
    """
    layout, record = split_record(bundle)
    state: dict[str, torch.Tensor] = {}
    learnt: dict[str, int] = {}
    digest = definition_digest(layout.folder)
    for site in record["sites"]:
        folder = (halves or layout.sites) / site
        check_definition(folder, digest, read_site(folder).name)
        part, learnt[site] = read_half(folder)
        state |= part
    if len(set(learnt.values())) > 1:
        told = ", ".join(f"{site} {steps}" for site, steps in learnt.items())
        raise BundleError(f"the halves learnt different numbers of steps ({told}); run the training to its end")
    read_settings(layout.folder, record["label_site"]).network().load_state_dict(state)
    with stays_ours(layout.folder):
        write_weights(state, layout.fold_weights(0))
        layout.run_folder(0).mkdir(parents=True, exist_ok=True)
        write_json(layout.run(0).result, {"steps": next(iter(learnt.values())), "sites": list(record["sites"])})
        average_finished(layout)
    return layout.weights


def export_split(
    bundle: str | Path, output: Path, overrides: Mapping[str, Any] | None = None, *, fold: int = 0
) -> Path:
    """Write the NVFlare job for provisioned sites; the label site runs the server."""
    need_nvflare()
    layout, job = split_job(bundle, overrides or {}, fold)
    name = layout.folder.resolve().name
    return export(lambda: split_recipe(name, job), output)
