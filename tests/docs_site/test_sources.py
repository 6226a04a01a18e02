"""The site's sources: links lead to where their targets lie, and what is not in the project is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.site import sources as sources_module
from docs.site.nav import HOW_TO, SECTIONS, as_toml, navigation
from docs.site.reference import PACKAGES, commands_page, files_page, module_groups
from docs.site.sources import ROOT, BrokenLinkError, Sources
from docs.site.tutorial import cells_of, code_of, page_of
from medseg.cli.main import VERBS
from medseg.config import read_json


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "README.md").write_text("back to [start](../docs/a.md)")
    (tmp_path / "table.json").write_text("{}")
    monkeypatch.setattr(sources_module, "ROOT", tmp_path)
    return tmp_path


def test_links_lead_to_pages_and_files_of_the_site(project: Path) -> None:
    words = "[k](../kernels/README.md#x), [t](../table.json), [folder](../kernels), [web](https://a.b), `[no](link.md)`"
    (project / "docs" / "a.md").write_text(f"{words.rsplit(',', 1)[0]}\n```\n[code](nowhere.md)\n```\n")
    found = Sources(project / "out")
    found.gather()
    text = (project / "out" / "a.md").read_text()
    assert "[k](project/kernels/README.md#x)" in text
    assert "[t](files/table.json)" in text
    assert "[folder](project/kernels/README.md)" in text
    assert "[web](https://a.b)" in text
    assert "[code](nowhere.md)" in text
    assert (project / "out" / "files" / "table.json").is_file()
    assert (project / "out" / "project" / "kernels" / "README.md").read_text() == "back to [start](../../a.md)"


def test_a_link_to_nothing_is_refused_with_its_page(project: Path) -> None:
    (project / "docs" / "a.md").write_text("[gone](../gone.md)")
    with pytest.raises(BrokenLinkError, match=r"docs/a.md links to ../gone.md"):
        Sources(project / "out").gather()


def test_every_page_stands_in_the_navigation_once(tmp_path: Path) -> None:
    found = Sources(tmp_path / "out")
    found.gather()
    placed = [page for section in navigation(found.pages).values() for page in section]
    assert sorted(placed) == sorted(found.pages)
    assert {page for section in SECTIONS.values() for page in section} <= set(found.pages)
    assert f'"{HOW_TO}" = [' in as_toml(navigation(found.pages))


def test_the_reference_has_every_module_option_and_key() -> None:
    modules = {module for group in module_groups().values() for module in group}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            assert name in modules or any(part.startswith("_") for part in name.split(".")), name
    page = commands_page()
    surface = read_json(ROOT / "tests" / "architecture" / "surface.json")["verbs"]
    assert set(surface) == set(VERBS)
    for verb, options in surface.items():
        for option in options:
            for word in re.findall(r"--[a-z-]+", option):
                assert word in page, f"{verb} {option}"
    keys = files_page()
    for key in ("`roi_size`", "`mirror_axes`", "`reasons`", "`max_epochs`", "#### SegmentationModule"):
        assert key in keys


def test_a_tutorials_page_holds_its_words_its_code_and_what_that_printed() -> None:
    cells = cells_of('before\n# %% [markdown]\n# # Title\n#\n# words\n# %%\nprint("x")\n')
    assert [cell.text for cell in cells] == ["# Title\n\nwords", 'print("x")']
    page = page_of("t", cells, ["", "```text\nx\n```"])
    assert page.index("# Title") < page.index("```python") < page.index("```text")
    assert code_of(page) == ['print("x")']


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "tutorials").glob("*.py")), ids=lambda path: path.stem)
def test_every_tutorial_has_its_page_with_this_code(path: Path) -> None:
    wanted = [cell.text for cell in cells_of(path.read_text()) if not cell.words]
    assert code_of(path.with_suffix(".md").read_text()) == wanted, f"run python -m docs.site.tutorial {path.stem}"
