"""What the guides tell a reader to type is accepted, and what they link to is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from medseg.cli.main import parse

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "configs").glob("*.md")])


def commands_of(page: Path) -> list[str]:
    """`medseg ...` lines of code blocks, comments and alternatives in brackets taken off."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```[a-z]*\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = [line.split("  #")[0].strip() for line in lines]
    return [re.sub(r"[\[\]]", "", line) for line in found if re.match(r"medseg [a-z]", line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_guide_is_accepted(page: Path) -> None:
    for command in commands_of(page):
        words = shlex.split(command)[1:]
        try:
            parse(words, words[0])
        except SystemExit as stop:
            pytest.fail(f"{page.name}: {command!r} is refused (exit {stop.code})")


def test_the_readme_shows_the_verbs() -> None:
    verbs = {command.split()[1] for command in commands_of(ROOT / "README.md")}
    assert {"plan", "fit", "predict", "evaluate", "bundle"} <= verbs


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_guide_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
