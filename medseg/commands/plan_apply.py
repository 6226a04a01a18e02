"""`medseg plan --apply`: train.json, and before the first training everything else, made again from an edited plan.json."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from medseg.bundle.catalogue import find_bundle
from medseg.bundle.checks.planned import Difference, plan_differences
from medseg.bundle.configs.train import train_config
from medseg.bundle.made_here import refuse_planned_code
from medseg.bundle.write import note_applied, write_bundle
from medseg.config import read_json, steps_of
from medseg.errors import BundleError
from medseg.io.atomic import write_json
from medseg.layout import Layout
from medseg.planning.plan import Plan

# What the weights of a bundle were trained for: another value needs another bundle.
OF_THE_WEIGHTS = ("preprocessing_def", "network_def", "labels", "regions")


def apply_plan(bundle: str | Path, *, trust: bool = False) -> list[Difference]:
    """Make the bundle's files agree with its plan.json; returns what changed in them.

    A bundle without weights is written anew from the plan; settings of train.json that no plan decides (seed, workers,
    tracking) stay. With weights, only what a training may change is taken over.

    Args:
        bundle: folder or name.
        trust: take a plan over that names code; nothing of it is run, and opening the bundle still asks.

    Raises:
        UntrustedBundleError: the plan names code that no command of this user put there.
        BundleError: no plan.json or train.json, or the plan asks for another network or grid than the weights have.
    """
    layout = Layout(find_bundle(bundle))
    plan = Plan.read(layout.plan)
    if not trust:
        refuse_planned_code(plan, layout)
    if not layout.train.is_file():
        raise BundleError(f"{layout.folder} has no configs/train.json: it can predict, but not be trained")
    changes = plan_differences(layout)
    train = read_json(layout.train)
    if has_weights(layout):
        fixed = [each for each in changes if each.place.startswith(OF_THE_WEIGHTS)]
        if fixed:
            raise BundleError(
                f"{layout.plan}: the bundle's weights were trained with other values ({'; '.join(map(str, fixed))}); put them "
                "back, or plan another bundle (medseg plan --output)."
            )
        write_json(layout.splits, plan.splits)
    else:
        write_bundle(layout.folder, plan)
    changed = [each for each in changes if each.place != "splits"]
    write_json(layout.train, changed_config(train, plan, changed))
    note_applied(layout, plan)
    return changes


def changed_config(train: dict[str, Any], plan: Plan, changes: list[Difference]) -> dict[str, Any]:
    """train.json with the plan's values in the places that differ; what the plan does not decide is kept."""
    made = copy.deepcopy(train)
    expected = train_config(plan)
    for each in changes:
        target, source = made, expected
        *parents, last = steps_of(each.place)
        for key in parents:
            target, source = target[key], source[key]
        if last in source:
            target[last] = source[last]
        else:
            del target[last]
    return made


def has_weights(layout: Layout) -> bool:
    """Whether any network of the bundle is trained."""
    return layout.weights.is_file() or layout.safetensors.is_file() or any(layout.models.glob("*/*.pt"))
