"""Names that MLflow accepts, made in one place."""

from __future__ import annotations

import re

_FORBIDDEN = re.compile(r"[^\w\-. /]+")


def metric_name(metric: str, label: str | None = None) -> str:
    """`val_dice` and "liver (left)" give "val_dice/liver_left": what MLflow strips or refuses is replaced by `_`.

    Example:
        >>> metric_name("val_dice", "liver (left)")
        'val_dice/liver_left'
    """
    parts = [metric] if label is None else [metric, label]
    cleaned = [_FORBIDDEN.sub("_", part).replace("/", "_").replace(" ", "_").strip("_") for part in parts]
    return "/".join(re.sub("_+", "_", part) for part in cleaned)
