"""Gather the pages of the site: docs/ as it is, other Markdown and files that pages link to, links turned to where they now lie."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")


class BrokenLinkError(ValueError):
    """A page links to what is not in the project."""


class Sources:
    """One folder of Markdown and files, from which the site is built.

    Args:
        folder: where they are gathered; made anew.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.pages: list[str] = []

    def gather(self) -> None:
        """Take all pages of docs/ and what they link to.

        Raises:
            BrokenLinkError: with the page and the link.
        """
        todo = [path for path in sorted((ROOT / "docs").rglob("*.md")) if "site" not in path.parts]
        seen = set(todo)
        while todo:
            page = todo.pop()

            def wanted(target: Path) -> None:
                if target.suffix == ".md" and target not in seen:
                    seen.add(target)
                    todo.append(target)

            self.write(place_of(page), relinked(page, self, wanted))

    def write(self, name: str, text: str) -> None:
        """Write one page, by its path below the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        self.pages.append(name)

    def keep(self, file: Path) -> str:
        """Copy a file of the project beside the pages; returns its place."""
        name = place_of(file)
        target = self.folder / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        return name


def place_of(path: Path) -> str:
    """Where a file of the project lies among the sources: docs/ at the top, Markdown below project/, the rest below files/."""
    inside = path.relative_to(ROOT)
    if inside.parts[0] == "docs":
        return inside.relative_to("docs").as_posix()
    return f"{'project' if path.suffix == '.md' else 'files'}/{inside.as_posix()}"


def relinked(page: Path, sources: Sources, wanted: Callable[[Path], None]) -> str:
    """A page's text with links to where their targets lie in the site; what lies in code is left alone."""
    here = Path(place_of(page)).parent.as_posix()

    def towards(place: str) -> str:
        return os.path.relpath(place, here)

    def link(match: re.Match[str]) -> str:
        words, target, anchor = match[1], match[2], match[3] or ""
        if "://" in target or target.startswith("mailto:") or not target:
            return match[0]
        path = (page.parent / target).resolve()
        if path.is_dir():
            readme = path / "README.md"
            if not readme.is_file():
                return (
                    words if words.startswith("`") else f"`{words}`"
                )  # a folder of the source: there is no page of it
            path = readme
        if not path.is_file() or ROOT not in path.parents:
            raise BrokenLinkError(f"{page.relative_to(ROOT)} links to {target}, which is not in the project")
        wanted(path)
        place = place_of(path) if path.suffix == ".md" else sources.keep(path)
        return f"[{words}]({towards(place)}{anchor})"

    def picture(match: re.Match[str]) -> str:
        path = (page.parent / match[2]).resolve()
        if not path.is_file():
            raise BrokenLinkError(f"{page.relative_to(ROOT)} shows {match[2]}, which is not in the project")
        return f"![{match[1]}]({towards(sources.keep(path))})"

    def outside_code(text: str) -> str:
        return PICTURE.sub(picture, LINK.sub(link, text))

    fences = re.split(r"(```.*?```)", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return "".join(part if part.startswith("```") else outside_code(part) for part in fences)
