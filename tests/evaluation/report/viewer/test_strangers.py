"""Names of strangers stay text in the viewer, and what a file says of a patient does not reach the page."""

from __future__ import annotations

import base64
import gzip
import re
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medseg.cli.main import main
from medseg.evaluation.report.sections import Scene
from tests.evaluation.report.viewer.chromium import visit
from tests.evaluation.report.viewer.pages import blobs, page_of

HOSTILE = (
    "<script>window.hit=1</script>",
    "</script><script>window.hit=1</script>",
    "<img src=x onerror=window.hit=1>",
    "<svg onload=window.hit=1>",
    "\"><iframe src='https://example.org'>",
    "' onfocus=window.hit=1 autofocus '",
    "javascript:window.hit=1",
    "{{ 7*7 }}",
    "${window.hit=1}",
    "`;window.hit=1;`",
    "<!--",
    "-->",
    "<![CDATA[",
    "\u2028window.hit=1",
    "\u202egnp.exe",
    "\x1b[2J\x00",
    "&lt;b&gt;",
    "<base href='https://example.org/'>",
    "<meta http-equiv=refresh content='0;url=https://example.org'>",
    "</style><link rel=stylesheet href=https://example.org/a.css>",
)
CANARY = "CANARY^PATIENT"


@pytest.mark.slow
def test_twenty_hostile_names_of_cases_and_labels_are_inert(browser: Any, tmp_path: Path) -> None:
    image, _, _ = blobs(0, (24, 24, 24))
    label = np.repeat(np.arange(24, dtype=np.uint8), 24 * 24).reshape(24, 24, 24)
    assert len(set(HOSTILE)) == 20
    names = dict(enumerate(HOSTILE, start=1))
    scenes = [Scene(name, image, label, None, np.eye(4)) for name in HOSTILE]
    address = page_of(tmp_path / "report.html", scenes, names)
    seen = visit(browser, address)
    page = seen.page
    assert seen.ready() == ""
    tags = "document.querySelectorAll('script, iframe, link, base, svg, meta, style, [onload], [onerror], [onfocus]').length"
    # three metas, a style, the viewer's script and engine, their JSON and text, three cases of two volumes; nothing of a name
    assert page.evaluate(tags) == 3 + 1 + 2 + 2 + 6
    for number in range(3):
        page.locator("button.look").nth(number).click()
        page.wait_for_selector(f"figure:nth-of-type({number + 1}) #viewer[data-ready=yes]")
        for name in ("find", "look into"):
            assert page.get_by_role("button", name=name).count() >= 3
    legend = page.inner_text("#viewer-legend")
    for name in HOSTILE[:13]:
        assert name in legend
    assert not set("\x1b\x00\u2028\u202e") & set(page.content())
    assert page.evaluate("window.hit") is None
    assert seen.requests == [address]
    assert seen.violations() == seen.errors == seen.dialogs == []


def test_what_files_say_of_a_patient_does_not_reach_the_page(tmp_path: Path) -> None:
    home = tmp_path / CANARY
    for number in range(3):
        image, prediction, reference = blobs(number, (24, 22, 16))
        for kind, array in (("images", image), ("pred", prediction), ("ref", reference)):
            file = nibabel.Nifti1Image(array, np.diag([2.0, 2.0, 3.0, 1.0]))
            for field in ("descrip", "intent_name", "db_name", "aux_file"):
                file.header[field] = CANARY
            file.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", CANARY.encode()))
            (home / kind).mkdir(parents=True, exist_ok=True)
            nibabel.save(file, home / kind / f"case_{number}.nii.gz")
    words = ["--prediction", str(home / "pred"), "--reference", str(home / "ref"), "--images", str(home / "images")]
    assert main(["evaluate", *words, "--metrics", "overlap", "--output", str(tmp_path / "out"), "--quiet"]) == 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    blocks = re.findall(r'<script type="application/gzip" id="([^"]+)">([^<]*)', page)
    assert len(blocks) == 3 * 4 + 1
    volumes = b"".join(gzip.decompress(base64.b64decode(text)) for name, text in blocks if name != "viewer-engine")
    assert "CANARY" not in page
    assert b"CANARY" not in volumes
    assert "worst case: case_" in page
