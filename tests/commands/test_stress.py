"""`medseg stress` with a shipped bundle: files written, strengths that cost Dice, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medseg.cli.main import EXIT_OK, main
from medseg.commands.stress import Asked, stress
from medseg.errors import ConfigError, DataError
from medseg.io.header import Header
from medseg.io.volume import write_image, write_label
from tests.volumes import ball

BUNDLE = "hippocampus_mr_mambavision"
SHAPE = (24, 28, 24)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stress") / "data"
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    entries = []
    for number in range(2):
        label = ball(SHAPE, 6).astype(np.uint8)
        label[:, 14:] *= 2
        image = np.random.default_rng(number).normal(100, 5, (1, *SHAPE)) + 60 * (label > 0)
        header = Header.of_array(SHAPE, np.eye(4))
        write_image(root / "imagesTr" / f"c{number}.nii.gz", image.astype(np.float32), like=header)
        write_label(root / "labelsTr" / f"c{number}.nii.gz", label, like=header)
        entries.append({"image": f"./imagesTr/c{number}.nii.gz", "label": f"./labelsTr/c{number}.nii.gz"})
    names = {"0": "background", "1": "anterior", "2": "posterior"}
    described = {"name": "balls", "modality": {"0": "MRI"}, "labels": names, "training": entries}
    (root / "dataset.json").write_text(json.dumps(described))
    return root


def test_the_command_writes_curves_and_prints_what_is_felt_first(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["stress", BUNDLE, "--data", str(data), "--shifts", "noise", "thickness", "--output", str(tmp_path / "out")]
    assert main([*words, "--device", "cpu"]) == EXIT_OK
    said = capsys.readouterr().out
    assert "falls by 0.05 at" in said.splitlines()[0]
    found = json.loads((tmp_path / "out" / "stress.json").read_text())
    assert [curve["shift"] for curve in found["curves"]] == ["noise", "thickness"]
    assert found["cases"] == ["c0", "c1"]
    for curve in found["curves"]:
        assert [len(row) for row in curve["dice"]] == [2] * 5
    noise, thickness = found["curves"]
    assert noise["dice"][0] == thickness["dice"][0]
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()


def test_a_case_is_shifted_alike_whatever_else_is_tried(data: Path) -> None:
    alone = stress(BUNDLE, data, Asked(("noise",), ("c1",)))
    beside = stress(BUNDLE, data, Asked(("gamma", "noise")))
    assert [row[1] for row in beside.curves[1].dice] == [row[0] for row in alone.curves[0].dice]


def test_what_cannot_be_tried_is_refused_by_name(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"shift 'registration': none for images of MRI.*gamma"):
        stress(BUNDLE, data, Asked(("registration",)))
    with pytest.raises(DataError, match="no labelled case 'c9'; it has c0, c1"):
        stress(BUNDLE, data, Asked((), ("c9",)))
    other = tmp_path / "other"
    (other / "imagesTr").parent.mkdir(parents=True)
    for name in ("imagesTr", "labelsTr"):
        (other / name).symlink_to(data / name)
    described = json.loads((data / "dataset.json").read_text())
    described["labels"] = {"0": "background", "5": "liver"}
    (other / "dataset.json").write_text(json.dumps(described))
    with pytest.raises(DataError, match=r"declares the labels 5 liver; .*predicts 1 Anterior"):
        stress(BUNDLE, other)
