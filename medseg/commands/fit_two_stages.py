"""Two stages: a low-resolution network that is trained first, as a bundle of its own inside the run folder.

When it is trained, `attach_low_resolution` copies network and weights into inference.json and models/, where
`medseg predict --fast` finds them; runs/low_resolution is not needed any more and never packed.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.bundle.low_resolution import KEY, WEIGHTS
from medseg.bundle.made_here import brings_own_code, note_made
from medseg.bundle.write import write_bundle
from medseg.config import read_json
from medseg.io.atomic import write_json
from medseg.layout import Layout, is_bundle
from medseg.planning.plan import Plan
from medseg.planning.planner import coarse_plan

log = logging.getLogger(__name__)
FOLDER = "low_resolution"
# Of a time budget; the coarse network has as many voxels per step but an easier task, and only its box counts.
SHARE_OF_BUDGET = 0.25
# Overrides that mean both stages; any other, such as roi_size or the network, is meant for the full resolution.
COMMON = (
    "max_epochs",
    "steps_per_epoch",
    "val_interval",
    "early_stop",
    "num_workers",
    "seed",
    "dataset_dir",
    "devices",
    "num_nodes",
    "strategy",
)


def low_resolution_bundle(folder: Path) -> Path | None:
    """The bundle of the low-resolution network that is still to be trained, written when it is not there yet.

    Returns:
        None where the plan has no such network, or where it is trained and attached already.
    """
    layout = Layout(folder)
    if not layout.plan.is_file():
        return None
    plan = Plan.read(layout.plan)
    if plan.low_resolution is None:
        return None
    config: Mapping[str, Any] = read_json(layout.inference)
    if KEY in config and (folder / WEIGHTS).is_file():
        log.info("the low-resolution network is trained already; remove %s to train it anew", folder / WEIGHTS)
        return None
    coarse = layout.runs / FOLDER
    if not is_bundle(coarse):
        made = write_bundle(coarse, coarse_plan(plan))
        write_json(made.splits, read_json(layout.splits))
        if plan.project and (folder / plan.project).is_dir():  # the same code, as much the user's own as there
            shutil.copytree(folder / plan.project, coarse / plan.project)
            note_made(coarse, code=brings_own_code(folder))
    return coarse


def common_overrides(overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """The overrides that are meant for both stages."""
    return {
        key: value
        for key, value in (overrides or {}).items()
        if key in COMMON or key.startswith(("train::trainer::", "train::module::"))
    }
