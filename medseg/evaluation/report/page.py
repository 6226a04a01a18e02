"""One self-contained HTML file: sections in, page out. No address outside the file, nothing to install; no script but the
viewer's, and that only where a section has volumes.

write_report("report.html", "Demo", [scores_section(evaluation), timings_section({"training": 212.0})])
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from medseg import __version__
from medseg.io.atomic import write_text
from medseg.types import FilePath

from ..digits import two_digits
from .templates import markup, render
from .viewer.panel import Panel, embedded
from .viewer.volumes import ViewerCase


@dataclass
class Section:
    """A heading and what stands below it, as HTML; the methods add content, whose text is escaped by the templates."""

    title: str
    parts: list[str] = field(default_factory=list)
    volumes: list[ViewerCase] = field(
        default_factory=list
    )  # what the viewer can show in place of this section's figures

    def text(self, words: str, *, quiet: bool = False) -> Section:
        """Add a paragraph."""
        return self._add("text", words=words, quiet=quiet)

    def table(self, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Section:
        """Add a table; floats are right-aligned with two digits, NaN is a dash."""
        return self._add("table", header=header, rows=[[_cell(value) for value in row] for row in rows])

    def folded_text(self, words: str, lines: Iterable[str]) -> Section:
        """Add paragraphs that a reader opens."""
        inside = Section("")
        for line in lines:
            inside.text(line, quiet=True)
        return self._add("folded", words=words, inside=inside.parts)

    def folded(self, words: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Section:
        """Add a table that a reader opens."""
        return self._add("folded", words=words, inside=Section("").table(header, rows).parts)

    def figure(self, picture: str, caption: str = "", *, anchor: str = "") -> Section:
        """Add a picture: SVG text or a `data:` address, as `figures` gives them.

        Raises:
            ValueError: something else, such as a path: the page must hold its pictures.
        """
        if not picture.startswith(("<svg", "data:image/")):
            raise ValueError(f"a picture is SVG text or a data: address, not {picture[:40]!r}")
        return self._add(
            "figure", picture=markup(picture) if picture.startswith("<svg") else picture, caption=caption, anchor=anchor
        )

    def html(self) -> str:
        """What stands below the heading, for a notebook."""
        return "".join(self.parts)

    def _add(self, template: str, **values: object) -> Section:
        self.parts.append(render(template, **values))
        return self


def write_report(path: FilePath, title: str, sections: Sequence[Section | None], *, subtitle: str = "") -> Path:
    """Write the page, atomically; None among the sections is left out. Returns the path."""
    kept = [section for section in sections if section is not None]
    volumes = [case for section in kept for case in section.volumes]
    write_text(path, page_text(title, kept, subtitle=subtitle, panel=embedded(volumes) if volumes else None))
    return Path(path)


def page_text(title: str, sections: Sequence[Section], *, subtitle: str = "", panel: Panel | None = None) -> str:
    """The page as text; `panel` is the viewer's part of it."""
    shown = "" if panel is None else render("viewer", viewer=panel, script=markup(panel.files.script))
    return render(
        "page", title=title, subtitle=subtitle, sections=sections, version=__version__, viewer=panel, panel=shown
    )


class Cell(NamedTuple):
    """One cell of a table: what it shows, whether it is a number, the anchor of the figure that it leads to."""

    text: str
    number: bool = False
    link: str = ""


def anchor_of(name: str) -> str:
    """The anchor of a case's figure; nothing of the name can be read from it or run by it."""
    return "case-" + hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:12]


def _cell(value: object) -> Cell:
    if isinstance(value, Cell):
        return value
    if isinstance(value, float):
        return Cell(two_digits(value), number=True)
    return Cell(str(value), number=isinstance(value, int) and not isinstance(value, bool))
