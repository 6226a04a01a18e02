"""docs/networks.md says of every part of every preset whether it was published, in a table made from the code."""

from pathlib import Path

import pytest

from medseg.networks import PRESETS
from medseg.networks.presets.origins import ORIGINS, origin_rows, table
from medseg.networks.published import PUBLISHED

PAGE = Path(__file__).resolve().parents[3] / "docs" / "networks.md"


def test_the_page_has_the_table_of_the_code_line_by_line() -> None:
    page = PAGE.read_text(encoding="utf-8").splitlines()
    lines = table()
    first = page.index(lines[0])
    assert page[first : first + len(lines)] == lines


def test_the_page_names_every_published_form_with_its_licence() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name, entry in PUBLISHED.items():
        (line,) = [line for line in page.splitlines() if line.startswith("|") and f"`{name}`" in line]
        assert entry.licence in line


@pytest.mark.parametrize("preset", PRESETS)
def test_every_level_of_every_size_and_dimension_has_an_origin(preset: str) -> None:
    for size in PRESETS[preset].larger:
        for dims in (2, 3):
            spec = PRESETS[preset].build(size, dims)
            assert len(spec.levels) == len(ORIGINS[preset].levels) or (preset, size) == ("resenc_unet", "xl")
            assert len(spec.second) == len(ORIGINS[preset].second)
    parts = [part for part, _, _ in origin_rows(preset)]
    assert len(parts) == len(set(parts))
    assert "decoder" in parts


def test_no_preset_without_an_origin_and_no_origin_without_a_preset() -> None:
    assert set(ORIGINS) == set(PRESETS)
