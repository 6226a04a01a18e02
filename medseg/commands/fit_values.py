"""What a value of train.json may be, checked before anything of an earlier run is touched."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from medseg.config import ABSENT, look_up
from medseg.errors import ConfigError, nearest

from .fit_keys import shown


def _whole(least: int) -> Callable[[Any], str]:
    def fault(value: object) -> str:
        right = isinstance(value, int) and not isinstance(value, bool) and value >= least
        return "" if right else f"a whole number, at least {least}"

    return fault


def _number(*, above: bool) -> Callable[[Any], str]:
    def fault(value: object) -> str:
        right = isinstance(value, int | float) and not isinstance(value, bool) and (value > 0 if above else value >= 0)
        return "" if right else f"a number {'above' if above else 'of at least'} 0"

    return fault


def _extents(value: object) -> str:
    right = isinstance(value, list) and len(value) in (2, 3) and not any(_whole(1)(extent) for extent in value)
    return "" if right else "two or three whole numbers above 0, such as [64,64,64]"


RIGHT: dict[str, Callable[[Any], str]] = {
    "max_epochs": _whole(1),
    "steps_per_epoch": _whole(1),
    "batch_size": _whole(1),
    "val_interval": _whole(1),
    "num_workers": lambda value: "" if value is None else _whole(0)(value),
    "seed": _whole(0),
    "devices": lambda value: "" if value in (None, "auto") or isinstance(value, list) else _whole(1)(value),
    "num_nodes": lambda value: "" if value is None else _whole(1)(value),
    "micro_batch_size": lambda value: "" if value is None else _whole(1)(value),
    "roi_size": _extents,
    "budget_s": lambda value: "" if value is None else _number(above=True)(value),
    "train::module::learning_rate": _number(above=True),
    "train::module::weight_decay": _number(above=False),
    "train::module::deep_supervision": _number(above=False),
    "train::module::warmup_steps": _whole(0),
    "train::trainer::gradient_clip": lambda value: "" if value is None else _number(above=False)(value),
}


def check_values(config: Mapping[str, Any]) -> None:
    """Refuse values that no training can use, before anything of an earlier run is touched.

    Args:
        config: a resolved train.json; references and expressions are left to the reader.

    Raises:
        ConfigError: naming the key, the value and what is expected.
    """
    for key, fault in RIGHT.items():
        value = look_up(config, key)
        if value is ABSENT or (isinstance(value, str) and value.startswith(("@", "$"))):
            continue
        expected = fault(value)
        if expected:
            raise ConfigError(f"{key} is {shown(value)}; expected {expected}")
    for key, known in _choices(config.get("project")).items():
        value = look_up(config, key)
        if isinstance(value, str) and not value.startswith(("@", "$")) and value not in known:
            raise ConfigError(f"{key} is {value!r}. {nearest(value, known)}")


def _choices(project: object) -> dict[str, Collection[str]]:
    from medseg.losses import LOSSES
    from medseg.own_parts import Parts
    from medseg.training.optimization import OPTIMIZERS, SCHEDULES

    return {
        "train::module::loss": Parts("losses", LOSSES, project if isinstance(project, str) else None),
        "train::module::optimizer": OPTIMIZERS,
        "train::module::schedule": SCHEDULES,
    }
