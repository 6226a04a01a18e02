"""Build the site into one folder that opens from disk: `python -m docs.site --output site`."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from .nav import as_toml, navigation
from .reference import PACKAGES, pages
from .sources import ROOT, Sources

CONFIG = """[project]
site_name = "medseg"
site_description = "3D CT and MR segmentation: hybrid networks on own operators, every model a MONAI bundle"
docs_dir = "sources"
site_dir = "site"
use_directory_urls = false
{nav}
[project.extra]
generator = false
[project.theme]
font = false
features = ["navigation.sections", "navigation.footer", "navigation.top", "content.code.copy", "toc.follow"]
[project.markdown_extensions]
admonition = {{}}
attr_list = {{}}
tables = {{}}
toc.permalink = true
pymdownx.superfences = {{}}
pymdownx.highlight.anchor_linenums = false
[project.plugins.mkdocstrings.handlers.python]
paths = [{paths}]
[project.plugins.mkdocstrings.handlers.python.options]
docstring_style = "google"
show_source = false
show_if_no_docstring = true
filters = ["!^_"]
warn_unknown_params = false
"""
# the search's worker for pages opened from disk would be fetched from elsewhere; without it the search stays silent there
OUTSIDE = re.compile(r'<script src="https?://[^"]*"></script>')


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m docs.site", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("site"), metavar="DIR", help="folder of the site")
    arguments = parser.parse_args()
    start, work = time.monotonic(), ROOT / "build" / "docs"
    sources = Sources(work / "sources")
    sources.gather()
    for name, text in pages():
        sources.write(name, text)
    paths = ", ".join(f'"{folder.parent}"' for folder in PACKAGES.values())
    config = CONFIG.format(nav=as_toml(navigation(sources.pages)), paths=paths)
    (work / "zensical.toml").write_text(config, encoding="utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    built = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    if built.returncode:
        print(built.stdout[-3000:], built.stderr[-3000:], sep="\n", file=sys.stderr)
        return 1
    for page in (work / "site").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        cleaned = OUTSIDE.sub("", text)
        if cleaned != text:
            page.write_text(cleaned, encoding="utf-8")
    shutil.rmtree(arguments.output, ignore_errors=True)
    shutil.copytree(work / "site", arguments.output)
    seconds = time.monotonic() - start
    print(f"{len(sources.pages)} pages in {seconds:.1f} s: open {arguments.output / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
