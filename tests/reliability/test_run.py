"""The page that `make reliability` writes."""

from __future__ import annotations

import importlib
from pathlib import Path

from medseg.io.atomic import write_json
from tests.reliability.run import FIGURES, ROOT, Row, listing, read_rows, report, run_tests


def test_every_figure_names_tests_or_a_scenario_that_exist() -> None:
    missing = [test for figure in FIGURES for test in figure.tests if not (ROOT / test).exists()]
    assert missing == []
    for figure in FIGURES:
        if figure.scenario:
            name = figure.scenario.partition("=")[0].partition(":")[0]
            assert callable(importlib.import_module(f"tests.reliability.scenarios.{name}").run)


def test_tests_are_counted_and_missing_ones_are_not_called_passed() -> None:
    ok, words, failed = run_tests(("tests/reliability/test_requirements.py",))
    assert (ok, words, failed) == (True, "2 passed", [])
    ok, words, _ = run_tests(("tests/reliability/run.py",))
    assert not ok
    assert "passed" not in words


def test_the_page_holds_each_row_and_says_what_did_not_hold(tmp_path: Path) -> None:
    held = Row("R7", True, "situations: 15", [], 4.2, "python -m x", "abc1234", "2026-01-02", "a machine")
    broken = Row(
        "R9", False, "shortages: 3", ["planned: 0.5 | equal"], 1.0, "python -m y", "abc1234", "2026-01-02", "a machine"
    )
    write_json(tmp_path / "rows.json", [held.__dict__, broken.__dict__])
    rows = read_rows(tmp_path / "rows.json")
    assert rows == {"R7": held, "R9": broken}
    page = report(rows)
    assert "| yes | situations: 15 | `python -m x` | abc1234 | 4 | 2026-01-02 |" in page
    assert "| **no** | shortages: 3 |" in page
    assert "* R9: planned: 0.5 / equal" in page
    assert page.count("not measured") == len(FIGURES) - 2


def test_the_listing_says_what_is_left_and_how_long_it_took(tmp_path: Path) -> None:
    held = Row("R7", True, "situations: 15", [], 4.2, "python -m x", "abc1234", "2026-01-02", "a machine")
    old = Row("R9", True, "shortages: 3", [], 10.0, "python -m y", "0000000", "2026-01-02", "a machine")
    lines = listing({"R7": held, "R9": old}, "abc1234").splitlines()
    assert len(lines) == len(FIGURES) + 1
    assert "there             4 s  R7" in lines
    assert "to measure       10 s  R9" in lines
    assert "to measure  not known  Folds at once" in lines
    assert lines[-1].startswith("14 s in all, 10 s of them to measure")


def test_parts_of_a_scenario_are_those_that_it_has() -> None:
    for figure in FIGURES:
        name, _, parts = figure.scenario.partition("=")[0].partition(":")
        module = importlib.import_module(f"tests.reliability.scenarios.{name}") if name == "surroundings" else None
        assert module is None or set(parts.split("+")) <= set(module.PARTS)
