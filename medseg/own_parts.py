"""Doors for parts that do not come with medseg: those of installed packages, and those of a user's own project folder.

A package says in its entry points which parts it brings, in the groups `medseg.mixers`, `medseg.losses`,
`medseg.augmentations`, `medseg.datasets` and `medseg.presets`. A project is a Python package whose `__init__.py` holds plain
tables of the same names in capitals: `MIXERS = {"mean": MeanMixer}`. Names that come with medseg mean medseg's parts.

Who may name a project is decided where bundles are opened; here it is a package that can be imported.
"""

from __future__ import annotations

import importlib
import re
import traceback
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import ConfigError

KINDS = ("mixers", "losses", "augmentations", "datasets", "presets")
NAME = re.compile(r"[A-Za-z_]\w*")


class Parts(Mapping[str, Any]):
    """Parts of one kind by name: medseg's, then the project's, then those of installed packages.

    A package is imported when one of its parts is asked for; its names are read without importing it.

    Args:
        kind: one of `KINDS`.
        built_in: medseg's own table.
        project: package of the user's project, or None.

    Raises:
        ConfigError: the project, or what an entry point names, cannot be imported, or its table is none.
    """

    def __init__(self, kind: str, built_in: Mapping[str, Any], project: str | None = None) -> None:
        self.kind, self.built_in = kind, built_in
        self.own = project_table(project, kind) if project else {}

    def __getitem__(self, name: str) -> Any:
        if name in self.built_in:
            return self.built_in[name]
        if name in self.own:
            return self.own[name]
        point = installed(self.kind).get(name)
        if point is None:
            raise KeyError(name)
        whose = f"{self.kind} {name!r} of {point.dist.name if point.dist else 'a package'} ({point.value})"
        with _told(whose):
            return point.load()

    def __iter__(self) -> Iterator[str]:
        return iter({**dict.fromkeys(self.built_in), **dict.fromkeys(self.own), **installed(self.kind)})

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in self.built_in or name in self.own or name in installed(self.kind)


@cache
def _points(kind: str) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=f"medseg.{kind}"))


def installed(kind: str) -> dict[str, EntryPoint]:
    """Entry points of one kind by name; reading them takes a while, so they are read once, and only when asked for."""
    return {point.name: point for point in _points(kind)}


def project_table(project: str, kind: str) -> dict[str, Any]:
    """The table of one kind in a project's `__init__.py`; empty where it has none.

    Raises:
        ConfigError: the project cannot be imported, or the table is no table of names.
    """
    table = getattr(import_project(project), kind.upper(), {})
    if not isinstance(table, Mapping) or not all(isinstance(name, str) for name in table):
        raise ConfigError(
            f'project {project}: {kind.upper()} is a {type(table).__name__}; expected names and parts, {{"name": Part}}'
        )
    return dict(table)


def import_project(project: str) -> ModuleType:
    """The package of a project, which must be importable.

    Raises:
        ConfigError: no name of a package, or whatever its import raised, with the line of the project's file.
    """
    if not NAME.fullmatch(project):
        raise ConfigError(f"project is {project!r}; expected a folder whose name is a Python name, such as ./my_code")
    with _told(f"project {project}"):
        return importlib.import_module(project)


class _told:
    """Whatever other people's code raises becomes one line that says whose code it is, and where."""

    def __init__(self, whose: str) -> None:
        self.whose = whose

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if not isinstance(error, Exception):
            return
        here = [frame for frame in traceback.extract_tb(trace) if "importlib" not in frame.filename][-1:]
        place = (
            f"{Path(here[0].filename).name} line {here[0].lineno}: " if here and here[0].filename != __file__ else ""
        )
        if isinstance(error, SyntaxError) and error.filename:
            place = f"{Path(error.filename).name} line {error.lineno}: "
        what = " ".join(str(error).split())
        raise ConfigError(f"{self.whose}: cannot be imported: {place}{type(error).__name__}: {what}") from error
