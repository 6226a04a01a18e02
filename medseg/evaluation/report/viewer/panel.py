"""What a template puts into a page for the viewer: the cases as JSON, their volumes as text, the policy that lets it run."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from .niivue import ENGINE_SHA256, ViewerFiles, viewer_files
from .volumes import ViewerCase


@dataclass(frozen=True)
class Panel:
    """For the template `viewer`: `cases` is JSON that is safe inside a script element, `blocks` are (id, base64 of gzip)."""

    cases: Markup
    blocks: Sequence[tuple[str, str]]
    files: ViewerFiles
    policy: str


def embedded(cases: Sequence[ViewerCase]) -> Panel:
    """A viewer whose volumes lie in the page."""
    blocks, facts = [], []
    for number, case in enumerate(cases):
        sources = {}
        for kind, volume in case.volumes.items():
            sources[kind] = {"block": f"viewer-{number}-{kind}"}
            packed = gzip.compress(volume, 9, mtime=0)
            blocks.append((sources[kind]["block"], base64.b64encode(packed).decode("ascii")))
        facts.append({**case.facts, "sources": sources})
    return _panel(facts, blocks, "")


def served(case: ViewerCase, addresses: dict[str, str]) -> Panel:
    """A viewer that asks the server of its page for the volumes: kind -> address."""
    sources = {kind: {"address": addresses[kind]} for kind in case.volumes}
    return _panel([{**case.facts, "sources": sources}], [], " connect-src 'self';")


def _panel(facts: list[dict[str, object]], blocks: list[tuple[str, str]], more: str) -> Panel:
    files = viewer_files()
    cases = htmlsafe_json_dumps({"engine": ENGINE_SHA256, "cases": facts})
    return Panel(cases, blocks, files, f" script-src {' '.join(files.hashes)};{more}")
