"""Imports point down, never sideways, never up; foreign packages have a home. The tables below are the rule."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# The floors, bottom up; docs/architecture.md says what each is for.
FLOORS = {
    name: number
    for number, names in {
        1: (
            "layout",
            "record",
            "heartbeat",
            "bars",
            "interruption",
            "renamed",
            "ranks",
            "own_parts",
            "telemetry",
            "devices",
            "free_memory",
            "config",
            "documents",
            "documents_yaml",
            "types",
            "errors",
        ),
        2: ("transforms", "networks", "io", "losses"),
        3: ("inference", "evaluation", "datasets", "tracking"),
        4: ("planning", "cases", "selection", "assurance", "synthesis"),
        5: ("bundle", "training"),
        6: ("collaboration",),
        7: ("server",),
        8: ("commands", "components"),
        9: ("cli",),
    }.items()
    for name in names
}
KERNEL_USERS = {"networks", "transforms", "inference", "evaluation", "cli"}
HOMES = {
    "triton": ("kernels",),
    "nibabel": ("medseg/io",), "pydicom": ("medseg/io",), "highdicom": ("medseg/io",), "SimpleITK": ("medseg/io",),
    "pytorch_lightning": ("medseg/training", "medseg/tracking", "medseg/collaboration"),
    "nvflare": ("medseg/collaboration",),
    "ray": ("medseg/commands/cohort_ray.py",), "fsspec": ("medseg/io/remote.py",), "s3fs": ("medseg/io/remote.py",),
    "lightning": (),
    "mlflow": ("medseg/tracking",),
    "jinja2": ("medseg/evaluation",),
    "argparse": ("medseg/cli",), "typer": ("medseg/cli",), "rich": ("medseg/cli",),
}  # fmt: skip
# monai above floor 1 and in config.py, never in the kernels nor in evaluation's formulas
NO_MONAI = ("kernels", "medseg/evaluation", "medseg/errors.py", "medseg/types.py")

SOURCES = sorted([*(ROOT / "medseg").rglob("*.py"), *(ROOT / "kernels" / "medseg_kernels").rglob("*.py")])


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of every import of a file, those inside functions included."""
    relative = path.relative_to(ROOT / "kernels" if "medseg_kernels" in path.parts else ROOT)
    package = list(relative.with_suffix("").parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield node.lineno, module
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def area(path: Path) -> str:
    """The floor's word a file belongs to: its folder below medseg, or its own name."""
    parts = path.relative_to(ROOT / "medseg").with_suffix("").parts
    return parts[0]


MEDSEG = [path for path in SOURCES if "medseg_kernels" not in path.parts]


@pytest.mark.parametrize("path", MEDSEG, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    own = area(path)
    if own in ("__init__", "__main__"):
        return  # the door: lazy re-exports
    assert own in FLOORS, f"{path.relative_to(ROOT)} stands on no floor: give {own} one in FLOORS"
    for line, name in imports_of(path):
        parts = name.split(".")
        if parts[0] == "medseg" and len(parts) > 1 and parts[1] in FLOORS:
            other = parts[1]
            assert other == own or FLOORS[other] < FLOORS[own] or FLOORS[other] == FLOORS[own] == 1, (
                f"{path.relative_to(ROOT)}:{line} imports {name}: {own} is on floor {FLOORS[own]}, {other} on floor "
                f"{FLOORS[other]}. Move the shared part down, or pass it in as an argument."
            )
        if parts[0] == "medseg_kernels":
            assert own in KERNEL_USERS, f"{path.relative_to(ROOT)}:{line}: {own} may not call medseg_kernels"
            assert len(parts) <= 2, (
                f"{path.relative_to(ROOT)}:{line}: use public names of medseg_kernels only, not {name}"
            )


@pytest.mark.parametrize("path", MEDSEG, ids=lambda p: str(p.relative_to(ROOT)))
def test_within_a_folder_imports_are_relative_and_across_folders_absolute(path: Path) -> None:
    own = area(path)
    if own in ("__init__", "__main__"):
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        where = f"{path.relative_to(ROOT)}:{node.lineno}"
        inside = path.parent != ROOT / "medseg"
        if inside and node.level == 0 and node.module and node.module.split(".")[:2] == ["medseg", own]:
            raise AssertionError(f"{where} imports {node.module} of its own folder: write it relatively")
        if inside and node.level > len(path.relative_to(ROOT / "medseg").parts) - 1:
            raise AssertionError(
                f"{where} leaves its folder with {'.' * node.level}: write medseg.… so that the floor shows"
            )


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_foreign_packages_stay_in_their_home(path: Path) -> None:
    place = path.relative_to(ROOT).as_posix()
    for line, name in imports_of(path):
        top = name.split(".")[0]
        if top in HOMES:
            assert place.startswith(HOMES[top]), (
                f"{place}:{line} imports {top}, which may be used in {HOMES[top] or 'no place'} only"
            )
        if top == "monai":
            assert not place.startswith(NO_MONAI), f"{place}:{line} imports monai"


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if "medseg_kernels" in p.parts], ids=lambda p: str(p.relative_to(ROOT))
)
def test_kernels_import_nothing_of_medseg(path: Path) -> None:
    for line, name in imports_of(path):
        assert name.split(".")[0] != "medseg", f"{path.relative_to(ROOT)}:{line} imports {name}"


@pytest.mark.parametrize(("folder", "top"), [(".", "medseg"), ("kernels", "medseg_kernels")])
def test_every_package_is_listed_for_the_wheel(folder: str, top: str) -> None:
    base = ROOT / folder
    listed = set(tomllib.loads((base / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {".".join(p.parent.relative_to(base).parts) for p in (base / top).rglob("__init__.py")}
    assert found == listed - {"medseg._configs", "medseg._bundles"}


def test_the_folder_kernels_is_no_package() -> None:
    # another package has that import name
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_no_pickle_in_the_package() -> None:
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert "weights_only=False" not in text, path
        assert "allow_pickle=True" not in text, path
        assert not re.search(r"pickle\.(loads?|dumps?|Unpickler|Pickler)\b", text), path
        assert not {name.split(".")[0] for _, name in imports_of(path)} & {"dill", "cloudpickle", "joblib"}, path
