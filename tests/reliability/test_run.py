"""The page that `make reliability` writes."""

from __future__ import annotations

from tests.reliability.run import FIGURES, ROOT, Figure, report, run_tests


def test_every_figure_names_tests_that_exist() -> None:
    missing = [test for figure in FIGURES for test in figure.tests if not (ROOT / test).exists()]
    assert missing == []


def test_a_figure_is_counted_and_a_missing_one_is_not_called_passed() -> None:
    words, seconds = run_tests(Figure("R7", "", ("tests/io/test_atomic.py",)))
    assert words.endswith("passed")
    assert seconds > 0
    assert "passed" not in run_tests(Figure("R0", "", ("tests/reliability/run.py",)))[0]


def test_the_page_holds_each_row() -> None:
    page = report([("R1", "claim", "167 passed", 4.2, "`tests/x.py`")], 100, 1)
    assert "| R1 | claim | 167 passed | 4 | `tests/x.py` |" in page
