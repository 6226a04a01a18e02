"""`medseg federate`: one plan for sites with the same kind of image and different patients, and their averaged training."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.bundle.catalogue import find_bundle
from medseg.bundle.made_here import stays_ours
from medseg.bundle.write import write_bundle
from medseg.collaboration.jobs import ALGORITHMS, Average, average_recipe, export, need_nvflare, run_apart
from medseg.collaboration.rounds import Rounds
from medseg.collaboration.shared_facts import SHARED, Message, check_message, describe, folds_of, folds_of_sites, pool
from medseg.collaboration.sites import Site, check_names, check_overrides, definition_digest
from medseg.config import apply_overrides, read_config, read_json
from medseg.datasets import Dataset, open_dataset
from medseg.devices import choose_device
from medseg.errors import BundleError, ConfigError, nearest
from medseg.io.atomic import write_json
from medseg.layout import Layout
from medseg.planning.grid import choose_dimensions
from medseg.planning.plan import Plan
from medseg.planning.planner import Request, make_plan
from medseg.selection.averaging import average_finished

from .plan import DEFAULT_PRESET, DEFAULT_SIZE, bundle_name, preset_strides
from .plan_place import check_place, put_bundle

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """Choices of a plan for several sites; None leaves them to the data."""

    preset: str | None = None
    size: str | None = None
    folds: int = 5
    spatial_dims: int | None = None
    device: str = "auto"
    overwrite: bool = False


def describe_site(data: Path, output: Path, *, folds: int = 5) -> Message:
    """Write what a site sends for planning as one JSON file, to be looked at before it leaves.

    Raises:
        DataError: the data set is faulty; BundleError: the file exists.
    """
    if output.exists():
        raise BundleError(f"{output} exists already; name another file with --output")
    message = describe(open_dataset(data), folds, workers=os.cpu_count() or 1)
    write_json(output, message)
    return message


def plan_federation(sources: Mapping[str, Path], output: Path, wanted: Wanted) -> Plan:
    """Plan from the fingerprints of all sites; no image leaves a site.

    Args:
        sources: site -> its data folder, or a file that `describe_site` wrote there.
        output: the bundle; the sites' copies lie below `runs/sites`.
        wanted: see `Wanted`.

    Raises:
        ConfigError: fewer than two sites, or a name twice; DataError: faulty data, or sites that contradict each other.
    """
    check_names(list(sources))
    if len(sources) < 2:
        raise ConfigError(
            f"{len(sources)} site was named; a federated training needs two or more, else use `medseg plan`"
        )
    name = bundle_name(output)
    check_place(output, overwrite=wanted.overwrite)
    datasets = {site: open_dataset(path) for site, path in sources.items() if path.is_dir()}
    messages = {
        site: describe(datasets[site], wanted.folds, workers=os.cpu_count() or 1)
        if site in datasets
        else read_json(path)
        for site, path in sources.items()
    }
    for site, message in messages.items():
        check_message(site, message)
    plan = _plan(name, messages, wanted)
    put_bundle(output, plan, None, keep_old=wanted.overwrite)
    _write_sites(Layout(output), plan, messages, datasets, wanted)
    return plan


def _plan(name: str, messages: Mapping[str, Message], wanted: Wanted) -> Plan:
    dataset, fingerprint = pool(messages)
    preset, size = wanted.preset or DEFAULT_PRESET, wanted.size or DEFAULT_SIZE
    dims, _ = choose_dimensions(fingerprint, wanted.spatial_dims)
    plan = make_plan(
        dataset,
        fingerprint,
        folds_of_sites(messages),
        Request(
            name=name,
            preset=preset,
            size=size,
            gpu=choose_device(wanted.device).type == "cuda",
            spatial_dims=wanted.spatial_dims,
            stages=1,
            chosen=[word for word in ("preset", "size") if getattr(wanted, word) is not None],
            preset_strides=preset_strides(preset, size, dims, dataset),
        ),
    )
    plan.data_folder = ""
    cases = ", ".join(f"{site} {message['fingerprint']['cases']}" for site, message in messages.items())
    plan.reasons["sites"] = f"cases of {cases}; shared to plan: {'; '.join(SHARED)}; no image and no case name"
    plan.reasons["splits"] = "each site has folds of its own; here stand their sizes"
    return plan


def _write_sites(
    layout: Layout, plan: Plan, messages: Mapping[str, Message], datasets: Mapping[str, Dataset], wanted: Wanted
) -> None:
    """A copy of the bundle for each site, with its own folder and folds, and its share of the steps."""
    total = sum(message["fingerprint"]["cases"] for message in messages.values())
    for site, message in messages.items():
        known = datasets.get(site)
        empty: list[dict[str, list[str]]] = [{"train": [], "val": []} for _ in message["folds"]]
        splits = empty if known is None else folds_of(known, wanted.folds)
        folder = "" if known is None else str(known.folder.absolute())
        own = dataclasses.replace(plan, data_folder=folder, splits=splits, folds=len(splits), applied={})
        write_bundle(layout.site(site).folder, own)
        share = message["fingerprint"]["cases"] * len(messages) / total
        Site(site, "patients", folder or "SET THIS", settings={"share": share}).write(layout.site(site).folder)
    record = {
        "kind": "federated",
        "sites": {site: message["fingerprint"]["cases"] for site, message in messages.items()},
    }
    write_json(layout.collaboration, {**record, "shared": list(SHARED)})


@dataclass(frozen=True)
class Training:
    """How a federated bundle is trained.

    Args:
        rounds: times that weights are averaged; the bundle's epochs are divided among them.
        algorithm, mu: `fedavg`, or `fedprox` with its strength.
        overrides: "key::path" -> value of train.json.
        poc: real local processes with certificates in place of the simulator.
    """

    rounds: int
    algorithm: str = "fedavg"
    mu: float = 0.01
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    poc: bool = False


def run_federation(bundle: str | Path, training: Training) -> Path:
    """Train at all sites of a bundle on this machine; returns the averaged weights, which predict now uses.

    Raises:
        ConfigError: nvflare is missing, or a setting makes no sense; BundleError: no federated bundle; ResourceError: a site
            failed.
    """
    folder, job = _job(bundle, training)
    layout = Layout(folder)
    folders = {name: layout.site(name).folder for name in job.sites}
    facts = {
        "average": dataclasses.asdict(job),
        "environment": "poc" if training.poc else "simulator",
        "workspace": str((layout.runs / "nvflare").resolve()),
    }
    averaged = layout.global_weights
    averaged.unlink(missing_ok=True)
    run_apart(facts, folders, layout.runs / "nvflare.log")
    if not averaged.is_file():
        raise ConfigError(f"the job left no averaged weights; NVFlare's words are in {layout.runs / 'nvflare.log'}")
    _adopt(layout, averaged, job)
    return layout.weights


def _adopt(layout: Layout, averaged: Path, job: Average) -> None:
    """Make the averaged weights those of the bundle's first fold, which predict uses."""
    target = layout.fold_weights(0)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(averaged, target)
    facts = {"rounds": job.told.rounds, "algorithm": job.algorithm, "sites": list(job.sites)}
    layout.run_folder(0).mkdir(parents=True, exist_ok=True)
    with stays_ours(layout.folder):
        write_json(layout.run(0).result, facts)
        average_finished(layout)


def export_federation(bundle: str | Path, training: Training, output: Path) -> Path:
    """Write the job for provisioned sites; each needs its folder of `runs/sites` and the variable MEDSEG_SITES."""
    _, job = _job(bundle, training)
    return export(lambda: average_recipe(job), output)


def _job(bundle: str | Path, training: Training) -> tuple[Path, Average]:
    need_nvflare()
    folder = find_bundle(bundle)
    layout = Layout(folder)
    record = read_json(layout.collaboration) if layout.collaboration.is_file() else {}
    if record.get("kind") != "federated":
        raise BundleError(
            f"{bundle} was not planned for several sites; write such a bundle with `medseg federate plan`"
        )
    if training.algorithm not in ALGORITHMS:
        raise ConfigError(f"--algorithm {training.algorithm!r} is unknown. {nearest(training.algorithm, ALGORITHMS)}")
    if training.rounds < 1 or training.mu <= 0:
        raise ConfigError(f"--rounds is {training.rounds} and --mu {training.mu}; expected at least 1, and more than 0")
    check_overrides(training.overrides)
    config = apply_overrides(read_config([layout.train]), dict(training.overrides))
    told = Rounds(definition_digest(folder), training.rounds, json.loads(json.dumps(dict(training.overrides))))
    seed = int(config.get("seed", 0))
    return folder, Average(
        folder.resolve().name,
        config["network_def"],
        seed,
        tuple(record["sites"]),
        told,
        training.algorithm,
        training.mu,
    )
