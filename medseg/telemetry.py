"""Packages that report usage to their makers unasked are told not to, in the moment in which anybody imports them.

MONAI imports MLflow with its handlers, so the places in our own code that name it are not enough; and `import medseg` itself
leaves the environment as it is.
"""

from __future__ import annotations

import importlib.abc
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

VARIABLES = {
    "mlflow": {"MLFLOW_DISABLE_TELEMETRY": "true"},
    "huggingface_hub": {"HF_HUB_DISABLE_TELEMETRY": "1"},
}
PARTS = {"openvino": "openvino_telemetry"}  # without this part it takes a stub of its own


class Silence(importlib.abc.MetaPathFinder):
    """Finds no module; sets what the package that is looked for reads when it is imported. A user's own setting wins."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        for name, value in VARIABLES.get(fullname, {}).items():
            os.environ.setdefault(name, value)
        if fullname in PARTS:
            sys.modules.setdefault(PARTS[fullname], None)  # type: ignore[arg-type]


def install() -> None:
    """From now on in this process; a second call changes nothing."""
    if not any(isinstance(finder, Silence) for finder in sys.meta_path):
        sys.meta_path.insert(0, Silence())
