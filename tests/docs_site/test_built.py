"""The built site: no page leads outside or to nothing, and every public object is in the reference (`make docs-test`)."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from docs.site.reference import PACKAGES
from docs.site.sources import ROOT

pytestmark = pytest.mark.slow
LIMIT_S = 20.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    pytest.importorskip("zensical", reason="the package zensical is not installed: make docs brings it")
    output = tmp_path_factory.mktemp("docs") / "site"
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "docs.site", "--output", str(output)], cwd=ROOT, check=True)
    return output, time.monotonic() - start


def _targets(text: str) -> Iterator[str]:
    yield from re.findall(
        r'(?:src|href)="([^"]*)"', re.sub(r"<(?:code|pre)\b.*?</(?:code|pre)>", "", text, flags=re.DOTALL)
    )


def test_it_is_built_in_twenty_seconds(site: tuple[Path, float]) -> None:
    assert site[1] <= LIMIT_S


def test_nothing_is_fetched_from_elsewhere(site: tuple[Path, float]) -> None:
    for page in site[0].rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        fetched = re.findall(r'<(?:script|img|iframe|source)\b[^>]*\bsrc="(https?:[^"]*)"', text)
        fetched += re.findall(r'<link\b[^>]*\bhref="(https?:[^"]*)"', text)
        assert fetched == [], page


def test_every_link_inside_leads_to_a_page_and_a_place_on_it(site: tuple[Path, float]) -> None:
    places = {}
    for page in site[0].rglob("*.html"):
        places[page] = set(re.findall(r'\bid="([^"]*)"', page.read_text(encoding="utf-8")))
    for page in places:
        if page.name == "404.html":
            continue
        for target in _targets(page.read_text(encoding="utf-8")):
            if re.match(r"[a-z]+:", target) or not target:
                continue
            name, _, anchor = target.partition("#")
            file = (page.parent / unquote(name)).resolve() if name else page
            file = file / "index.html" if file.is_dir() else file
            assert file.is_file(), f"{page.relative_to(site[0])} links to {target}"
            if anchor and file in places:
                assert unquote(anchor) in places[file] or anchor in places[file], f"{page.name} links to {target}"


def test_every_public_object_is_in_the_reference(site: tuple[Path, float]) -> None:
    content = (site[0] / "objects.inv").read_bytes()
    body = zlib.decompress(content.split(b"\n", 4)[4]).decode()
    known = {line.split(" ")[0] for line in body.splitlines()}
    missing = []
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            if any(part.startswith("_") for part in parts):
                continue
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                    missing += [name for name in [".".join([*parts, node.name])] if name not in known]
    assert missing == []
