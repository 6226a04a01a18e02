"""Whole volumes: sliding windows, blended and reduced to labels slab by slab, on the source grid.

`Predictor` and `SlidingWindowInferer` (a drop-in for MONAI's, whose import takes seconds) are loaded when asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .predictor import Predictor
    from .settings import Execution, LabelSettings, PredictOptions
    from .windows.sliding_window import SlidingWindowInferer

__all__ = ["Execution", "LabelSettings", "PredictOptions", "Predictor", "SlidingWindowInferer"]

_HOMES = {
    "Execution": "settings",
    "LabelSettings": "settings",
    "PredictOptions": "settings",
    "Predictor": "predictor",
    "SlidingWindowInferer": "windows.sliding_window",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
