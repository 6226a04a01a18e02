"""3D CT and MR segmentation: plan, fit, predict, evaluate; every model is a MONAI bundle.

In a notebook the verbs of the command line are functions: `medseg.plan`, `medseg.fit`, `medseg.cv`, `medseg.predict`,
`medseg.evaluate`; `medseg.load(bundle)` makes a function from an image to its label map. They load their parts when they
are first used, so that `import medseg` is instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import renamed, telemetry

if TYPE_CHECKING:
    from .commands.cv import cross_validate as cv
    from .commands.fit import fit_bundle as fit
    from .commands.plan import plan_bundle as plan
    from .commands.predict import predict_bundle as predict
    from .commands.segment import load
    from .evaluation import evaluate_folders as evaluate
    from .inference.settings import PredictOptions

__version__ = "0.1.0"

# Code and bundle files of 0.1 name modules that have moved since.
renamed.install()

telemetry.install()

_DOORS = {
    "PredictOptions": ("medseg.inference.settings", "PredictOptions"),
    "cv": ("medseg.commands.cv", "cross_validate"),
    "evaluate": ("medseg.evaluation", "evaluate_folders"),
    "fit": ("medseg.commands.fit", "fit_bundle"),
    "load": ("medseg.commands.segment", "load"),
    "plan": ("medseg.commands.plan", "plan_bundle"),
    "predict": ("medseg.commands.predict", "predict_bundle"),
}

__all__ = ["PredictOptions", "__version__", "cv", "evaluate", "fit", "load", "plan", "predict"]


def __getattr__(name: str) -> Any:
    if name in _DOORS:
        module, function = _DOORS[name]
        return getattr(importlib.import_module(module), function)
    raise AttributeError(f"module 'medseg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
