"""The list for review puts the worst first; the page of what was learned has its diagrams."""

from __future__ import annotations

import base64
from pathlib import Path

from medseg.assurance.case_trust import CaseTrust, LabelTrust
from medseg.assurance.trust_section import review_section, trust_section
from tests.assurance.test_case_trust import cases

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII=")


def row(flag: str, expected: float, reason: str = "") -> dict[str, object]:
    return {"name": "liver", "flag": flag, "expected_dice": expected, "reason": reason}


def test_flagged_cases_are_listed_worst_first_with_their_pictures(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(PNG)
    listed = {
        "a": [row("review", 0.7, "odd <volume>")],
        "b": [row("review", 0.2, "torn")],
        "c": [row("ok", 0.95)],
    }
    section = review_section(listed, {"b": tmp_path / "b.png", "a": tmp_path / "none.png"})
    assert section is not None
    page = section.html()
    assert "2 of 3 cases are flagged" in page
    assert page.index("torn") < page.index("odd &lt;volume&gt;")
    assert page.count("data:image/png") == 1
    assert "0.95" not in page
    assert review_section({"a": [{"name": "liver", "voxels": 3}]}, {}) is None


def test_what_was_learned_is_drawn_and_what_is_missing_is_said() -> None:
    bins = ((0.6, 0.5, 0.5), (0.9, 0.8, 0.5))
    calibration = {"before": 0.1, "after": 0.04, "bins": bins, "bins_after": bins}
    labels = {1: LabelTrust.learned("liver", *cases(20, 0)), 2: LabelTrust.learned("spleen", *cases(5, 0))}
    page = trust_section(CaseTrust(("a",), 1.3, labels, calibration=calibration, notes=("One fold of 5",))).html()
    assert page.count("<svg") == 2
    for words in ("Reliability diagram", "Risk over coverage", "One fold of 5", "an interval needs 10", "0.040"):
        assert words in page
    assert "<svg" not in trust_section(CaseTrust(("a",), 1.0, {1: LabelTrust("liver", note="1 cases")})).html()
