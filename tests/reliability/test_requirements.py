"""The page of requirements is what the markers say, and no requirement is without a test."""

from __future__ import annotations

from tests.reliability.requirements import PAGE, REQUIREMENTS, collect, page


def test_every_requirement_has_a_test() -> None:
    tests = collect()
    assert [name for name in REQUIREMENTS if not tests[name]] == []


def test_the_committed_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tests.reliability.requirements"
