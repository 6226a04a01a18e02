"""More folds than subjects: one subject is left out at a time, and that is told."""

import pytest

from medseg.io.datalist import Case
from medseg.planning.folds import make_splits


def test_more_folds_than_subjects_are_told(caplog: pytest.LogCaptureFixture) -> None:
    cases = [Case(f"case_{i}", ()) for i in range(4)]
    with caplog.at_level("INFO"):
        assert len(make_splits(cases, folds=99)) == 4
    assert "99 folds want as many subjects, there are 4" in caplog.text
