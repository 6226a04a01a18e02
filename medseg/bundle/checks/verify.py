"""Is this bundle complete, and does it agree with itself? Each check is a function that returns the faults it found.

Every check of the public model zoo's own CI is among them, plus what only we can know (that training and prediction
hold the same preprocessing, that the weights belong to the network). No network, no GPU, nothing of the bundle run.
"""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.config import read_json
from medseg.errors import BundleError, MedsegError
from medseg.layout import Layout

from ..catalogue import find_bundle
from ..configs.metadata import metadata_faults, place_schema, read_metadata
from ..load import load_bundle
from ..made_here import brings_own_code
from ..weights import load_into, read_state_dict, sha256_of
from .agreement import check_drift, check_formats, check_splits
from .averages import check_evaluation, members_differ
from .components import check_arguments, check_references, check_safety
from .planned import check_plan
from .properties import property_faults
from .two_paths import two_paths_differ

log = logging.getLogger(__name__)

REQUIRED_FILES = ("configs/metadata.json", "configs/inference.json", "LICENSE")
# what `medseg plan` writes beside them; a foreign bundle need not have these
PLANNED_FILES = (
    "configs/train.json",
    "configs/evaluate.json",
    "configs/multi_gpu_train.json",
    "configs/logging.conf",
    "configs/splits.json",
    "docs/README.md",
)


@dataclass
class Check:
    """The outcome of one check."""

    name: str
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class Opened:
    """What the checks look at: the files of a bundle, read once."""

    layout: Layout
    metadata: dict[str, Any]
    configs: dict[str, dict[str, Any]]


def check_files(layout: Layout) -> list[str]:
    """Required files are there, and every JSON file parses to an object or a list."""
    wanted = REQUIRED_FILES + (PLANNED_FILES if layout.plan.is_file() else ())
    faults = [f"{name} is missing" for name in wanted if not (layout.folder / name).is_file()]
    for path in sorted([*layout.configs.glob("*.json"), *layout.folder.glob("plan.json")]):
        try:
            read_json(path)
        except (ValueError, OSError) as error:
            faults.append(f"{path.relative_to(layout.folder)} {str(error).removeprefix(f'{path}: ')}")
    return faults


def check_metadata(opened: Opened) -> list[str]:
    """metadata.json follows the schema; MONAI's own `verify_metadata` is asked as well, with the schema pre-placed."""
    faults = metadata_faults(opened.metadata)
    if faults:
        return faults
    from monai.bundle import scripts, verify_metadata

    chatty = (scripts.logger, logging.getLogger("monai.apps"))  # on the standard output, where --json goes
    levels = [logger.level for logger in chatty]
    for logger in chatty:
        logger.setLevel(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "hash is not checked": the schema is our own file
            schema_file = place_schema(Path(place))
            verify_metadata(meta_file=str(opened.layout.metadata), filepath=str(schema_file))
    except ValueError as error:
        faults.append(f"metadata.json: {error}")
    finally:
        for logger, level in zip(chatty, levels, strict=True):
            logger.setLevel(level)
    return faults


def check_logging(opened: Opened) -> list[str]:
    """logging.conf names classes of the standard library only, the rule that MONAI applies before it reads anything."""
    if not opened.layout.logging.is_file():
        return []
    from monai.bundle import workflows

    try:
        workflows._reject_executable_logging_config(str(opened.layout.logging))
    except ValueError as error:
        return [f"configs/logging.conf: {str(error).split('. ')[0]}"]
    return []


def check_checksums(opened: Opened) -> list[str]:
    """Every line of SHA256SUMS holds, and every weight file has one; nothing to do when there is no such file."""
    path = opened.layout.checksums
    if not path.is_file():
        return []
    faults, listed = [], set()
    for line in path.read_text(encoding="utf-8").splitlines():
        expected, _, name = line.partition("  ")
        file = opened.layout.folder / name
        listed.add(name)
        if not file.is_file():
            faults.append(f"SHA256SUMS: {name} is missing")
        elif sha256_of(file) != expected:
            faults.append(f"SHA256SUMS: {name} has changed, its hash is not the recorded one")
    for file in sorted(opened.layout.models.rglob("*")):
        name = file.relative_to(opened.layout.folder).as_posix()
        if file.is_file() and name not in listed:
            faults.append(f"SHA256SUMS: {name} is not listed")
    return faults


def check_weights(opened: Opened) -> list[str]:
    """Every weight file opens as tensors, fits the network and is finite; .pt and .safetensors hold the same."""
    import torch

    bundle = load_bundle(opened.layout.folder)
    faults = []
    for path in sorted({*bundle.weight_files, opened.layout.weights}):
        if not path.is_file():
            faults.append(f"{path.relative_to(opened.layout.folder)} is missing: not trained yet?")
            continue
        try:
            state = read_state_dict(path)
            load_into(bundle.network_of(path), state, path.relative_to(opened.layout.folder))
        except MedsegError as error:
            faults.append(str(error))
            continue
        broken = [name for name, value in state.items() if not torch.isfinite(value.float()).all()]
        if broken:
            faults.append(f"{path.relative_to(opened.layout.folder)}: {broken[0]} holds NaN or infinity")
    return faults + _twins_differ(opened.layout) + ([] if faults else members_differ(opened.layout))


def _twins_differ(layout: Layout) -> list[str]:
    import torch

    if not (layout.weights.is_file() and layout.safetensors.is_file()):
        return []
    try:
        first, second = read_state_dict(layout.weights), read_state_dict(layout.safetensors)
    except MedsegError:
        return []  # reported above
    if set(first) != set(second) or any(not torch.equal(first[name], second[name]) for name in first):
        return ["models/model.safetensors does not hold the same weights as models/model.pt"]
    return []


def check_forward(opened: Opened) -> list[str]:
    """The network takes the image that metadata.json describes and gives the prediction that it describes."""
    import torch

    bundle = load_bundle(opened.layout.folder)
    formats = opened.metadata["network_data_format"]
    image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]
    shape = [extent if isinstance(extent, int) else 32 for extent in image["spatial_shape"]]
    network = bundle.untrained_network().eval()
    with torch.no_grad():
        output = network(torch.rand(1, image["num_channels"], *shape))
    expected = (1, pred["num_channels"], *shape)
    faults = []
    if tuple(output.shape) != expected:
        faults.append(f"the network gives {tuple(output.shape)}, metadata.json promises {expected}")
    if str(output.dtype).removeprefix("torch.") != pred["dtype"]:
        faults.append(f"the network gives {output.dtype}, metadata.json promises {pred['dtype']}")
    return faults


def _on_configs(
    check: Callable[[str, Mapping[str, Any]], list[str]],
) -> Callable[[Opened], list[str]]:
    def run(opened: Opened) -> list[str]:
        return [fault for name, config in opened.configs.items() for fault in check(name, config)]

    return run


def _needs_trust(opened: Opened) -> list[str]:
    """What this user would be asked about; not the code that this user's own commands put there."""
    return [] if brings_own_code(opened.layout.folder) else _on_configs(check_safety)(opened)


# In this order; a later check may rely on what an earlier one has found to be there.
CHECKS: dict[str, Callable[[Opened], list[str]]] = {
    "metadata follows the schema": check_metadata,
    "logging.conf is plain": check_logging,
    "checksums hold": check_checksums,
    "opens without trust": _needs_trust,
    "references are defined": _on_configs(check_references),
    "arguments are known": _on_configs(check_arguments),
    "properties are complete": _on_configs(property_faults),
    "plan and training agree": lambda opened: check_plan(opened.layout),
    "configurations agree": lambda opened: check_drift(opened.layout, opened.configs),
    "formats agree": lambda opened: check_formats(opened.layout, opened.metadata, opened.configs),
    "folds do not leak": lambda opened: check_splits(opened.layout) + check_evaluation(opened.layout, opened.configs),
    "weights belong to the network": check_weights,
    "network matches the metadata": check_forward,
    "medseg predict and MONAI's run agree": lambda opened: two_paths_differ(load_bundle(opened.layout.folder)),
}


def _open(layout: Layout) -> Opened:
    configs = {}
    for path in (layout.train, layout.inference, layout.evaluate):
        if path.is_file():
            configs[path.name] = read_json(path)
            if not isinstance(configs[path.name], dict):
                raise BundleError(f"{path}: holds a {type(configs[path.name]).__name__}, expected an object")
    return Opened(layout=layout, metadata=read_metadata(layout.folder), configs=configs)


def verify_bundle(path_or_name: str | Path) -> Iterator[Check]:
    """Run every check, yielding each outcome as it is known.

    A check that itself fails on a broken bundle reports that as its fault; the others still run.

    Raises:
        BundleError: there is no such bundle.
    """
    layout = Layout(find_bundle(path_or_name))
    first = Check("files are complete", check_files(layout))
    yield first
    try:
        opened = _open(layout)
    except (MedsegError, ValueError) as error:
        if not first.faults:
            yield Check("files can be read", [str(error)])
        return
    for name, function in CHECKS.items():
        started = time.perf_counter()
        try:
            faults = function(opened)
        except MedsegError as error:
            faults = [str(error)]
        except Exception as error:  # a check met something that no other one refused
            faults = [f"cannot be checked: {type(error).__name__}: {' '.join(str(error).split())}"]
        yield Check(name, faults, time.perf_counter() - started)
