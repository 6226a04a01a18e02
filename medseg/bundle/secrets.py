"""What must not leave this machine with a bundle: names of cases, folders of data, the user's home, the bundle's own place."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PureWindowsPath

from medseg.config import read_json
from medseg.layout import Layout

from .catalogue import packaged_folder

# Keys of configuration files that hold places on this machine.
PLACES = ("data_folder", "dataset_dir")
SHORTEST = 3  # letters of a name that is looked for inside other text; shorter ones count as whole strings only
WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Secrets:
    """What is replaced, and what must not be found afterwards.

    Args:
        folders: folder -> what stands for it; None where it is refused instead.
        names: case name -> what stands for it.
    """

    folders: Mapping[str, str | None]
    names: Mapping[str, str]

    @property
    def table(self) -> dict[str, str]:
        """Everything that is replaced in JSON files."""
        return {key: value for key, value in self.folders.items() if value is not None} | dict(self.names)


def secrets_of(layout: Layout, *, keep_names: bool = False) -> Secrets:
    """The secrets of a bundle folder.

    Args:
        layout: the bundle.
        keep_names: its cases' names are none.
    """
    contents = [read_json(path) for path in _configurations(layout)]
    folders: dict[str, str | None] = {}
    for content in contents:
        for key in PLACES if isinstance(content, Mapping) else ():
            folder = content.get(key)
            if isinstance(folder, str) and folder and not folder.startswith(("$", "@", "%")):
                folders |= dict.fromkeys(_spellings(folder), "data")
    for text in _strings(contents):
        if _lies_here(text):  # such as the weights that training began with
            for spelling in _spellings(text):
                folders.setdefault(spelling, PureWindowsPath(text).name)
    folders |= dict.fromkeys(_spellings(str(layout.folder.absolute())), ".")
    for spelling in _spellings(str(Path.home())):
        folders.setdefault(spelling, None)
    names = set() if keep_names else set(case_names(layout))
    numbers = enumerate(sorted(names), start=1)
    return Secrets(folders, {name: f"case_{number:04d}" for number, name in numbers})


def _strings(node: object) -> Iterator[str]:
    nodes = [node]
    while nodes:
        node = nodes.pop()
        if isinstance(node, str):
            yield node
        nodes += node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ()


def _lies_here(text: str) -> bool:
    """Whether a value is the absolute path of something below a folder; an expression is none."""
    path = PureWindowsPath(text)  # takes both kinds of slashes
    absolute = text.startswith(("/", "~/")) or bool(path.drive)
    return absolute and len(path.parts) > 2 and text.isprintable() and not text.startswith("//")


def _configurations(layout: Layout) -> list[Path]:
    listed = (layout.plan, layout.train, layout.inference, layout.evaluate, layout.multi_gpu_train)
    return [path for path in listed if path.is_file()]


def case_names(layout: Layout) -> set[str]:
    """Names of the training cases, from the folds in splits.json and plan.json."""
    found: set[str] = set()
    for path in (layout.splits, layout.plan):
        content = read_json(path) if path.is_file() else []
        folds = content.get("splits") or [] if isinstance(content, Mapping) else content
        for fold in folds if isinstance(folds, list) else []:
            parts = fold.values() if isinstance(fold, Mapping) else ()
            found |= {str(name) for part in parts if isinstance(part, list) for name in part}
    return found - {""}


def _spellings(folder: str) -> list[str]:
    """A folder as written, without its last slash, and with links resolved; nothing for the root and for `data`."""
    path = Path(folder).expanduser()
    written = {folder, folder.rstrip("/\\")}
    if path.is_absolute():
        written |= {str(path), str(path.resolve())}
    if PureWindowsPath(folder).drive:
        written.add(folder.replace("\\", "/"))
    return [text for text in written if len(text) > 1 and text not in ("data", "..")]


def is_searched(name: str) -> bool:
    """Whether a name is looked for inside other text: long enough, no bare number, and no word that every bundle holds."""
    return len(name) >= SHORTEST and not name.isdigit() and name.casefold() not in common_words()


@cache
def common_words() -> frozenset[str]:
    """Words that stand in the files of any bundle, such as `train`: nobody's name when a case is called so."""
    found = {"train", "val", "test", "image", "label", "case", "data"}
    home = packaged_folder("bundles")
    for path in sorted(home.glob("*/configs/*.json")) if home.is_dir() else []:
        if path.name != Layout(path.parents[1]).splits.name:
            found |= {word.casefold() for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))}
    return frozenset(found)


def normal(text: str) -> str:
    """Text for comparison: composed letters, no difference between large and small ones."""
    return unicodedata.normalize("NFC", text).casefold()


def scrub(node: object, table: Mapping[str, str]) -> object:
    """Replace names in every string and key of a JSON value; whole words only, so that a case "1" leaves "0.15" alone."""
    return _scrubbed(node, table, _pattern(table))


def _pattern(table: Iterable[str]) -> re.Pattern[str] | None:
    long = sorted((name for name in table if _is_place(name) or is_searched(name)), key=len, reverse=True)
    return re.compile("|".join(rf"(?<![^\W_]){re.escape(name)}(?![^\W_])" for name in long)) if long else None


def _is_place(name: str) -> bool:
    return len(name) >= SHORTEST and ("/" in name or "\\" in name)


def _scrubbed(node: object, table: Mapping[str, str], pattern: re.Pattern[str] | None) -> object:
    if isinstance(node, Mapping):
        return {_in_text(key, table, pattern): _scrubbed(value, table, pattern) for key, value in node.items()}
    if isinstance(node, list):
        return (
            [table.get(value, value) if isinstance(value, str) else value for value in node]
            if all(isinstance(value, str) and value in table for value in node)
            else [_scrubbed(value, table, pattern) for value in node]
        )
    if not isinstance(node, str):
        return node
    if node in table and not node.isdigit() and not is_searched(node) and node.casefold() in common_words():
        return node
    return table[node] if node in table else _in_text(node, table, pattern)


def _in_text(text: str, table: Mapping[str, str], pattern: re.Pattern[str] | None) -> str:
    return pattern.sub(lambda found: table[found.group(0)], text) if pattern else text
