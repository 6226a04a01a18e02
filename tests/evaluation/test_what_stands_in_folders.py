"""`evaluate` on what other tools and our own predictor leave: ignored values, regions, probabilities, missed organs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medseg.cli.evaluate import read_label_table
from medseg.cli.main import main
from medseg.errors import ConfigError, DataError
from medseg.evaluation import ScoreSettings, evaluate_folders, read_evaluation
from medseg.evaluation.overlap import joint_histogram

SHAPE = (10, 10, 10)


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1.0, 2.0, 3.0, 1.0])), path)
    return path


def score(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> dict[str, Any]:
    asked = ["evaluate", "--prediction", folder / "p", "--reference", folder / "r", "--metrics", "overlap", "--json"]
    assert main([*map(str, asked), *words]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found["summary"]


@pytest.mark.parametrize("ignore", [1, 3, 255])
@pytest.mark.parametrize("labels", [[], ["--labels", "2=organ"], ["--labels", "2=organ,1=x,3=y,255=z"]])
@pytest.mark.parametrize("copied", [False, True])
def test_an_ignored_value_is_no_label_and_its_voxels_count_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ignore: int, labels: list[str], copied: bool
) -> None:
    reference = np.zeros(SHAPE, np.uint8)
    reference[2:5, 2:5, 2:5], reference[7:] = 2, ignore
    prediction = np.zeros_like(reference)
    prediction[2:5, 2:5, 2:4], prediction[8] = 2, 2
    if copied:
        prediction[9] = ignore
    save(tmp_path / "r" / "a.nii.gz", reference)
    save(tmp_path / "p" / "a.nii.gz", prediction)
    summary = score(capsys, tmp_path, "--ignore-label", str(ignore), *labels)
    name = "organ" if labels else "2"
    assert summary[name]["dice"]["mean"] == pytest.approx(2 * 18 / (27 + 18))
    assert str(ignore) not in summary


def test_the_ignored_value_may_stand_among_the_listed_ones() -> None:
    reference, prediction = np.array([0, 1, 3, 3, 2]), np.array([0, 1, 1, 3, 1])
    table = joint_histogram(reference, prediction, [0, 1, 2, 3], ignore_label=3)
    assert table.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]


NNUNET = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
PLAN = {
    "labels": {"0": "background", "1": "rim", "2": "core"},
    "regions": [{"name": "whole", "labels": [1, 2], "label": 1}],
    "ignore_label": 3,
}


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"labels": {"background": 0, "a": 1, "b": 2, "ignore": 3}}, {"a", "b"}),
        ({"labels": NNUNET, "regions_class_order": [1, 2]}, {"whole", "core"}),
        ({"labels": NNUNET}, {"whole", "core"}),
        ({"labels": {"background": 0, "x": [1, 2], "y": [2, 1], "ignore": 3}}, {"x", "y"}),  # no order can be told
        (PLAN, {"rim", "core", "whole"}),
    ],
)
def test_ignored_values_and_regions_are_read_from_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: dict[str, Any], names: set[str]
) -> None:
    reference = np.zeros(SHAPE, np.uint8)
    reference[2:5, 2:5, 2:5], reference[3, 3, 3], reference[7:] = 1, 2, 3
    prediction = np.where(reference == 3, 0, reference)
    save(tmp_path / "r" / "a.nii.gz", reference)
    save(tmp_path / "p" / "a.nii.gz", prediction)
    (tmp_path / "labels.json").write_text(json.dumps(content))
    summary = score(capsys, tmp_path, "--labels", str(tmp_path / "labels.json"))
    assert names <= set(summary)
    assert "ignore" not in summary
    assert {row["dice"]["mean"] for row in summary.values()} == {1.0}


def test_a_file_that_names_no_labels_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text("[]")
    with pytest.raises((ConfigError, DataError)):
        read_label_table(str(tmp_path / "labels.json"))


def test_probabilities_beside_label_maps_are_no_case_and_a_case_of_that_name_is_one(tmp_path: Path) -> None:
    label = np.zeros(SHAPE, np.uint8)
    label[2:5] = 1
    for side in ("p", "r"):
        save(tmp_path / side / "a.nii.gz", label)
    save(tmp_path / "p" / "a_probabilities.nii.gz", np.zeros((*SHAPE, 2), np.float32))
    assert [case.name for case in evaluate_folders(tmp_path / "p", tmp_path / "r").cases] == ["a"]
    for side in ("p", "r"):  # one class would be one channel; a label map of this name is a case of its own
        save(tmp_path / side / "a_probabilities.nii.gz", label)
    assert len(evaluate_folders(tmp_path / "p", tmp_path / "r").cases) == 2
    save(tmp_path / "p" / "a_probabilities.nii.gz", np.zeros(SHAPE, np.float32))
    (tmp_path / "r" / "a_probabilities.nii.gz").unlink()
    assert len(evaluate_folders(tmp_path / "p", tmp_path / "r").cases) == 1


@pytest.mark.parametrize("side", ["p", "r"])
def test_a_missed_organ_has_no_distance_or_the_worst_one_as_asked(tmp_path: Path, side: str) -> None:
    label, empty = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    label[2:5] = 1
    save(tmp_path / "p" / "a.nii.gz", empty if side == "p" else label)
    save(tmp_path / "r" / "a.nii.gz", empty if side == "r" else label)
    found = evaluate_folders(tmp_path / "p", tmp_path / "r", labels={1: "organ", 2: "absent"})
    scores = found.cases[0].labels["organ"]
    assert math.isnan(scores.values["hd95_mm"])
    assert "absent from" in scores.reasons["hd95_mm"]
    settings = ScoreSettings(missing="worst")
    worst = evaluate_folders(tmp_path / "p", tmp_path / "r", labels={1: "organ", 2: "absent"}, settings=settings)
    diagonal = math.sqrt(10**2 + 20**2 + 30**2)  # 10 voxels of 1, 2 and 3 mm
    assert worst.mean("hd95_mm", "organ") == worst.mean("asd_mm", "organ") == pytest.approx(diagonal)
    assert "hd95_mm" not in worst.cases[0].labels["organ"].reasons
    assert math.isnan(worst.cases[0].labels["absent"].values["hd95_mm"])  # nothing was missed
    worst.to_json(tmp_path / "e.json")
    assert read_evaluation(tmp_path / "e.json").settings == settings
    with pytest.raises(ConfigError, match="nan, worst"):
        ScoreSettings(missing="zero")


@pytest.mark.parametrize("folder", ["labelsTr", "labels", "labelsTs", "masks"])
def test_a_folder_of_references_alone_needs_no_images_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: str
) -> None:
    array = np.zeros(SHAPE, np.uint8)
    array[2:5, 2:5, 2:5] = 1
    save(tmp_path / "p" / "a.nii.gz", array)
    (tmp_path / "r").mkdir()
    save(tmp_path / "r" / folder / "a.nii.gz", array)
    assert score(capsys, tmp_path)["1"]["dice"]["mean"] == 1
