"""`medseg adapt`: a bundle for new data that begins with the weights of another model."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from medseg.bars import progress_bar
from medseg.bundle.load import Trust
from medseg.bundle.made_here import note_made
from medseg.bundle.opening.parser import checked_config
from medseg.bundle.weights import write_state_dict
from medseg.config import TARGET
from medseg.datasets import Dataset, open_dataset
from medseg.devices import choose_device
from medseg.errors import BundleError, ConfigError
from medseg.io.atomic import write_json
from medseg.layout import Layout
from medseg.networks.adapted import Places, Transfer, adapt_state, missing_statistics
from medseg.planning.fingerprint import measure
from medseg.planning.folds import check_splits, make_splits
from medseg.planning.plan import Plan
from medseg.planning.planner import Request, make_plan
from medseg.transforms.classes import class_values
from medseg.transforms.crops.fusion import LEVELS
from medseg.types import FilePath

from .adapt_facts import seen_in_pretraining
from .adapt_match import match_channels, match_classes, plain, reasons_against
from .adapt_source import Source, open_source
from .plan import DEFAULT_PRESET, DEFAULT_SIZE, FOLDS, bundle_name
from .plan_place import check_place, put_bundle

log = logging.getLogger(__name__)
LEAST = 0.7
SLOWER = 0.25  # of the rate from scratch
WARM = 0.1  # of the steps


@dataclass(frozen=True)
class Wish:
    """What the person asked for.

    Args:
        mapped: old class name -> new one.
        least: share of the network's numbers that must come from the source.
        anyway: take spacing and normalization over although they do not suit the data.
        twin: also write a bundle of equal configuration without the weights.
        device: where it will be trained.
        overwrite: set an existing bundle aside.
    """

    mapped: Mapping[str, str] = field(default_factory=dict)
    least: float = LEAST
    anyway: bool = False
    twin: bool = False
    device: str = "auto"
    overwrite: bool = False


@dataclass(frozen=True)
class Adapted:
    """What was written.

    Args:
        output, twin: bundles.
        plan: of the new bundle.
        transfer: what became of the weights.
        classes, channels: new name -> the old one, or None.
        dropped: old classes that the new network does not have.
        warnings: what was taken over although it does not suit.
    """

    output: Path
    twin: Path | None
    plan: Plan
    transfer: Transfer
    classes: dict[str, str | None]
    channels: dict[str, str | None]
    dropped: tuple[str, ...]
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON and the record in the bundle."""
        moved = self.transfer
        return {
            "share": round(moved.share, 4), "loaded": moved.loaded, "reshaped": moved.reshaped, "skipped": moved.skipped,
            "unused": moved.unused, "classes": self.classes, "channels": self.channels, "dropped": list(self.dropped),
            "warnings": list(self.warnings),
        }  # fmt: skip


def adapt_bundle(
    source: str | Path, data: FilePath, output: FilePath, wish: Wish | None = None, *, trust: Trust = False
) -> Adapted:
    """Write a bundle for a data set that begins with the weights of another model; `medseg fit` trains it.

    Args:
        source: bundle, or folder of a trained nnU-Net.
        data: folder of labelled cases.
        output: the new bundle's folder.
        wish: see `Wish`.
        trust: see `load_bundle`.

    Raises:
        BundleError: fewer weights fit than `wish.least`, or those of a batch norm are not whole.
        ConfigError: spacing or normalization do not suit the data, a class to map is not there, or the pretraining has seen
            the validation cases of every fold.
        DataError: the data set is faulty.
    """
    wish, output = wish or Wish(), Path(output)
    targets = [output, *([twin_of(output)] if wish.twin else [])]
    for place in targets:
        check_place(place, overwrite=wish.overwrite)
    found = open_source(source, trust)
    dataset = open_dataset(data)
    plan, warnings = _plan(found, dataset, bundle_name(output), wish)
    names = [str(region["name"]) for region in plan.regions] or [
        plan.labels[value] for value in class_values(plan.labels)
    ]
    rows = match_classes(names, found.names, wish.mapped)
    if plan.regions:
        rows[0] = next((i for i, old in enumerate(found.names) if plain(old) == plain(names[0])), None)
    channels = [name for _, name in sorted(plan.channels.items())]
    columns = match_channels(channels, found.channels)
    same_kind = bool(plan.regions) == bool(found.plan.regions) and found.plan.labels != LEVELS
    places = Places(
        tuple(rows) if same_kind else (None,) * len(rows), tuple(columns), len(found.names), len(found.channels),
        background=not plan.regions and found.plan.labels != LEVELS,
    )  # fmt: skip
    network = _built(plan)
    transfer = _checked(found, network, adapt_state(network.state_dict(), found.state, places), wish.least)
    kept = set(places.rows)
    result = Adapted(
        output, targets[1] if wish.twin else None, plan, transfer,
        {name: None if place is None else found.names[place] for name, place in zip(names, places.rows, strict=True)},
        {name: None if place is None else found.channels[place] for name, place in zip(channels, columns, strict=True)},
        tuple(name for number, name in enumerate(found.names) if number not in kept), tuple(warnings),
    )  # fmt: skip
    _write(result, found, dataset, wish)
    return result


def twin_of(output: Path) -> Path:
    """Where the twin from scratch lies."""
    return output.with_name(f"{output.resolve().name}_scratch")


def _plan(source: Source, dataset: Dataset, name: str, wish: Wish) -> tuple[Plan, list[str]]:
    """The data's own plan with grid, intensities, patch and network of the source."""
    labelled = [case for case in dataset.cases if case.label is not None]
    splits = dataset.splits or make_splits(labelled, FOLDS)
    check_splits(splits, labelled)
    _refuse_seen(source, dataset, splits)
    with progress_bar("measuring", len(labelled), unit="case") as advance:
        fingerprint = measure(dataset, progress=lambda done, total: advance(done))
    against = reasons_against(source, dataset, fingerprint.to_dict()["median_spacing"])
    if against and not wish.anyway:
        raise ConfigError(
            f"{source.name} does not suit the data: {'; '.join(against)}. Take its grid and intensities over nevertheless with "
            "--anyway, or plan the data anew (`medseg plan`) and start with `medseg fit --init-from`"
        )
    old, preset = source.plan, source.network.get("preset")
    plan = make_plan(
        dataset,
        fingerprint,
        splits,
        Request(
            name=name,
            preset=preset or DEFAULT_PRESET,
            size=source.network.get("size") or DEFAULT_SIZE,
            gpu=choose_device(wish.device).type == "cuda",
            spatial_dims=old.spatial_dims,
            stages=1,
            folds=len(splits),
        ),
    )
    columns = match_channels([each for _, each in sorted(dataset.channels.items())], source.channels)
    outputs = len(dataset.regions) or len(class_values(dataset.labels))
    network = {**source.network, "in_channels": len(dataset.channels), "out_channels": outputs}
    if network.get(TARGET) == "medseg.components.build_network":
        network = {key: value for key, value in network.items() if key != TARGET}
    plan = dataclasses.replace(
        plan, orientation=old.orientation, spacing=list(old.spacing), roi_size=list(old.roi_size), batch_size=old.batch_size,
        network=network, inference=dict(old.inference), low_resolution=None,
        normalization=[] if source.foreign else [old.normalization[place or 0] for place in columns],
        preprocessing=_of_channels(source.preprocessing, columns) if source.foreign else None,
    )  # fmt: skip
    _gentle(plan)
    for key in ("spacing", "roi_size", "batch_size", "network", "normalization"):
        plan.reasons[key] = f"taken over from {old.name}, whose weights it begins with"
    return plan, against


def _gentle(plan: Plan) -> None:
    """A lower rate with a longer warm-up: at the full rate the first steps would wipe out what was learnt."""
    settings = plan.optimization
    steps = int(settings["max_epochs"]) * int(settings["steps_per_epoch"])
    settings["learning_rate"] = SLOWER * float(settings["learning_rate"])
    settings["warmup_steps"] = max(int(settings["warmup_steps"]), round(WARM * steps))
    plan.reasons["optimization"] += f"; {SLOWER:g} of that rate after a warm-up of {settings['warmup_steps']} steps"


def _of_channels(preprocessing: Mapping[str, Any], columns: Sequence[int | None]) -> dict[str, Any]:
    """nnU-Net's preprocessing with its tables for the new channels."""
    tables = ("normalization", "masked", "intensities")
    return {**preprocessing, **{key: [preprocessing[key][place or 0] for place in columns] for key in tables}}


def _refuse_seen(source: Source, dataset: Dataset, splits: Sequence[Mapping[str, Sequence[str]]]) -> None:
    seen = set(seen_in_pretraining(source.pretraining, dataset.cases))
    clean = [number for number, split in enumerate(splits) if not seen & set(split["val"])]
    if seen and not clean:
        raise ConfigError(
            f"{source.name}: its pretraining has seen validation cases of every fold ({', '.join(sorted(seen)[:3])}); pretrain "
            "without a fold's validation cases (`medseg pretrain` leaves those of fold 0 out)"
        )
    if seen:
        log.warning("pretraining has seen %d of the cases; folds that can be trained: %s", len(seen), clean)


def _built(plan: Plan) -> torch.nn.Module:
    from medseg.bundle.configs.inference import network_def

    torch.manual_seed(0)
    definition = json.loads(json.dumps({"network_def": network_def(plan)}))
    network = checked_config(definition, Path("train.json")).get("network_def")
    assert isinstance(network, torch.nn.Module)
    return network


def _checked(source: Source, network: torch.nn.Module, moved: Transfer, least: float) -> Transfer:
    lacking = missing_statistics(network.state_dict(), source.state)
    if lacking:
        raise BundleError(
            f"{source.name}: the running statistics of {len(lacking)} batch norms are missing ({lacking[0]}); without them the "
            "network computes something else. Save the whole state dict"
        )
    if moved.share < least:
        first = next(iter(moved.skipped.items()), ("", ""))
        raise BundleError(
            f"{source.name}: {moved.share:.0%} of the network's weights come from it, expected {least:.0%}: {first[0]}: "
            f"{first[1]} ({len(moved.skipped)} such entries; {len(moved.unused)} of the source have no place"
            f"{': ' + moved.unused[0] if moved.unused else ''}). Are they of another preset? --least takes fewer"
        )
    return moved


def _write(result: Adapted, source: Source, dataset: Dataset, wish: Wish) -> None:
    """Both bundles; the weights where predict finds them, and where every training of it begins."""
    put_bundle(result.output, result.plan, dataset, keep_old=wish.overwrite)
    layout = Layout(result.output)
    write_state_dict(layout.start, result.transfer.state)
    write_state_dict(layout.weights, result.transfer.state)
    write_json(layout.adaptation, {"source": source.plan.name, **result.as_dict()})
    if source.pretraining is not None:
        write_json(layout.pretraining, source.pretraining)
    note_made(layout.folder)
    if result.twin is None:
        return
    settings = dict(result.plan.optimization)
    settings["learning_rate"] = float(settings["learning_rate"]) / SLOWER
    before = int((source.pretraining or {}).get("steps", 0))
    settings["max_epochs"] = int(settings["max_epochs"]) + -(-before // int(settings["steps_per_epoch"]))
    reasons = {
        "optimization": f"the twin of {result.plan.name} from scratch: as many steps in all, at the rate from scratch"
    }
    twin = dataclasses.replace(
        result.plan,
        name=bundle_name(result.twin),
        optimization=settings,
        reasons={**result.plan.reasons, **reasons},
        applied={},
    )
    put_bundle(result.twin, twin, dataset, keep_old=wish.overwrite)
