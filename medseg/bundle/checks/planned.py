"""plan.json against train.json and splits.json: what trains a bundle is what its plan says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from medseg.config import ABSENT, TARGET, look_up, read_json
from medseg.layout import Layout
from medseg.planning.plan import Plan

from ..configs.train import MODULE_KEYS, TRAINER_KEYS, train_config

# Places of train.json that a plan decides; everything else (seed, workers, tracking, handlers) is a setting of the run.
PLANNED = (
    "dataset_dir", "labels", "regions", "roi_size", "batch_size", "max_epochs", "steps_per_epoch", "val_interval", "early_stop",
    "budget_s", "preprocessing_def", "network_def", "train::inferer::sw_batch_size", "train::inferer::overlap",
    "train::dataset::augmentation", "train::dataset::ignore_label", "train::dataset::missing_channels",
    *(f"train::module::{key}" for key in MODULE_KEYS), *(f"train::trainer::{key}" for key in TRAINER_KEYS),
)  # fmt: skip
# How long a training is may be said in train.json alone, as long as nobody has said otherwise in plan.json since.
LENGTHS = ("max_epochs", "steps_per_epoch", "val_interval", "early_stop", "budget_s")


@dataclass(frozen=True)
class Difference:
    """A value that plan.json and the files made of it do not agree on.

    Args:
        place: `key::path` in train.json, or `splits`.
        planned, found: as plan.json has it, and as train.json (or splits.json) has it.
        allowed: a length or the folds, changed in train.json or splits.json alone: what trains is what those say.
    """

    place: str
    planned: Any
    found: Any
    allowed: bool = False

    def __str__(self) -> str:
        return f"{self.place}: plan.json {_short(self.planned)}, {self.file} {_short(self.found)}"

    @property
    def file(self) -> str:
        """The file that differs from the plan."""
        return "configs/splits.json" if self.place == "splits" else "configs/train.json"


def plan_differences(layout: Layout) -> list[Difference]:
    """Every value in which plan.json and what trains differ; empty where the bundle lacks one of the files.

    Raises:
        BundleError: plan.json cannot be read.
        ValueError, OSError: train.json cannot be read.
    """
    if not (layout.plan.is_file() and layout.train.is_file()):
        return []
    plan, train = Plan.read(layout.plan), read_json(layout.train)
    expected = json.loads(json.dumps(train_config(plan)))
    found = []
    for place in PLANNED:
        for path, planned, present in _leaves(place, look_up(expected, place), look_up(train, place)):
            allowed = path in LENGTHS and plan.applied.get("lengths", {}).get(path, planned) == planned
            found.append(Difference(path, planned, present, allowed))
    if layout.splits.is_file() and (splits := read_json(layout.splits)) != plan.splits:
        noted = plan.applied.get("files", {}).get(layout.splits.relative_to(layout.folder).as_posix())
        found.append(Difference("splits", plan.splits, splits, allowed=noted == digest_of(plan.splits)))
    return found


def digest_of(value: object) -> str:
    """A hash of JSON-ready values, however they are laid out in a file."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def refused(differences: list[Difference]) -> list[Difference]:
    """Those with which nothing may be trained."""
    return [difference for difference in differences if not difference.allowed]


def check_plan(layout: Layout) -> list[str]:
    """One fault per value, for `medseg bundle verify`."""
    return [f"plan.json and {each.file} differ: {each}" for each in refused(plan_differences(layout))]


def _leaves(place: str, planned: object, found: object) -> Iterator[tuple[str, Any, Any]]:
    """The values below a place that differ; a key that an older train.json lacks has its default there."""
    if found is ABSENT or planned is ABSENT:
        return
    if isinstance(planned, Mapping) and isinstance(found, Mapping):
        whole = place == "labels" or place.endswith("::augmentation")
        keys = {**planned, **found} if whole else planned
        for key in (key for key in keys if key != TARGET):
            below = f"{place}::{key}"
            if whole:
                yield from _leaves(below, planned.get(key), found.get(key))
            else:
                yield from _leaves(below, planned[key], found.get(key, ABSENT))
    elif planned != found and not (isinstance(found, str) and found.startswith(("@", "$"))):
        yield place, planned, found


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
