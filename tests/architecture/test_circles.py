"""No file imports itself through others: folders are layered inside as well."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.architecture.test_floors import ROOT, SOURCES, imports_of

# names the rooms behind it for editors and type checkers only; at run time it imports none of them
DOOR = ROOT / "medseg" / "__init__.py"


def module_of(path: Path) -> str:
    base = ROOT / "kernels" if "medseg_kernels" in path.parts else ROOT
    return ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__")


def imported_files() -> dict[Path, set[Path]]:
    """File -> the files of ours that it imports, imports inside functions and for type checkers included."""
    files = {module_of(path): path for path in SOURCES}
    graph = {}
    for path in SOURCES:
        if path == DOOR:
            graph[path] = set()
            continue
        by_line: dict[int, list[str]] = {}
        for line, name in imports_of(path):
            if name in files:
                by_line.setdefault(line, []).append(name)
        # `from .. import dispatch` means the file dispatch.py, not the package that holds it
        graph[path] = {
            files[name]
            for names in by_line.values()
            for name in names
            if files[name] != path and not any(other.startswith(f"{name}.") for other in names)
        }
    return graph


def circles(graph: dict[Path, set[Path]]) -> Iterator[list[Path]]:
    """Every way back to a file that a walk from it meets first."""
    done: set[Path] = set()

    def walk(path: Path, trail: list[Path]) -> Iterator[list[Path]]:
        if path in trail:
            yield [*trail[trail.index(path) :], path]
        elif path not in done:
            for other in sorted(graph[path]):
                yield from walk(other, [*trail, path])
            done.add(path)

    for path in sorted(graph):
        yield from walk(path, [])


def test_a_circle_is_found() -> None:
    a, b, c = Path("a"), Path("b"), Path("c")
    assert list(circles({a: {b}, b: {c}, c: {b}})) == [[b, c, b]]


def test_the_door_imports_no_room() -> None:
    import subprocess
    import sys

    code = "import medseg, sys; print(*sorted(name for name in sys.modules if name.startswith('medseg.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["medseg.renamed", "medseg.telemetry"]


def test_no_circle_of_files() -> None:
    found = [" -> ".join(str(path.relative_to(ROOT)) for path in circle) for circle in circles(imported_files())]
    assert not found, "\n".join(found)
