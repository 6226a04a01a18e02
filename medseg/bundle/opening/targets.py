"""`_target_`: which classes and functions an untrusted bundle may name, and how a name becomes an object.

The list (allowed_targets.json) holds full names, module and qualified name of the definition. A prefix proves nothing:
`torch.nn.functional.torch.os.system` and `monai.utils.run_cmd` both start well. So a spelling is refused before
anything is imported unless it can stand for a listed name, and the object that is found must be the listed one.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from medseg.errors import nearest
from medseg.renamed import current

# Words that take a name and load it: only these values, in any case. NumpyReader is missing: it opens pickles.
NAMED_OBJECTS = {
    "reader": {"nibabelreader", "itkreader", "pydicomreader", "pilreader", "nrrdreader"},
    "writer": {"nibabelwriter", "itkwriter", "pilwriter"},
}
# Arguments that download weights.
DOWNLOADS = ("pretrained", "pretrained_url")
MODES = ("default", "callable")
COMPONENTS = "medseg.components"


class TargetError(ValueError):
    """A component is not allowed; the message says why."""


@cache
def allowed_targets() -> frozenset[str]:
    """Full names of everything that may be built."""
    text = files("medseg.bundle.opening").joinpath("allowed_targets.json").read_text(encoding="utf-8")
    return frozenset(f"{module}.{name}" for module, names in json.loads(text).items() for name in names)


@cache
def _by_last_step() -> dict[str, tuple[str, ...]]:
    table: dict[str, list[str]] = {}
    for full in sorted(allowed_targets()):
        table.setdefault(full.rpartition(".")[2], []).append(full)
    return {last: tuple(found) for last, found in table.items()}


def defined_as(spelling: str) -> str:
    """The definition behind a frozen name of medseg.components, or behind a name of 0.1 that has moved; else the same text."""
    package, _, name = spelling.rpartition(".")
    if package == COMPONENTS:
        homes: dict[str, str] = importlib.import_module(COMPONENTS).HOMES  # a table of texts; it imports nothing
        return f"{homes[name]}.{name}" if name in homes else spelling
    return current(spelling)


def canonical_target(spelling: str) -> str:
    """The listed full name that a spelling stands for. Nothing is imported.

    A bare name stands for MONAI's component of that name, as in MONAI. A dotted one is the full name, or the same last
    step below a package that holds the definition's module (`monai.transforms.Compose`).

    Raises:
        TargetError: it stands for nothing on the list.
    """
    spelling = defined_as(spelling)
    package, _, last = spelling.rpartition(".")
    candidates = _by_last_step().get(last, ())
    if not package:
        found = [full for full in candidates if full.startswith("monai.")]
    else:
        found = [full for full in candidates if full.rpartition(".")[0] == package or full.startswith(package + ".")]
    if not found:
        raise TargetError(f"is not on the list of allowed targets. {nearest(last, _by_last_step())}")
    return found[0]


def resolve_target(spelling: str) -> Any:
    """The class or function itself, after its module and qualified name were compared with the list.

    Raises:
        TargetError: not listed, not there, or something else under that name.
    """
    expected = canonical_target(spelling)
    module_name, _, name = expected.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise TargetError(f"stands for {expected}, which is not installed here ({error})") from error
    actual = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    if actual != expected:
        raise TargetError(f"stands for {expected}, but {actual} was found there")
    return found


def check_component(component: Mapping[str, Any]) -> None:
    """Check one `{"_target_": ...}`: its target, mode, and the arguments that load or download by name.

    Raises:
        TargetError: the first thing that is not allowed.
    """
    target = component["_target_"]
    if not isinstance(target, str):
        raise TargetError("is not a name")
    if target.startswith(("$", "@", "%")):
        raise TargetError("computes its target instead of naming it")
    full_name = canonical_target(target)
    mode = component.get("_mode_", "default")
    if mode not in MODES:
        raise TargetError(f"has _mode_ {mode!r}; allowed: {', '.join(MODES)}")
    for key, names in NAMED_OBJECTS.items():
        values = component.get(key)
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, str) and value.lower() not in names:
                raise TargetError(f"names the {key} {value!r}; allowed: {', '.join(sorted(names))}")
    for key in DOWNLOADS:
        if component.get(key) and not full_name.startswith("medseg."):
            raise TargetError(f"asks for a download ({key})")
