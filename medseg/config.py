"""One configuration language: MONAI's bundle JSON. Read, override, check, write.

MONAI accepts an unknown key silently, so that a typing error trains the wrong thing. Here every override is checked
against the file first; below a `_target_` a key is also known when the target's signature accepts it.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .documents import parse_json
from .documents import read_json as read_json  # the one door of JSON files; most ask for it here
from .errors import ConfigError, nearest
from .renamed import current, names_that_left

TARGET = "_target_"
COMPONENTS = "medseg.components"
# Keys of MONAI's own component syntax, known below every `_target_`.
# What people call a key, and the last step of its name here.
SHORT = {
    "lr": "learning_rate",
    "wd": "weight_decay",
    "epochs": "max_epochs",
    "num_epochs": "max_epochs",
    "bs": "batch_size",
    "patch_size": "roi_size",
    "workers": "num_workers",
    "optim": "optimizer",
    "scheduler": "schedule",
    "lr_scheduler": "schedule",
    "warmup": "warmup_steps",
    "data": "dataset_dir",
    "data_dir": "dataset_dir",
    "model": "preset",
    "clip": "gradient_clip",
    "ema": "ema_decay",
}
COMPONENT_KEYS = ("_target_", "_requires_", "_disabled_", "_mode_", "_desc_")


def read_config(files: Sequence[Path]) -> dict[str, Any]:
    """Merge bundle JSON files; for a key that stands in several, the later file wins (`+key` merges into it).

    A key that is a path, such as `train::trainer::devices`, sets one value deep in the merged files.

    Raises:
        ConfigError: a file is missing or is no JSON object, and the message names it, with line and column; or a path
            leads nowhere.
    """
    merged: dict[str, Any] = {}
    for file in files:
        content = _read_object(Path(file))
        paths = {key: content.pop(key) for key in list(content) if "::" in key or "#" in key}
        for key, value in content.items():
            if key.startswith("+"):
                merged[key[1:]] = _joined(merged.get(key[1:]), value, whose=f"{file}: key {key!r}")
            else:
                merged[key] = value
        try:
            merged = apply_overrides(merged, paths, foreign=False)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from error
    return merged


def _read_object(file: Path) -> dict[str, Any]:
    content = read_json(file)
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: holds a {type(content).__name__}, expected an object of keys and values")
    return content


def _joined(old: object, new: object, *, whose: str) -> object:
    """What MONAI's `+key` means: update a table, extend a list."""
    if isinstance(old, dict) and isinstance(new, dict):
        return old | new
    if isinstance(old, list) and isinstance(new, list):
        return old + new
    raise ConfigError(
        f"{whose} adds a {type(new).__name__} to a {type(old).__name__}; both must be tables or both lists"
    )


def parse_overrides(words: Iterable[str]) -> dict[str, Any]:
    """Turn `key::path=value` words into {"key::path": value}; a value is JSON where it reads as JSON, else text.

    Raises:
        ConfigError: a word has no `=` or an empty key.

    Example:
        >>> parse_overrides(["network_def::mixer=identity", "max_epochs=3"])
        {'network_def::mixer': 'identity', 'max_epochs': 3}
    """
    overrides: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"override {word!r} is not of the form key::path=value")
        try:
            overrides[key.strip()] = parse_json(text, key.strip())
        except ConfigError:
            overrides[key.strip()] = text
    return overrides


def steps_of(key: str) -> list[str]:
    """The steps of an id such as `train::trainer::devices` (or, as MONAI also writes it, `train#trainer#devices`)."""
    return [step for step in key.replace("#", "::").split("::") if step]


ABSENT: Any = object()  # what `look_up` gives for an id that leads nowhere; a value may be None


def look_up(config: object, key: str) -> object:
    """The value at an id, or ABSENT. Lists are entered by their index."""
    node = config
    for step in steps_of(key):
        if isinstance(node, Mapping) and step in node:
            node = node[step]
        elif isinstance(node, list) and step.isdigit() and int(step) < len(node):
            node = node[int(step)]
        else:
            return ABSENT
    return node


def _accepted_by(target: str, foreign: bool) -> set[str] | None:
    """Parameter names of a `_target_`, or None when it takes any keyword.

    Importing a module runs it. Unless the configuration was judged before (`foreign`), only our own parts are looked up.
    """
    homes: dict[str, str] = importlib.import_module(COMPONENTS).HOMES  # a table of texts; it imports nothing
    module_name, _, attribute = current(target).rpartition(".")
    if attribute in homes and module_name in (COMPONENTS, homes[attribute]):
        module_name = homes[attribute]
    elif not foreign:
        return set()
    try:
        callee = getattr(importlib.import_module(module_name), attribute)
        parameters = inspect.signature(callee).parameters.values()
    except (ImportError, AttributeError, ValueError, TypeError):
        return set()
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters}


def _known_here(node: Mapping[str, Any], config: Mapping[str, Any], foreign: bool) -> set[str] | None:
    """Keys that may be set below one node; None when any may."""
    known = set(node)
    target = node.get(TARGET)
    if isinstance(target, str) and target.startswith("@"):
        target = config.get(target[1:])
    if isinstance(target, str):
        accepted = _accepted_by(target, foreign)
        return None if accepted is None else known | accepted | set(COMPONENT_KEYS)
    return known


def check_override(config: Mapping[str, Any], key: str, *, foreign: bool = True) -> None:
    """Refuse a key that neither the configuration nor the signature of the component it lies in knows.

    Args:
        config: the configuration, judged before if it is a stranger's.
        key: `a::b::c`.
        foreign: look up signatures of targets that are not ours, which imports their modules.

    Raises:
        ConfigError: the message names the step that is unknown, where, and the nearest known names.
    """
    node: Any = config
    steps = steps_of(key)
    if not steps:
        raise ConfigError("an override has an empty key")
    for position, step in enumerate(steps):
        here = "::".join(steps[:position]) or "the top level"
        if isinstance(node, Mapping):
            known = _known_here(node, config, foreign)
            if known is not None and step not in known:
                full = _full_names(config, steps[-1])
                pointed = f"Its full name is {' or '.join(full)}. " if full else ""
                raise ConfigError(f"unknown key {step!r} in {here} (override {key!r}). {pointed}{nearest(step, known)}")
            node = node.get(step)
        elif isinstance(node, list):
            if not step.isdigit() or int(step) >= len(node):
                raise ConfigError(f"{here} is a list of {len(node)}; {step!r} is no index of it (override {key!r})")
            node = node[int(step)]
        else:
            raise ConfigError(f"{here} is {node!r} and holds no keys (override {key!r})")


def _full_names(config: Mapping[str, Any], name: str) -> list[str]:
    """Keys that a short name may stand for: those that end with it, or with what it is called here."""
    wanted = (name, SHORT.get(name, name))
    found: list[str] = []

    def walk(node: object, path: tuple[str, ...]) -> None:
        if isinstance(node, Mapping):
            for key, value in node.items():
                if key in wanted and not (isinstance(value, str) and value.startswith("@")):
                    found.append("::".join((*path, key)))
                walk(value, (*path, key))

    walk(config, ())
    return sorted(found, key=lambda key: key.count("::"))[:3]


def _check_kind(key: str, old: object, value: object) -> None:
    """A number, a switch, a list or a table is replaced by one of its kind, by a reference or by an expression.

    Raises:
        ConfigError: naming both.
    """
    if value is None or old is None or (isinstance(value, str) and value.startswith(("@", "$"))):
        return
    kinds = {bool: "true or false", int: "a number", float: "a number", list: "a list such as [1,2,3]"}
    expected = kinds.get(type(old))
    if isinstance(old, Mapping) and not isinstance(value, Mapping):
        inner = [name for name in old if not str(name).startswith("_")]
        raise ConfigError(
            f"{key} is a table and was given {value!r}; set a value inside it, such as {key}::{inner[0]}=..."
            if inner
            else f"{key} is a table and was given {value!r}; expected a table such as {{}}"
        )
    number = isinstance(value, int | float) and not isinstance(value, bool)
    right = {bool: isinstance(value, bool), int: number, float: number, list: isinstance(value, list)}
    if expected and not right[type(old)]:
        raise ConfigError(f"{key} is {value!r}; expected {expected}, as in {key}={json.dumps(old)}")


def apply_overrides(config: dict[str, Any], overrides: Mapping[str, Any], *, foreign: bool = True) -> dict[str, Any]:
    """A copy of `config` with every override checked and set; `foreign` as in `check_override`.

    Raises:
        ConfigError: see `check_override`.
    """
    result: dict[str, Any] = json.loads(json.dumps(config))
    for key, value in overrides.items():
        check_override(result, key, foreign=foreign)
        *parents, last = steps_of(key)
        node: Any = result
        for step in parents:
            node = node[int(step)] if isinstance(node, list) else node.setdefault(step, {})
        earlier = look_up(result, key)
        if earlier is not ABSENT:
            _check_kind(key, earlier, value)
        if isinstance(node, list):
            node[int(last)] = value
        else:
            node[last] = value
    return result


# names that left this module are found where they are now
__getattr__ = names_that_left(__name__)
