"""Python packages that lie in a bundle: the user's own parts, brought there by `project: ./folder`.

A package lies at the top of the bundle, where MONAI's own commands find it too.
"""

from __future__ import annotations

import importlib.machinery
import keyword
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medseg.config import read_json
from medseg.errors import ConfigError
from medseg.io.whole_folders import put_folder, temporary_folder
from medseg.layout import Layout
from medseg.own_parts import NAME

from .inventory import BYTECODE, Inventory, private_folder, take_inventory
from .own_modules import OwnModules

KEY = "project"
LARGEST = 64 << 20  # bytes of a project's folder; it travels with the bundle


def own_packages(folder: Path) -> list[Path]:
    """Folders at the top of a bundle that Python would import."""
    layout = Layout(folder)
    others = {layout.configs, layout.models, layout.runs, layout.readme.parent, layout.schema.parent}
    return sorted(path.parent for path in folder.glob("*/__init__.py") if path.parent not in others)


def code_files(folder: Path) -> Iterator[Path]:
    """Every file of a bundle's packages, what Python caches left out."""
    for package in own_packages(folder):
        for path in sorted(package.rglob("*")):
            if path.is_file() and path.suffix.lower() not in BYTECODE:
                yield path


@dataclass(frozen=True)
class Project:
    """A folder of the user's own code, as it was when it was named.

    Args:
        source: the folder.
        inventory: its files, in a private copy; that copy is what runs and what a bundle gets.
    """

    source: Path
    inventory: Inventory

    @property
    def name(self) -> str:
        """The package's name, which is the folder's."""
        return self.source.name

    @property
    def digest(self) -> str:
        """SHA-256 over names and contents."""
        return self.inventory.digest

    def activate(self) -> None:
        """Let its modules be found, in place of any of the same name that were imported from the folder before."""
        for name in [name for name in sys.modules if name.split(".")[0] == self.name]:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(self.source)):
                del sys.modules[name]
        assert self.inventory.copy is not None
        OwnModules(self.inventory.copy.parent, self.source).activate()

    def put(self, bundle: Path) -> None:
        """Write the package into a bundle, whole or not at all; one of the same name is replaced."""
        assert self.inventory.copy is not None
        with temporary_folder(bundle) as place:
            put_folder(Path(shutil.copytree(self.inventory.copy, place / self.name)), bundle / self.name)


def run_files(bundle: Path, project: Project | None, before: Inventory | None) -> Inventory:
    """What a training with own parts reads and runs: the bundle's configurations, and the project's code.

    Args:
        bundle: the bundle.
        project: the user's, or None.
        before: the files of a bundle that brings code itself; the project takes the place of a package of its name.
    """
    layout, copy = Layout(bundle), before.copy if before else None
    if copy is None:
        copy = private_folder(bundle.resolve().name)
        shutil.copytree(layout.configs, copy / layout.configs.name)
        if layout.plan.is_file():
            shutil.copy(layout.plan, copy)
    files = dict(before.files) if before else {}
    if project is not None:
        assert project.inventory.copy is not None
        shutil.rmtree(copy / project.name, ignore_errors=True)
        shutil.copytree(project.inventory.copy, copy / project.name)
        files |= {f"{project.name}/{name}": facts for name, facts in project.inventory.files.items()}
    return Inventory(bundle.resolve(), files, copy)


def named_project(value: object, beside: Path | None = None) -> Project | None:
    """The project that a command line or a configuration file of the user names; None for null.

    Args:
        value: path of the folder, relative to `beside`, or else to the working directory.
        beside: folder of the file that names it.

    Raises:
        ConfigError: no such folder, or none that can be a package of its own name.
        UntrustedBundleError: it holds links.
    """
    if value is None:
        return None
    if not isinstance(value, (str, Path)) or not str(value).strip():
        raise ConfigError(f"project is {value!r}; expected a folder with your code, such as project=./my_code")
    places = [base / Path(value).expanduser() for base in ((beside,) if beside else ()) + (Path(),)]
    folder = next((place.resolve() for place in places if place.is_dir()), None)
    if folder is None:
        raise ConfigError(
            f"project {value}: no such folder; expected the folder with your code, such as project=./my_code"
        )
    _check_name(folder)
    if not (folder / "__init__.py").is_file():
        raise ConfigError(f"project {value}: has no __init__.py; write one with your tables, such as MIXERS = {{...}}")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > LARGEST:
        raise ConfigError(
            f"project {value}: holds {size / 1e6:.0f} MB, expected at most {LARGEST / 1e6:.0f}: it travels with the bundle. "
            "Name the folder of the code alone"
        )
    return Project(folder, take_inventory(folder, private_copy=True))


def _check_name(folder: Path) -> None:
    """Refuse a folder whose name Python, medseg or the bundle gives another meaning. Raises ConfigError."""
    name, layout = folder.name, Layout(folder)
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ConfigError(
            f"project {folder.name!r} is no name that Python can import; rename the folder, such as my_code"
        )
    used = {
        path.name for path in (layout.configs, layout.models, layout.runs, layout.readme.parent, layout.schema.parent)
    }
    found = importlib.machinery.PathFinder.find_spec(name)
    origins = [found.origin, *(found.submodule_search_locations or [])] if found else []
    elsewhere = any(
        origin and folder not in (Path(origin).resolve(), *Path(origin).resolve().parents) for origin in origins
    )
    if name in used | {"scripts"} or name in sys.stdlib_module_names or elsewhere:
        taken = "a folder of every bundle" if name in used else "the name of another package"
        raise ConfigError(f"project {name!r} is {taken}; rename the folder, such as my_{name}")


def project_of_files(files: list[Path]) -> Project | None:
    """The project that the last of these files names."""
    found = None
    for file in files:
        content = read_json(file)
        if isinstance(content, dict) and KEY in content:
            found = named_project(content[KEY], beside=file.parent)
    return found
