"""Python modules that a trusted bundle brings: found in its private copy only, compiled from source each time.

No bytecode is read or written, no zip is entered, and the bundle's real folder is closed to the ordinary import system:
whatever puts it on `sys.path` (MONAI's workflow, a working directory), no file that was not shown can be imported.
Modules of two bundles in one process do not mix: those of the other one leave `sys.modules` while one is active.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

CODE = (*importlib.machinery.SOURCE_SUFFIXES, *importlib.machinery.EXTENSION_SUFFIXES, ".pyd", ".so")


class SourceOnlyLoader(importlib.machinery.SourceFileLoader):
    """Compiles the source; a cached file beside it is neither looked for nor written."""

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


LOADERS = (
    (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES),
    (SourceOnlyLoader, importlib.machinery.SOURCE_SUFFIXES),
)


class OwnModules(importlib.abc.MetaPathFinder):
    """Finds the modules of one bundle below its private copy.

    Args:
        copy: the private copy.
        folder: the bundle's real folder, which the import system may not enter from now on.
    """

    def __init__(self, copy: Path, folder: Path) -> None:
        self.copy = copy
        self.folder = folder
        self.modules: dict[str, ModuleType] = {}
        _close(copy, folder)

    def activate(self) -> None:
        """Make this bundle's modules the ones that a name stands for."""
        global _active
        if _active is self:
            return
        sys.dont_write_bytecode = True
        if _active is not None:
            _active.modules = {
                name: module for name, module in sys.modules.items() if _comes_from(module, _active.copy)
            }
            for name in _active.modules:
                del sys.modules[name]
            sys.meta_path.remove(_active)
        for name in [name for name, module in sys.modules.items() if _comes_from(module, self.folder)]:
            del sys.modules[name]  # imported from the real folder before: nobody hashed that
        sys.modules.update(self.modules)
        # before PathFinder, so that a stray package of the machine does not stand in; built-in and frozen ones stay first
        place = next(
            (n for n, f in enumerate(sys.meta_path) if f is importlib.machinery.PathFinder), len(sys.meta_path)
        )
        sys.meta_path.insert(place, self)
        _active = self

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The module below the copy; None where it has none of that name, or the standard library has."""
        if path is None:
            if fullname in sys.stdlib_module_names:
                return None
            places = [str(self.copy)]
        else:
            places = [place for place in path if _inside(place, self.copy)]
        for place in places:
            spec = importlib.machinery.FileFinder(place, *LOADERS).find_spec(fullname)
            if spec is None:
                continue
            if spec.loader is None and path is None and importlib.machinery.PathFinder.find_spec(fullname) is not None:
                continue  # a folder without __init__.py gives way to an installed package, as in Python
            return spec
        return None


_active: OwnModules | None = None
_closed: set[Path] = set()


def _comes_from(module: object, root: Path) -> bool:
    """Whether a loaded module's file or folder lies below a resolved folder; no look at the disk for thousands of them."""
    spec = getattr(module, "__spec__", None)
    places = [getattr(spec, "origin", None), *(getattr(spec, "submodule_search_locations", None) or [])]
    own = str(root)
    return any(isinstance(place, str) and (place == own or place.startswith(own + os.sep)) for place in places)


def _inside(place: str, root: Path) -> bool:
    found = Path(place).resolve()
    return found == root or root in found.parents


class _NothingHere:
    """What the import system finds in a closed folder."""

    def find_spec(self, fullname: str, target: object = None) -> None:
        return None

    def invalidate_caches(self) -> None: ...


def _path_hook(entry: str) -> Any:
    """For `sys.path_hooks`: closed folders, all below them and zips in them hold no modules."""
    if _is_closed(entry):
        return _NothingHere()
    raise ImportError


def _is_closed(entry: str) -> bool:
    """Looks at the disk once, however many folders are closed: the import system asks for a thousand entries."""
    found = Path(entry or ".").resolve()
    return not _closed.isdisjoint((found, *found.parents))


def _close(*folders: Path) -> None:
    if _path_hook not in sys.path_hooks:
        sys.path_hooks.insert(0, _path_hook)
    _closed.update(folder.resolve() for folder in folders)
    for entry in list(sys.path_importer_cache):
        if _is_closed(entry):
            del sys.path_importer_cache[entry]
