"""`_target_`: which classes and functions an untrusted bundle may name, with which arguments, and how a name becomes an object.

`TABLE` holds full names, module and qualified name of the definition. A prefix proves nothing:
`torch.nn.functional.torch.os.system` and `monai.utils.run_cmd` both start well. So a spelling is refused before
anything is imported unless it stands for a name in the table, and the object that is found must be that one.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from typing import Any

from medseg.errors import nearest
from medseg.renamed import current

from .kinds import ANYTHING
from .table_medseg import OWN
from .table_monai import MONAI
from .target import Target

COMPONENTS = "medseg.components"
HOMES: dict[str, str] = importlib.import_module(COMPONENTS).HOMES  # a table of texts; it imports nothing
# Keys of MONAI's component syntax beside the arguments.
COMPONENT_WORDS = frozenset({"_target_", "_disabled_", "_requires_", "_desc_", "_mode_"})

# Full name of the definition -> what may be done with it.
TABLE: dict[str, Target] = {**{f"{HOMES[name]}.{name}": target for name, target in OWN.items()}, **MONAI}


class TargetError(ValueError):
    """A component is not allowed; the message says why."""


@cache
def _by_last_step() -> dict[str, tuple[str, ...]]:
    table: dict[str, list[str]] = {}
    for full in sorted(TABLE):
        table.setdefault(full.rpartition(".")[2], []).append(full)
    return {last: tuple(found) for last, found in table.items()}


def defined_as(spelling: str) -> str:
    """The definition behind a frozen name of medseg.components, or behind a name of 0.1 that has moved; else the same text."""
    package, _, name = spelling.rpartition(".")
    if package == COMPONENTS:
        return f"{HOMES[name]}.{name}" if name in HOMES else spelling
    return current(spelling)


def canonical_target(spelling: str) -> str:
    """The full name in the table that a spelling stands for. Nothing is imported.

    A bare name stands for MONAI's component of that name, as in MONAI. A dotted one is the full name, or the same last
    step below a package that holds the definition's module (`monai.transforms.Compose`).

    Raises:
        TargetError: it stands for nothing in the table.
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
    """The class or function itself, after its module and qualified name were compared with the table.

    Raises:
        TargetError: not in the table, not there, or something else under that name.
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


def target_of(component: Mapping[str, Any]) -> Target:
    """The row of the table for one `{"_target_": ...}`, after its mode and the names of its arguments were compared with it.

    Raises:
        TargetError: the first thing that is not allowed.
    """
    target = component["_target_"]
    if not isinstance(target, str):
        raise TargetError("is not a name")
    if target.startswith(("$", "@", "%")):
        raise TargetError("computes its target instead of naming it")
    row = TABLE[canonical_target(target)]
    mode = component.get("_mode_", "default")
    if mode != "default" and not (mode == "callable" and row.callable):
        raise TargetError(f"has _mode_ {mode!r}, which hands a function to others")
    for name in component:
        if name == "project" and name not in row.arguments:
            raise TargetError("takes parts from code that the bundle brings (project), which is not run without trust")
        if name not in row.arguments and name not in COMPONENT_WORDS:
            raise TargetError(f"may not be given {name!r} without trust. {nearest(str(name), row.arguments)}")
    return row


def check_arguments(row: Target, arguments: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Compare values with the kinds of a row.

    Raises:
        TargetError: names the first argument that is of another kind.
    """
    for name, value in arguments.items():
        kind = row.arguments[name]
        if kind is not ANYTHING and not kind.takes(value, config):
            shown = repr(value) if not isinstance(value, (dict, list, tuple)) else f"a {type(value).__name__}"
            raise TargetError(f"is given {name} = {shown[:80]}; allowed: {kind.says}")
