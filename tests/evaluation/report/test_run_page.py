"""The page of a training run is one of our reports: the same template, the same policy, nothing of a name taken as markup."""

from __future__ import annotations

from pathlib import Path

from medseg.evaluation.report.run_page import curves_picture, write_run_page
from medseg.evaluation.report.templates import POLICY

ROWS = [
    {"epoch": 0.0, "step": 5.0, "seconds": 1.0, "train_loss": 1.5},
    {"epoch": 1.0, "step": 10.0, "train_loss": 1.0, "val_dice": 0.5},
]


def test_a_runs_page_has_its_last_figures_its_curves_and_what_it_was_made_of(tmp_path: Path) -> None:
    picture = curves_picture(ROWS)
    assert picture.startswith(b"\x89PNG")
    page = write_run_page(tmp_path / "r.html", "<tiny>", ROWS, {"seed": 7, "packages": {}}).read_text()
    assert POLICY.split(";")[0] in page.replace("&#39;", "'")
    assert "<h1>&lt;tiny&gt;</h1>" in page
    assert '<td>val_dice</td><td class="number">0.5</td>' in page
    assert '<td>train_loss</td><td class="number">1</td>' in page
    assert '<td>seed</td><td class="number">7</td>' in page
    assert "packages" not in page
    assert page.count("<svg") == 2  # loss and Dice, in the colours of the theme
