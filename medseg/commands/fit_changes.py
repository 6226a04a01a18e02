"""With which other settings a run goes on than it was started with."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medseg.bundle.checks.planned import LENGTHS
from medseg.bundle.opening.targets import TargetError, canonical_target
from medseg.config import TARGET, read_json
from medseg.layout import RunFolder

log = logging.getLogger(__name__)


def tell_changes(run_folder: Path, config: Mapping[str, Any]) -> None:
    """Warn when a run goes on with other settings than it was started with: it is then no longer the same training."""
    try:
        earlier = read_json(RunFolder(run_folder).config)
    except (OSError, ValueError):
        return
    if not RunFolder(run_folder).checkpoint.is_file():
        return
    if RunFolder(run_folder).budget.is_file():  # the length is the budget's, whatever train.json says
        earlier, config = (
            {key: value for key, value in each.items() if key not in LENGTHS} for each in (earlier, config)
        )
    before, now = (dict(flat_settings(each)) for each in (earlier, json.loads(json.dumps(dict(config)))))
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    listed = ", ".join(f"{key}: {before.get(key)!r} -> {now.get(key)!r}" for key in changed)
    if changed:
        log.warning("%s goes on with other settings than it was started with: %s", run_folder.name, listed)


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


def _same_part(target: Any) -> Any:
    """A target by its definition: a part of medseg has kept its meaning under every name that it had."""
    try:
        return canonical_target(target)
    except (TargetError, AttributeError):
        return target
