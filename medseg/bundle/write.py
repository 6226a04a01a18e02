"""Write a whole bundle folder from a plan. After this the folder is the single source of truth."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from medseg.config import read_json
from medseg.datasets import Dataset
from medseg.io.atomic import remove_leftovers, write_json, write_text
from medseg.layout import Layout, check_name
from medseg.planning.plan import Plan

from .card import license_text, model_card
from .checks.planned import LENGTHS, digest_of
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


def write_bundle(folder: Path | str, plan: Plan, dataset: Dataset | None = None) -> Layout:
    """Write every file of a bundle but its weights; existing files of the same names are replaced, weights are kept.

    Args:
        folder: the bundle's folder, made when it is missing.
        plan: what was decided; also written as plan.json.
        dataset: the `medseg.datasets.Dataset` the plan was made for; its licence and reference fill gaps of the plan.

    Raises:
        BundleError: the plan's name is no bundle name.
    """
    check_name(plan.name)
    plan.licence = plan.licence or ("" if dataset is None else dataset.licence)
    plan.reference = plan.reference or ("" if dataset is None else dataset.reference)
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
    note_applied(layout, plan)
    note_made(layout.folder)
    return layout


def note_applied(layout: Layout, plan: Plan) -> None:
    """Write plan.json with a note of what was made of it, so that later edits of either are noticed."""
    lengths = {key: plan.optimization.get(key) for key in LENGTHS}
    files = {name: _digest(path) for name, path in _made(layout).items()}
    plan.applied = {}
    files[layout.plan.name] = digest_of(plan.to_dict())
    plan.applied = {"lengths": lengths, "files": files}
    plan.write(layout.plan)


def edited_files(layout: Layout) -> list[str] | None:
    """Files of a bundle that were changed since `write_bundle`; None where the bundle does not tell.

    Raises:
        BundleError: plan.json cannot be read.
    """
    plan = Plan.read(layout.plan)
    noted = plan.applied.get("files")
    if not noted:
        return None
    plan.applied = {}
    found = {name: _digest(path) for name, path in _made(layout).items() if path.is_file()}
    found[layout.plan.name] = digest_of(plan.to_dict())
    return [name for name in noted if name in found and found[name] != noted[name]]


def _made(layout: Layout) -> dict[str, Path]:
    paths = [layout.metadata, layout.train, layout.inference, layout.evaluate, layout.multi_gpu_train, layout.splits]
    paths += [layout.logging, layout.license, layout.readme]
    return {path.relative_to(layout.folder).as_posix(): path for path in paths}


def _digest(path: Path) -> str:
    """Of a file's text; a JSON file by its values, however it is laid out."""
    if path.suffix == ".json":
        try:
            return digest_of(read_json(path))
        except ValueError:
            return "unreadable"
    return hashlib.sha256(path.read_bytes()).hexdigest()
