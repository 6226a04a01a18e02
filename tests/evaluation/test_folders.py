"""`evaluate_folders` and `medseg evaluate`: pairs, missing partners, other grids, absent labels, files written."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from medseg.cli.main import main
from medseg.errors import ConfigError, DataError, UnreadableFileError
from medseg.evaluation import ScoreSettings, evaluate_folders, read_evaluation
from medseg.evaluation.folders import evaluate_pairs, pair_cases
from medseg.evaluation.result import MEAN
from medseg.io.header import Header
from medseg.io.volume import write_label

AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])
LABELS = {0: "background", 1: "anterior", 2: "posterior"}


def _write(path: Path, *boxes: tuple[int, int], affine: np.ndarray = AFFINE) -> None:
    """A label map with one block of 4 x 4 x 4 voxels per (label, first x)."""
    array = np.zeros((20, 12, 10), dtype=np.uint8)
    for label, x in boxes:
        array[x : x + 4, 3:7, 3:7] = label
    path.parent.mkdir(parents=True, exist_ok=True)
    write_label(path, array, like=Header.of_array(array.shape, affine))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Case a is perfect, case b half off for label 1 and without label 2, case c holds nothing."""
    predictions, references = tmp_path / "predictions", tmp_path / "references"
    _write(references / "a.nii.gz", (1, 2), (2, 10))
    _write(predictions / "a.nii.gz", (1, 2), (2, 10))
    _write(references / "b.nii.gz", (1, 2), (2, 10))
    _write(predictions / "b.nii.gz", (1, 4))
    _write(references / "c.nii.gz")
    _write(predictions / "c.nii.gz")
    return predictions, references


def test_known_scores_of_three_cases(folders: tuple[Path, Path]) -> None:
    evaluation = evaluate_folders(*folders, labels=LABELS)
    a, b, c = evaluation.cases
    assert [case.name for case in (a, b, c)] == ["a", "b", "c"]
    assert a.labels["anterior"].values["dice"] == 1.0
    assert a.labels["anterior"].values["hd95_mm"] == 0.0
    assert b.labels["anterior"].values["dice"] == 0.5
    assert b.labels["anterior"].values["hd95_mm"] == 2.0  # two voxels of 1 mm along X
    assert b.labels["posterior"].values["dice"] == 0.0
    assert b.labels["posterior"].values["volume_error_ml"] == pytest.approx(-64 * 3.0 / 1000)
    assert b.labels["posterior"].reasons["hd95_mm"] == "label absent from prediction"
    assert math.isnan(c.labels["anterior"].values["dice"])
    assert c.labels["anterior"].reasons["dice"] == "label absent from reference and prediction"
    summary = evaluation.summary()
    assert summary["anterior"]["dice"].mean == 0.75
    assert summary["anterior"]["dice"].undefined == 1
    assert summary[MEAN]["dice"].mean == pytest.approx((1.0 + 0.25) / 2)
    assert [case.name for case in evaluation.worst(1)] == ["b"]


def test_labels_found_in_the_files_when_none_are_named(folders: tuple[Path, Path]) -> None:
    evaluation = evaluate_folders(*folders)
    assert evaluation.regions == {"1": (1,), "2": (2,)}
    assert evaluation.cases[2].labels["2"].values["reference_ml"] == 0.0


def test_region_of_two_labels(folders: tuple[Path, Path]) -> None:
    evaluation = evaluate_folders(*folders, labels=LABELS, regions={"whole": (1, 2)})
    whole = evaluation.cases[1].labels["whole"]
    assert whole.values["dice"] == pytest.approx(2 * 32 / (64 + 128))
    assert whole.values["hd95_mm"] > 0


def test_labels_that_were_not_annotated_have_no_score(folders: tuple[Path, Path]) -> None:
    pairs, _ = pair_cases(*folders)
    evaluation = evaluate_pairs(pairs, labels=LABELS, regions={"whole": (1, 2)}, declared={"b": (1,)})
    a, b, _ = evaluation.cases
    assert a.labels["posterior"].values["dice"] == 1.0
    assert b.labels["anterior"].values["dice"] == 0.5
    for label in ("posterior", "whole"):
        assert math.isnan(b.labels[label].values["dice"])
        assert b.labels[label].reasons["dice"] == "label not annotated in this case"


def test_missing_partner_is_an_error_naming_it(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    (predictions / "b.nii.gz").unlink()
    with pytest.raises(DataError, match=r"no prediction for the reference b\b.*--cases predicted"):
        evaluate_folders(predictions, references)
    assert evaluate_folders(predictions, references, cases="predicted").skipped == ["b"]
    assert [case.name for case in evaluate_folders(predictions, references, cases=["a"]).cases] == ["a"]
    (references / "c.nii.gz").unlink()
    with pytest.raises(DataError, match="no reference for the prediction c"):
        evaluate_folders(predictions, references, cases="predicted")
    with pytest.raises(DataError, match="no reference for the case nobody"):
        evaluate_folders(predictions, references, cases=["nobody"])


def test_bad_cases_are_listed_and_stop_nothing(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    _write(predictions / "a.nii.gz", (1, 2), affine=np.diag([1.0, 1.0, 1.0, 1.0]))
    _write(predictions / "b.nii.gz", (7, 2))
    evaluation = evaluate_folders(predictions, references, labels=LABELS, workers=2)
    assert [case.name for case in evaluation.cases] == ["c"]
    assert "different grids" in evaluation.failed["a"]
    assert "[7]" in evaluation.failed["b"]


def test_empty_folder_and_two_files_of_one_case(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no label maps"):
        evaluate_folders(tmp_path / "empty", folders[1])
    with pytest.raises(UnreadableFileError, match="no such folder"):
        evaluate_folders(tmp_path / "nowhere", folders[1])
    _write(folders[0] / "a.nii", (1, 2))
    with pytest.raises(DataError, match="are both case 'a'"):
        evaluate_folders(*folders)


def test_json_comes_back_and_holds_no_nan(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    evaluation = evaluate_folders(*folders, labels=LABELS, settings=ScoreSettings(tolerance_mm=2.5))
    evaluation.to_json(tmp_path / "evaluation.json")
    again = read_evaluation(tmp_path / "evaluation.json")
    assert again.as_dict() == evaluation.as_dict()
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert content["settings"]["tolerance_mm"] == 2.5
    assert "95th percentile" in content["definitions"]["surface"]
    assert content["cases"][2]["labels"]["anterior"]["dice"] is None
    with pytest.raises(UnreadableFileError, match="no evaluation written by medseg"):
        read_evaluation(folders[0] / "a.nii.gz")


def test_csv_has_a_row_per_case_and_label(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    evaluate_folders(*folders, labels=LABELS).to_csv(tmp_path / "evaluation.csv")
    rows = list(csv.DictReader((tmp_path / "evaluation.csv").open()))
    assert [(row["case"], row["label"]) for row in rows[:3]] == [
        ("a", "anterior"),
        ("a", "posterior"),
        ("b", "anterior"),
    ]
    assert rows[2]["dice"] == "0.5"
    assert rows[4]["dice"] == ""
    assert "dice: label absent from reference and prediction" in rows[4]["undefined"]


def test_verb_writes_prints_and_exits(
    tmp_path: Path, folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "evaluate",
        "--prediction",
        str(folders[0]),
        "--reference",
        str(folders[1]),
        "--labels",
        "1=anterior,2=posterior",
    ]
    assert main([*words, "--output", str(tmp_path / "scores")]) == 0
    assert "anterior" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "scores").iterdir()} >= {"evaluation.json", "evaluation.csv"}
    page = (tmp_path / "scores" / "report.html").read_text()
    assert page.count("data:image/png") == 2  # both cases, without their images
    assert "label maps only" in page
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["summary"]["anterior"]["dice"]["mean"] == 0.75
    _write(folders[0] / "b.nii.gz", (7, 2))
    assert main(words) == 3
    assert "failed: b" in capsys.readouterr().err
    (folders[0] / "b.nii.gz").unlink()
    assert main(words) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "table", [{"0": "background", "1": "anterior", "2": "posterior"}, {"background": 0, "anterior": 1, "posterior": 2}]
)
def test_label_names_from_either_dataset_json(tmp_path: Path, table: dict[str, object]) -> None:
    from medseg.cli.evaluate import read_labels

    (tmp_path / "dataset.json").write_text(json.dumps({"labels": table}))
    assert read_labels(str(tmp_path)) == read_labels(str(tmp_path / "dataset.json")) == LABELS
    with pytest.raises(ConfigError, match="1=name,2=name"):
        read_labels("anterior")
    assert read_labels("hippocampus_mr_mambavision") == {0: "background", 1: "Anterior", 2: "Posterior"}


@pytest.mark.data
def test_real_references_score_one_against_themselves(real_data: Path) -> None:
    folder = real_data / "hippocampus" / "labelsTr"
    names = sorted(path.name.removesuffix(".nii.gz") for path in folder.glob("*.nii.gz") if path.name[0] != ".")[:5]
    evaluation = evaluate_folders(folder, folder, labels=LABELS, cases=names)
    assert evaluation.mean("dice") == evaluation.mean("nsd") == 1.0
    assert evaluation.mean("hd95_mm") == 0.0
    assert all(1.0 < value < 2.5 for value in evaluation.values("reference_ml", "anterior"))
