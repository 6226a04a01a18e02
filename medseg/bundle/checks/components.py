"""Checks of one configuration file: nothing forbidden, no dangling reference, no argument that its target lacks."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from medseg.config import ABSENT, look_up
from medseg.errors import nearest

from ..opening.expressions import walk
from ..opening.grammar import references
from ..opening.parser import check_config
from ..opening.targets import COMPONENT_WORDS, TargetError, resolve_target


def check_safety(name: str, config: Mapping[str, Any]) -> list[str]:
    """What needs `--trust`; `bundle_root` is set by whoever opens the bundle."""
    return [f"{name}, {refusal}" for refusal in check_config({**config, "bundle_root": "."})]


def check_references(name: str, config: Mapping[str, Any]) -> list[str]:
    """Every `@id` stands for something in the file; ids of the metadata (`_meta_`) are MONAI's business."""
    faults = []
    for key, node in walk(config):
        if not isinstance(node, str) or not node.startswith(("@", "$")):
            continue
        for reference in references(node):
            if not reference.startswith("_meta_") and look_up(config, reference) is ABSENT:
                faults.append(f"{name}, {key}: refers to @{reference}, which is not defined")
    return faults


def _accepted(target: Any) -> set[str] | None:
    try:
        parameters = inspect.signature(target).parameters.values()
    except (ValueError, TypeError):
        return None
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters} - {"self"}


def check_arguments(name: str, config: Mapping[str, Any]) -> list[str]:
    """Every target is installed, and every argument is one that it takes: MONAI finds out only when it runs."""
    faults = []
    for key, node in walk(config):
        if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
            continue
        try:
            target = resolve_target(node["_target_"])
        except TargetError as error:
            if "not installed" in str(error) or "was found there" in str(error):
                faults.append(f"{name}, {key}: {node['_target_']} {error}")
            continue  # not allowed: `check_safety` has said so
        accepted = _accepted(target)
        if accepted is None:
            continue
        for argument in node:
            if argument not in accepted and argument not in COMPONENT_WORDS:
                hint = nearest(argument, accepted)
                faults.append(f"{name}, {key}: {node['_target_']} takes no argument {argument!r}. {hint}")
    return faults
