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
from medseg.errors import ConfigError
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
        layout.inference.write_text(before)
        names = layout.metadata.read_text()
        outputs = ["network_data_format", "outputs", "pred", "channel_def"]

        def rename(metadata: Any) -> None:
            for key in outputs:
                metadata = metadata[key]
            metadata["1"] = "renamed"

        _edit(layout.metadata, rename)
        assert _run(layout, tmp_path / "in", tmp_path / "out", resume=True) == {"a": "done"}
        layout.metadata.write_text(names)
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


def test_a_network_for_missing_channels_takes_a_case_that_lacks_one(tmp_path: Path) -> None:
    layout = make_bundle(
        tmp_path / "two_mr_unet",
        channels={0: "T1", 1: "T2"},
        missing_channels="zero",
        normalization=[{"kind": "zscore"}, {"kind": "ct", "lower": -5.0, "upper": 5.0, "mean": 1.5, "std": 2.0}],
        network={"preset": "mambavision", "size": "nano", "spatial_dims": 3, "in_channels": 2, "out_channels": 3},
    )
    assert json.loads(layout.inference.read_text())["missing_channels"] == "zero"
    t1, t2 = _scan(tmp_path / "in" / "a_0000.nii.gz"), _scan(tmp_path / "in" / "a_0001.nii.gz", seed=1)
    write_image(t2, np.full((16, 16, 16), 1.5, np.float32), Header.of_array((16, 16, 16), np.eye(4)))
    assert _run(layout, tmp_path / "in", tmp_path / "both") == {"a": "done"}
    t2.unlink()
    assert _run(layout, tmp_path / "in", tmp_path / "one") == {"a": "done"}
    (tmp_path / "list.csv").write_text("name,image_0,image_1\na,in/a_0000.nii.gz,\n")
    assert _run(layout, tmp_path / "list.csv", tmp_path / "listed") == {"a": "done"}
    both, one, listed = (json.loads((tmp_path / name / "a.json").read_text()) for name in ("both", "one", "listed"))
    assert (
        one["label_sha256"] == listed["label_sha256"] == both["label_sha256"]
    )  # what is missing is 0 before the network
    assert one["missing_channels"] == [1]
    assert "channel 1 (T2) is missing" in one["out_of_scope"][0]
    assert _run(layout, tmp_path / "in", tmp_path / "one", resume=True) == {"a": "skipped"}
    t1.rename(tmp_path / "in" / "a_0001.nii.gz")  # the same bytes as the other channel
    assert _run(layout, tmp_path / "in", tmp_path / "one", resume=True) == {"a": "done"}


def test_mirroring_that_training_did_not_have_is_refused(tmp_path: Path) -> None:
    layout = make_bundle(tmp_path / "sided_mr_unet", augmentation={"preset": "default", "mirror_axes": [1]})
    _scan(tmp_path / "in" / "a.nii.gz")
    asked = PredictOptions(engine="eager", mirror=(0, 1))
    with pytest.raises(ConfigError, match=r"--mirror x: .*allowed: y"):
        predict_bundle(layout.folder, [tmp_path / "in"], tmp_path / "out", options=asked, preview=False)
