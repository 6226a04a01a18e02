"""Text cells of the CSV files never begin a formula; numbers stay numbers."""

from __future__ import annotations

import csv
import io

import pytest

from medseg.cases.measures import rows_to_csv
from medseg.evaluation import Evaluation, ScoreSettings
from medseg.io.cells import text_cell

HOSTILE = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "\uff1d1", '=HYPERLINK("http://x","y")']


@pytest.mark.parametrize("text", HOSTILE)
def test_formula_gets_an_apostrophe(text: str) -> None:
    written = rows_to_csv([{"case": text, "label": 1, "name": text, "volume_ml": -1.5}])
    text = text.replace("\r", "\n")
    header, row = csv.reader(io.StringIO(written, newline=""))
    assert header == ["case", "label", "name", "volume_ml"]
    assert row == [f"'{text}", "1", f"'{text}", "-1.5"]


@pytest.mark.parametrize("text", ["liver;=1+1", "a; -1", "a\t@x", ";=1", "a;b;\uff1d1"])
def test_no_formula_begins_where_a_semicolon_ends_a_cell(text: str) -> None:
    for mark in ";\t":
        for cell in csv.reader(io.StringIO(rows_to_csv([{"case": text}]), newline=""), delimiter=mark):
            assert not [part for part in cell if part.strip().startswith(("=", "-", "@", "\uff1d"))]
    assert text_cell(text).replace("'", "") == text


def test_other_text_and_numbers_stay() -> None:
    for value in ("liver", "a=b", "1-2", "", -3, -0.5, None, "é"):
        assert text_cell(value) == value


def test_evaluation_writes_safe_cells(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from medseg.evaluation.result import CaseScores
    from medseg.evaluation.scores import LabelScores

    settings = ScoreSettings(groups=("overlap",))
    values = dict.fromkeys(settings.metrics, -0.5)
    case = CaseScores("=case", {"@label": LabelScores(values=values, reasons={})})
    evaluation = Evaluation(cases=[case], settings=settings, regions={"@label": (1,)}, failed={}, skipped=[])
    evaluation.to_csv(tmp_path / "e.csv")
    row = (tmp_path / "e.csv").read_text().splitlines()[1]
    assert row.startswith("'=case,'@label,-0.5")
