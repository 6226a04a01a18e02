"""Write a whole bundle folder from a plan. After this the folder is the single source of truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medseg.io.atomic import remove_leftovers, write_json, write_text
from medseg.layout import Layout, check_name
from medseg.planning.plan import Plan

from .card import license_text, model_card
from .configs.inference import evaluate_config, inference_config
from .configs.metadata import make_metadata
from .configs.train import train_config
from .made_here import note_made

# MONAI applies this file before the configuration; only classes of the standard library are allowed in it.
LOGGING_CONF = """\
[loggers]
keys=root

[handlers]
keys=console

[formatters]
keys=plain

[logger_root]
level=INFO
handlers=console

[handler_console]
class=StreamHandler
level=INFO
formatter=plain
args=(sys.stderr,)

[formatter_plain]
format=%(asctime)s %(levelname)s %(name)s: %(message)s
"""


def multi_gpu_config() -> dict[str, Any]:
    """Override file for `train.json`: Lightning takes one process per device, under torchrun or by itself."""
    return {"train::trainer::devices": "auto", "train::trainer::strategy": "ddp"}


def write_bundle(folder: Path | str, plan: Plan, dataset: Any = None) -> Layout:
    """Write every file of a bundle but its weights; existing files of the same names are replaced, weights are kept.

    Args:
        folder: the bundle's folder, made when it is missing.
        plan: what was decided; also written as plan.json.
        dataset: the `medseg.datasets.Dataset` the plan was made for; its licence and reference fill gaps of the plan.

    Raises:
        BundleError: the plan's name is no bundle name.
    """
    check_name(plan.name)
    plan.licence = plan.licence or getattr(dataset, "licence", "") or ""
    plan.reference = plan.reference or getattr(dataset, "reference", "") or ""
    layout = Layout(Path(folder))
    for path in (layout.configs, layout.models, layout.readme.parent):
        path.mkdir(parents=True, exist_ok=True)
    for path in (layout.folder, layout.configs, layout.readme.parent):
        remove_leftovers(path)  # of a command that was killed while it wrote
    write_json(layout.metadata, make_metadata(plan))
    write_json(layout.train, train_config(plan))
    write_json(layout.inference, inference_config(plan))
    write_json(layout.evaluate, evaluate_config(plan))
    write_json(layout.multi_gpu_train, multi_gpu_config())
    write_json(layout.splits, plan.splits)
    write_text(layout.logging, LOGGING_CONF)
    write_text(layout.license, license_text(plan))
    write_text(layout.readme, model_card(plan))
    plan.write(layout.plan)
    note_made(layout.folder)
    return layout
