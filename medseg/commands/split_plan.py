"""`medseg split plan`: a bundle whose network has an encoder per site and its decoder where the labels are."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medseg.bundle.write import write_bundle
from medseg.collaboration.cut import FINEST_DEFAULT, WIRES, Defence, bytes_each_way, sent_levels
from medseg.collaboration.patient_files import find_patients
from medseg.collaboration.sites import Site, check_names
from medseg.datasets import Dataset, open_dataset
from medseg.devices import choose_device
from medseg.errors import ConfigError, DataError, nearest
from medseg.io.atomic import write_json
from medseg.io.datalist import Case
from medseg.io.volume import read_label
from medseg.layout import Layout
from medseg.networks.site_encoders import level_channels
from medseg.planning.fingerprint import Fingerprint, measure
from medseg.planning.folds import make_splits
from medseg.planning.plan import Plan
from medseg.planning.planner import Request, make_plan

from .plan import DEFAULT_PRESET, DEFAULT_SIZE, bundle_name, preset_strides
from .plan_place import check_place, put_bundle

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WantedSplit:
    """Choices of a split plan.

    Args:
        preset, size: the encoders' and the decoder's; None for the default.
        finest: level from which the other sites send, 0 only by name; None for 2, or the coarsest where there are fewer.
        finest_of: site -> its own such level, also 0.
        folds: of the patients that all sites have.
        wire: number format of what crosses.
        defence: what each site does before anything leaves.
        cases: names of the patients; None for all that the sites share.
        allow_missing: zeros for a patient's missing modality.
        overwrite: set a bundle in the way aside.
        spacing: mm per voxel of the shared grid; None for that of the label site's images.
    """

    preset: str | None = None
    size: str | None = None
    finest: int | None = None
    finest_of: Mapping[str, int] = field(default_factory=dict)
    folds: int = 5
    wire: str = "float32"
    defence: Defence = field(default_factory=Defence)
    cases: Sequence[str] | None = None
    allow_missing: bool = False
    overwrite: bool = False
    spacing: Sequence[float] | None = None


def plan_split(
    data: Path, sites: Mapping[str, Sequence[str]], label_site: str, output: Path, wanted: WantedSplit
) -> Plan:
    """Plan a split training; the label site's geometry and labels decide grid, crops and classes.

    Args:
        data: folder of the patients; each site reads its own channels of it, on its machine from its own folder.
        sites: site -> names of the channels that it brings.
        label_site: the one with the labels.
        output: the bundle; the sites' copies lie below `runs/sites`.
        wanted: see `WantedSplit`.

    Raises:
        ConfigError: sites that make no sense; DataError: no common patient, a missing modality, no labels, faulty files.
    """
    _check_sites(sites, label_site, wanted)
    name = bundle_name(output)
    check_place(output, overwrite=wanted.overwrite)
    patients = {site: find_patients(data, channels, labels=site == label_site) for site, channels in sites.items()}
    cases = _common(patients, label_site, wanted)
    dataset = _dataset(data, sites, label_site, cases)
    plan = _make(name, dataset, sites, label_site, wanted)
    put_bundle(output, plan, None, keep_old=wanted.overwrite)
    _write_sites(Layout(output), plan, data, sites, label_site, wanted)
    return plan


def _check_sites(sites: Mapping[str, Sequence[str]], label_site: str, wanted: WantedSplit) -> None:
    check_names(list(sites))
    if len(sites) < 2:
        raise ConfigError(f"{len(sites)} site was named; a split training needs two or more, else use `medseg plan`")
    if label_site not in sites:
        raise ConfigError(f"--label-site {label_site!r} is none of the sites. {nearest(label_site, sites)}")
    owner: dict[str, str] = {}
    for site, channels in sites.items():
        for channel in channels:
            if channel.lower() in owner:
                raise ConfigError(
                    f"sites {owner[channel.lower()]!r} and {site!r} both claim {channel}; each channel belongs to one site"
                )
            owner[channel.lower()] = site
    if wanted.finest == 0:
        raise ConfigError(
            "level 0 is the full resolution, which shows most of an image; ask for it by name: --finest-of SITE=0"
        )
    unknown = [site for site in wanted.finest_of if site not in sites or site == label_site]
    if unknown:
        raise ConfigError(
            f"--finest-of names {unknown[0]!r}; expected one of {', '.join(s for s in sites if s != label_site)}"
        )
    if wanted.wire not in WIRES:
        raise ConfigError(f"--wire {wanted.wire!r} is unknown. {nearest(wanted.wire, WIRES)}")


def _common(patients: Mapping[str, Mapping[str, Case]], label_site: str, wanted: WantedSplit) -> list[Case]:
    """The label site's cases that all sites have. Raises DataError."""
    labelled = {name: case for name, case in patients[label_site].items() if case.label is not None}
    if not labelled:
        raise DataError(
            f"the label site {label_site!r} has no label map beside its images; add NAME_mask.nii.gz, or name another --label-site"
        )
    if wanted.cases is not None:
        absent = [name for name in wanted.cases if name not in labelled]
        if absent:
            raise DataError(f"the case list names {absent[0]!r}, of whom the label site {label_site!r} has no labels")
        labelled = {name: labelled[name] for name in wanted.cases}
    shared = set(labelled).intersection(*(set(found) for found in patients.values()))
    if not shared:
        raise DataError(
            f"the sites {', '.join(patients)} have no patient in common; patients are known by their folder's name"
        )
    gaps = [
        (name, site)
        for site, found in patients.items()
        for name in sorted(labelled)
        if name not in found or found[name].missing
    ]
    if gaps and not wanted.allow_missing:
        raise DataError(
            f"patient {gaps[0][0]!r} has no image at site {gaps[0][1]!r} ({len(gaps)} such gaps); leave such patients out with "
            "--cases, or plan with --allow-missing, which puts zeros there"
        )
    if gaps:
        log.warning("zeros stand for %d missing images, such as of %r at %r", len(gaps), *gaps[0])
    return [labelled[name] for name in sorted(labelled)]


def _dataset(data: Path, sites: Mapping[str, Sequence[str]], label_site: str, cases: list[Case]) -> Dataset:
    """The label site's images as a data set."""
    values = {0} | {int(value) for case in cases for value in np.unique(read_label(case.label).array)}  # type: ignore[arg-type]
    names = {value: "background" if value == 0 else f"label_{value}" for value in sorted(values)}
    try:
        names = open_dataset(data).labels
    except (DataError, OSError):
        log.info("the labels are named by their numbers")
    return Dataset(data.name, data, cases, [], names, dict(enumerate(sites[label_site])))


def _make(
    name: str, dataset: Dataset, sites: Mapping[str, Sequence[str]], label_site: str, wanted: WantedSplit
) -> Plan:
    fingerprint = _at_spacing(measure(dataset), wanted.spacing)
    preset, size = wanted.preset or DEFAULT_PRESET, wanted.size or DEFAULT_SIZE
    channels = dict(enumerate(channel for found in sites.values() for channel in found))
    own = [n for n, channel in channels.items() if channel in sites[label_site]]
    intensity = fingerprint.intensity
    spread = [intensity[own.index(n)] if n in own else intensity[0] for n in channels]
    fingerprint = dataclasses.replace(fingerprint, intensity=spread)
    whole = dataclasses.replace(dataset, channels=channels, cases=[Case(case.name, ()) for case in dataset.cases])
    plan = make_plan(
        whole,
        fingerprint,
        make_splits(dataset.cases, wanted.folds),
        Request(
            name=name,
            preset=preset,
            size=size,
            gpu=choose_device("auto").type == "cuda",
            spatial_dims=3,
            stages=1,
            chosen=[word for word in ("preset", "size") if getattr(wanted, word) is not None],
            preset_strides=preset_strides(preset, size, 3, whole),
        ),
    )
    if wanted.spacing is not None:
        plan.reasons["spacing"] = "asked for; the other sites' images may be finer than the label site's"
    for number in channels:
        if number not in own:
            plan.normalization[number] = {"kind": "zscore"}
    plan.reasons["normalization"] += (
        "; images away from the labels are z-scored, since their site knows no labelled voxel"
    )
    words = {key: value for key, value in plan.network.items() if key not in ("in_channels", "out_channels")}
    levels = len(level_channels(words))
    usual = min(FINEST_DEFAULT, levels - 1) if wanted.finest is None else wanted.finest
    first = {site: 0 if site == label_site else wanted.finest_of.get(site, usual) for site in sites}
    # the masks of dropped paths would have to be drawn by all sites alike; without them the split equals one network
    plan.network |= {
        "sites": {site: len(found) for site, found in sites.items()},
        "sent": {site: sent_levels(levels, first[site]) for site in sites},
        "drop_path": 0.0,
    }
    plan.optimization["gradient_clip"] = None
    plan.reasons["optimization"] += "; without clipping, whose norm would have to cross the sites"
    plan.missing_channels = "zero" if wanted.allow_missing else "error"
    plan.reasons["sites"] = _why(plan, sites, label_site, wanted)
    return plan


def _at_spacing(fingerprint: Fingerprint, spacing: Sequence[float] | None) -> Fingerprint:
    """The same patients on a grid that was asked for. Raises ConfigError."""
    if spacing is None:
        return fingerprint
    asked = [float(value) for value in spacing]
    if len(asked) != 3 or not all(0 < value < math.inf for value in asked):
        raise ConfigError(f"--spacing {asked}: expected three sizes in mm, along R, A and S")
    factors = [old / new for old, new in zip(fingerprint.median_spacing, asked, strict=True)]
    return dataclasses.replace(
        fingerprint, median_spacing=asked, smallest_spacing=asked, largest_spacing=asked, spacing_p10=asked,
        median_shape=[extent * factor for extent, factor in zip(fingerprint.median_shape, factors, strict=True)],
        largest_shape=[round(extent * factor) for extent, factor in zip(fingerprint.largest_shape, factors, strict=True)],
    )  # fmt: skip


def _why(plan: Plan, sites: Mapping[str, Sequence[str]], label_site: str, wanted: WantedSplit) -> str:
    sizes = step_bytes(plan.network, plan.roi_size, plan.batch_size, wanted.wire)
    sent = ", ".join(
        f"{site} sends levels {plan.network['sent'][site]}, {sizes[site] / 2**20:.2f} MiB a step each way"
        for site in sites
        if site != label_site
    )
    return (
        f"{sent} ({wanted.wire}); labels and decoder stay at {label_site}; shared beside features and gradients: names of patients, "
        f"shape and affine of {label_site}'s images, centres of crops, and losses"
    )


def step_bytes(network: Mapping[str, Any], roi_size: Sequence[int], batch_size: int, wire: str) -> dict[str, int]:
    """site -> bytes of features per step; as many of gradients come back.

    Args:
        network: its words in plan.json, or `network_def` of train.json.
        roi_size, batch_size: of a step.
        wire: number format.
    """
    known = ("_target_", "sites", "sent", "in_channels", "out_channels")
    words = {key: value for key, value in network.items() if key not in known}
    channels, steps = level_channels(words), _strides(words)
    return {
        site: bytes_each_way({level: channels[level] for level in levels}, steps, roi_size, batch_size, wire)
        for site, levels in network["sent"].items()
    }


def _strides(words: Mapping[str, Any]) -> list[tuple[int, ...]]:
    from medseg.networks.build import lay_out

    return lay_out(words).steps


def _write_sites(
    layout: Layout, plan: Plan, data: Path, sites: Mapping[str, Sequence[str]], label_site: str, wanted: WantedSplit
) -> None:
    """A copy of the bundle for each site, and what it may send."""
    defence = dataclasses.asdict(wanted.defence)
    for site, channels in sites.items():
        folder = layout.site(site).folder
        write_bundle(folder, dataclasses.replace(plan, applied={}))
        role = "labels" if site == label_site else "images"
        settings = {"levels": plan.network["sent"][site], "defence": defence} if role == "images" else {}
        Site(site, role, str(data.absolute()), tuple(channels), settings).write(folder)
    record = {
        "kind": "split", "label_site": label_site, "sites": {site: list(found) for site, found in sites.items()},
        "wire": wanted.wire, "allow_missing": wanted.allow_missing,
        "bytes_each_way": step_bytes(plan.network, plan.roi_size, plan.batch_size, wanted.wire),
    }  # fmt: skip
    write_json(layout.collaboration, record)
