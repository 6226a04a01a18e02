"""docs/notebooks.md runs as it stands, and what the doors return shows itself in a notebook."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from medseg.evaluation import Evaluation
from medseg.evaluation.result import CaseScores
from tests.bundle.samples import make_bundle

PAGE = Path(__file__).resolve().parents[2] / "docs" / "notebooks.md"


def test_the_page_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_bundle(tmp_path / "my_bundle", tmp_path / "data", roi_size=[32, 16, 16])
    shutil.copyfile(tmp_path / "data" / "images" / "case0.nii.gz", tmp_path / "scan.nii.gz")
    for folder in ("labels", "references"):
        (tmp_path / folder).mkdir()
    shutil.copyfile(tmp_path / "data" / "labels" / "case0.nii.gz", tmp_path / "references" / "scan.nii.gz")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["array"].shape == names["label"].shape == names["image"].shape
    features, classifier = names["features"], names["classifier"]
    assert [level.shape[2] for level in features] == sorted((level.shape[2] for level in features), reverse=True)
    assert features[0].shape[2:] == names["crop"].shape[2:]
    assert {name for name, value in classifier.named_parameters() if value.grad is not None} == {
        "head.weight", "head.bias"
    }  # fmt: skip
    assert len({shape[1] for shape in names["shapes"]}) > 1
    shown = names["segment"]._repr_html_()
    for word in ("tiny_mr_unet 0.1.0", "<td>label 1</td><td>anterior</td>", "<td>channel 0</td><td>MRI</td>"):
        assert word in shown
    scores = names["evaluation"]._repr_html_()
    mean = names["evaluation"].mean("dice", "anterior")
    assert f"<td>anterior</td><td>1</td><td>{mean:.2f}</td>" in scores


def test_a_name_is_no_markup_in_a_notebook() -> None:
    evaluation = Evaluation([CaseScores("a", {})], {}, failed={"<script>x</script>": "<b>"})
    assert "<script>" not in evaluation._repr_html_()
    assert "&lt;script&gt;x&lt;/script&gt;: &lt;b&gt;" in evaluation._repr_html_()
