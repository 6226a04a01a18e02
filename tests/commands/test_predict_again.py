"""`predict` on a folder it has been on before: what changed in the bundle counts, file names of any bytes do, names stay out."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.commands.predict import predict_bundle
from medseg.inference.settings import PredictOptions
from medseg.io import Header, write_image
from medseg.layout import Layout
from tests.bundle.samples import make_bundle

pytestmark = pytest.mark.requirement("R8")


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "tiny_mr_unet")


def _scan(path: Path, seed: int = 0) -> Path:
    array = np.random.default_rng(seed).normal(size=(16, 16, 16)).astype(np.float32)
    write_image(path, array, Header.of_array(array.shape, np.eye(4)))
    return path


def _run(layout: Layout, folder: Path, out: Path, **settings: Any) -> dict[str, str]:
    options = PredictOptions(engine="eager")
    result = predict_bundle(layout.folder, [folder], out, options=options, preview=False, **settings)
    return {case.name: case.status for case in result.cases}


def _edit(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_continue_knows_all_in_the_bundle_that_decides_a_result(layout: Layout, tmp_path: Path) -> None:
    _scan(tmp_path / "in" / "a.nii.gz")
    assert _run(layout, tmp_path / "in", tmp_path / "out") == {"a": "done"}
    assert _run(layout, tmp_path / "in", tmp_path / "out", resume=True) == {"a": "skipped"}
    before = layout.inference.read_text()
    changes: list[Callable[[Any], Any]] = [
        lambda config: config["preprocessing_def"].update(spacing=[2.0, 2.0, 2.0]),
        lambda config: config["inferer"].update(overlap=0.75),
        lambda config: config["inferer"].update(mirror_axes=[0]),
    ]
    try:
        for change in changes:
            layout.inference.write_text(before)
            _edit(layout.inference, change)
            assert _run(layout, tmp_path / "in", tmp_path / "out", resume=True) == {"a": "done"}
            assert _run(layout, tmp_path / "in", tmp_path / "out", resume=True) == {"a": "skipped"}
    finally:
        layout.inference.write_text(before)


def test_a_latin_1_name_and_a_broken_neighbour_stop_nobody(
    layout: Layout, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ward = tmp_path / "Ward_MUSTERMANN"
    content = _scan(ward / "a.nii.gz").read_bytes()
    Path(os.fsdecode(os.fsencode(ward) + b"/M\xfcller.nii.gz")).write_bytes(content)
    (ward / "MUSTERMANN_Erika.nii.gz").write_bytes(content[:300])
    found = _run(layout, ward, tmp_path / "out")
    assert found == {"MUSTERMANN_Erika": "failed", "Müller": "done", "a": "done"}
    assert (tmp_path / "out" / "Müller.json").is_file()
    with caplog.at_level(logging.WARNING):
        nameless = _run(layout, ward, tmp_path / "nameless", anonymous_names=True)
    assert sorted(nameless.values()) == ["done", "done", "failed"]
    assert not any("MUSTERMANN" in message for message in caplog.messages)
    for path in (tmp_path / "nameless").iterdir():
        assert b"MUSTERMANN" not in path.read_bytes()
        assert "MUSTERMANN" not in path.name
