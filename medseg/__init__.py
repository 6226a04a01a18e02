"""3D CT and MR segmentation: plan, fit, predict, evaluate; every model is a MONAI bundle.

In a notebook the verbs of the command line are functions: `medseg.plan`, `medseg.fit`, `medseg.predict`,
`medseg.evaluate`. They load their parts when they are first used, so that `import medseg` is instant.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from . import renamed

__version__ = "0.1.0"

# Code and bundle files of 0.1 name modules that have moved since.
renamed.install()

# MLflow reports usage to its makers unless it is told not to; a user's own setting wins.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

_DOORS = {
    "plan": ("medseg.commands.plan", "plan_bundle"),
    "fit": ("medseg.commands.fit", "fit_bundle"),
    "predict": ("medseg.commands.predict", "predict_bundle"),
    "evaluate": ("medseg.evaluation", "evaluate_folders"),
}

__all__ = ["__version__", "evaluate", "fit", "plan", "predict"]


def __getattr__(name: str) -> Any:
    if name in _DOORS:
        module, function = _DOORS[name]
        return getattr(importlib.import_module(module), function)
    raise AttributeError(f"module 'medseg' has no attribute {name!r}")
