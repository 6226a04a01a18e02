"""With which other settings a run goes on than it was started with."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from medseg.bundle.checks.planned import LENGTHS
from medseg.bundle.opening.targets import TargetError, canonical_target
from medseg.config import TARGET, read_json
from medseg.errors import ConfigError
from medseg.layout import RunFolder

log = logging.getLogger(__name__)


# what may differ between two starts of one training: where it runs, where its data lie now, and who is told of it
_WHERE_IT_RUNS = (
    "device", "num_workers", "bundle_root", "output_dir", "dataset_dir", "run", "train::handlers", "validate::handlers",
    "train::trainer::devices", "train::trainer::strategy", "train::trainer::experiment", "train::trainer::tracking",
)  # fmt: skip
# with another one of these a training does not go on but is another: what the network sees, what it is, what it answers
_WHAT_IT_IS = ("network_def", "preprocessing_def", "labels")


def tell_changes(run_folder: Path, config: Mapping[str, Any]) -> None:
    """Warn when a run goes on with other settings than it was started with: it is then no longer the same training.

    Raises:
        ConfigError: other images, another network or other labels: half of the training would be another's.
    """
    if not RunFolder(run_folder).checkpoint.is_file():
        return
    changed = _changes(run_folder, config)
    if of_another := [text for key, text in changed.items() if _below(key, _WHAT_IT_IS)]:
        raise ConfigError(
            f"{run_folder.name} was started with other settings ({'; '.join(of_another[:4])}); give those to go on, or train it "
            "without --resume."
        )
    if changed:
        log.warning(
            "%s goes on with other settings than it was started with: %s", run_folder.name, ", ".join(changed.values())
        )


def is_as_asked(run_folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether a finished run was trained with the settings that are asked for now; not when only more epochs are: it goes on then.

    Raises:
        ConfigError: it was trained with others, which are named. It is neither left nor taken for what is asked for.
    """
    found = {key: text for key, text in _changes(run_folder, config).items() if not _below(key, _WHERE_IT_RUNS)}
    longer = list(found) == ["max_epochs"] and RunFolder(run_folder).checkpoint.is_file()
    if longer and read_json(RunFolder(run_folder).config)["max_epochs"] < config["max_epochs"]:
        return False
    changed = list(found.values())
    if changed:
        more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
        raise ConfigError(
            f"{run_folder.name} is finished, and was trained with other settings ({'; '.join(changed[:4])}{more}); train it without "
            "--resume to have these, or give the ones it was trained with."
        )
    return True


def _changes(run_folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Key -> the difference in words, between the settings that a run noted and those of now; none where it noted nothing."""
    try:
        earlier = read_json(RunFolder(run_folder).config)
    except (OSError, ValueError):
        return {}
    if RunFolder(run_folder).budget.is_file():  # the length is the budget's, whatever train.json says
        earlier, config = (
            {key: value for key, value in each.items() if key not in LENGTHS} for each in (earlier, config)
        )
    before, now = (dict(flat_settings(each)) for each in (earlier, json.loads(json.dumps(dict(config)))))
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    return {key: f"{key}: {before.get(key)!r} -> {now.get(key)!r}" for key in changed}


def _below(key: str, places: Iterable[str]) -> bool:
    return any(key == place or key.startswith(f"{place}::") for place in places)


def flat_settings(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a configuration with its path, but for those that differ between a run and its continuation."""
    for key, value in config.items():
        place = f"{path}::{key}" if path else str(key)
        if place in ("resume", "budget_s", "pretrained", "train::trainer::parent_run"):
            continue
        if isinstance(value, dict):
            yield from flat_settings(value, place)
        elif key == TARGET:
            yield place, _same_part(value)
        else:
            yield place, value


def _same_part(target: Any) -> object:
    """A target by its definition: a part of medseg has kept its meaning under every name that it had."""
    try:
        return canonical_target(target)
    except (TargetError, AttributeError):
        return target
