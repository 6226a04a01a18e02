"""What a trusted bundle will run, as lines for a person: every file, every named object, every import."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.config import TARGET, read_json
from medseg.errors import MedsegError

from .inventory import Inventory, told
from .own_modules import CODE

CONFIGURATIONS = (".json", ".yaml", ".yml")
MOST_FILES = 200  # files that hold neither code nor configuration and are listed one by one
MOST_NODES = 200_000  # of one configuration that are looked through


@dataclass(frozen=True)
class Shown:
    """What a person is asked about.

    Args:
        folder: the bundle.
        digest: SHA-256 over all its files.
        lines: the listing, safe for a screen.
    """

    folder: Path
    digest: str
    lines: tuple[str, ...]


def to_show(inventory: Inventory, changed: list[str]) -> Shown:
    """The question's record, see `describe`."""
    return Shown(inventory.folder, inventory.digest, tuple(describe(inventory, changed)))


def describe(inventory: Inventory, changed: list[str]) -> list[str]:
    """The listing: code first, then configurations and what they name, then the other files.

    Args:
        inventory: with its private copy, which is what is looked through.
        changed: files that differ from what was trusted before; marked.
    """
    marks = set(changed) if len(changed) < len(inventory.files) else set()
    rows: dict[str, list[str]] = {"code": [], "configurations": [], "other files": []}
    for name, facts in sorted(inventory.files.items()):
        suffix = "." + name.rpartition(".")[2].lower()
        kind = "code" if suffix in CODE else "configurations" if suffix in CONFIGURATIONS else "other files"
        note = "  (changed)" if name in marks else "  (bytecode, never run)" if suffix in (".pyc", ".pyo") else ""
        rows[kind].append(f"  {facts.sha256}  {facts.size:>12}  {name}{note}")
    rows["other files"] = _shortened(rows["other files"])
    lines = [f"{told(str(inventory.folder))} will run with your rights:"]
    for kind, listed in rows.items():
        lines += [f"{kind} (SHA-256, bytes, name):" if listed else f"{kind}: none", *listed]
    gone = sorted(marks - set(inventory.files))
    lines += [f"removed since it was trusted: {', '.join(gone)}"] if gone else []
    return [*lines, *_named(inventory), f"SHA-256 of all files: {inventory.digest}"]


def _shortened(rows: list[str]) -> list[str]:
    more = len(rows) - MOST_FILES
    return rows if more <= 0 else [*rows[:MOST_FILES], f"  and {more} more, which count in the SHA-256 of all files"]


def _named(inventory: Inventory) -> list[str]:
    """`_target_`s, import statements and the number of expressions, over all configurations."""
    targets: set[str] = set()
    imports: set[str] = set()
    expressions = 0
    unreadable = []
    assert inventory.copy is not None
    for path in sorted(inventory.copy.rglob("*")):
        if path.suffix.lower() not in CONFIGURATIONS or not path.is_file():
            continue
        name = told(path.relative_to(inventory.copy).as_posix())
        try:
            content = _content(path)
        except (OSError, ValueError, RecursionError):
            unreadable.append(f"  {name} cannot be read")
            continue
        for node in _nodes(content):
            if isinstance(node, Mapping) and TARGET in node:
                targets.add(told(str(node[TARGET])))
            elif isinstance(node, str) and node.startswith("$"):
                expressions += 1
                if "import" in node:
                    imports.add(told(node))
    return [
        f"objects named by _target_ ({len(targets)}):",
        *(f"  {target}" for target in sorted(targets)),
        f"imports ({len(imports)}):",
        *(f"  {text}" for text in sorted(imports)),
        f"expressions: {expressions}",
        *unreadable,
    ]


def _content(path: Any) -> object:
    if path.suffix.lower() == ".json":
        return read_json(path)
    from .parser import read_file

    try:
        return read_file(path)
    except MedsegError as error:
        raise ValueError(str(error)) from error


def _nodes(content: object) -> Iterator[Any]:
    """Every mapping and text of a configuration, each shared part once.

    Raises:
        ValueError: more than `MOST_NODES`.
    """
    pending, seen, count = [content], set(), 0
    while pending:
        node = pending.pop()
        count += 1
        if count > MOST_NODES:
            raise ValueError("too many nodes")
        if isinstance(node, Mapping | list):
            if id(node) in seen:
                continue
            seen.add(id(node))
            pending += [*node.keys(), *node.values()] if isinstance(node, Mapping) else node
        yield node
