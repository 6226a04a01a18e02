"""The engine in the package is the one that was tested, whole, with its licence, and a page runs nothing else."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from pathlib import Path

import numpy as np
import pytest

from medseg.errors import ResourceError
from medseg.evaluation.report.page import Section, write_report
from medseg.evaluation.report.viewer import niivue
from medseg.evaluation.report.viewer.niivue import ENGINE_SHA256, viewer_files
from medseg.evaluation.report.viewer.volumes import Scan, viewer_case


def _page(path: Path, name: str = "liver") -> str:
    label = np.zeros((9, 8, 7), np.uint8)
    label[2:5, 2:5, 2:5] = 1
    scan = Scan(np.ones(label.shape, np.float32), label, label, np.eye(4))
    section = Section("A", volumes=[viewer_case(name, "case-0", scan, {1: name})])
    return write_report(path, "A", [section]).read_text(encoding="utf-8")


def test_the_engine_is_niivue_as_npm_gave_it() -> None:
    assert ENGINE_SHA256.startswith("47b896b77ec4")
    assert ENGINE_SHA256.endswith("bdb4af")
    packed = base64.b64decode(viewer_files().engine)
    assert hashlib.sha256(gzip.decompress(packed)).hexdigest() == ENGINE_SHA256
    assert len(packed) < 800_000


def test_another_engine_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(niivue, "ENGINE_SHA256", "0" * 64)
    with pytest.raises(ResourceError, match=r"niivue-0.69.0.umd.js.gz .* expected 0000.*install medseg again"):
        viewer_files.__wrapped__()


def test_the_policy_of_a_page_names_the_two_scripts_that_it_holds_and_the_page_their_licences(tmp_path: Path) -> None:
    page = _page(tmp_path / "report.html")
    policy = html.unescape(re.findall(r'Content-Security-Policy" content="([^"]*)"', page)[0])
    assert policy.startswith("default-src 'none';")
    assert "'unsafe-eval'" not in policy
    assert "script-src 'unsafe" not in policy
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    source = gzip.decompress(base64.b64decode(re.findall(r'id="viewer-engine">([^<]*)<', page)[0]))
    for running in (script.encode(), source):
        assert f"'sha256-{base64.b64encode(hashlib.sha256(running).digest()).decode()}'" in policy
    assert policy.count("sha256-") == 2
    for words in ("BSD 2-Clause License", "Copyright (c) 2021, Niivue", "fflate", "ISC licence"):
        assert words in page


def test_names_cannot_leave_the_json_of_the_cases(tmp_path: Path) -> None:
    name = "</script><script>alert(1)</script><!-- & \u2028 \u202e\x1b"
    page = _page(tmp_path / "report.html", name)
    (text,) = re.findall(r'id="viewer-cases">(.*?)</script>', page, flags=re.DOTALL)
    facts = json.loads(text)["cases"][0]
    assert facts["title"].startswith("</script><script>alert(1)</script><!-- & ")
    assert not set("<>&\u2028\u202e\x1b") & set(text)
    assert not set("\u202e\x1b") & set(facts["title"] + facts["labels"][0]["name"])
