"""Folders of datasets on the command line: images in, label maps never; references, label names and near names found."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.cli.label_table import known_names
from medseg.cli.main import main
from medseg.datasets import open_dataset
from medseg.io.inputs import find_inputs
from medseg.io.straighten import main as straighten
from medseg.io.volume import read_image

CASES = [f"c{i}" for i in range(4)]


def write(path: Path, *, label: bool = False, shear: float = 0.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros((8, 9, 7), np.uint8)
    array[2:5, 2:6, 2:5] = 1
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[0, 2] = shear
    content = array if label else (array * 50 + np.arange(7)).astype(np.float32)
    nib.save(nib.Nifti1Image(content, affine), path)


def decathlon(root: Path) -> None:
    for name in CASES:
        write(root / "imagesTr" / f"{name}.nii.gz")
        write(root / "labelsTr" / f"{name}.nii.gz", label=True)
    listed = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in CASES]
    facts = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "organ"}, "training": listed, "test": []}
    (root / "dataset.json").write_text(json.dumps(facts))


def nnunet(root: Path) -> None:
    for name in CASES:
        write(root / "imagesTr" / f"{name}_0000.nii.gz")
        write(root / "labelsTr" / f"{name}.nii.gz", label=True)
    facts = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "organ": 1}, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(facts | {"numTraining": 4}))


def plain(root: Path) -> None:
    for name in CASES:
        write(root / "images" / f"{name}.nii.gz")
        write(root / "labels" / f"{name}.nii.gz", label=True)


def patients(root: Path) -> None:
    for name in CASES:
        write(root / name / "image.nii.gz")
        write(root / name / "label.nii.gz", label=True)


def suffixed(root: Path) -> None:
    for name in CASES:
        write(root / name / f"{name}.nii.gz")
        write(root / name / f"{name}_seg.nii.gz", label=True)


def listed(root: Path) -> None:
    lines = ["name,image,label"]
    for name in CASES:
        write(root / "anything" / f"{name}_x.nii.gz")
        write(root / "anything" / f"{name}_y.nii.gz", label=True)
        lines.append(f"{name},anything/{name}_x.nii.gz,anything/{name}_y.nii.gz")
    (root / "cases.csv").write_text("\n".join(lines) + "\n")


LAYOUTS = {f.__name__: f for f in (decathlon, nnunet, plain, patients, suffixed, listed)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_dataset_gives_its_images_to_predict_and_its_labels_to_evaluate(
    layout: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    LAYOUTS[layout](tmp_path)
    with caplog.at_level(logging.WARNING):
        found = find_inputs([tmp_path])
    assert [case.name for case in found] == CASES
    assert [case.label for case in found] == [None] * 4
    assert not any("label" in str(path.relative_to(tmp_path)) for case in found for path in case.images)
    if layout != "listed":
        said = [one.getMessage() for one in caplog.records if "label maps lie beside the images" in one.getMessage()]
        assert [one.partition(": ")[2][:51] for one in said] == ["4 label maps lie beside the images and are left out"]
    dataset = open_dataset(tmp_path)
    assert [case.name for case in dataset.cases] == CASES
    assert [case.images for case in dataset.cases] == [case.images for case in found]
    (tmp_path / "predicted").mkdir()
    for name in CASES[:2]:
        write(tmp_path / "predicted" / f"{name}.nii.gz", label=True)
    words = ["evaluate", "--prediction", str(tmp_path / "predicted"), "--reference", str(tmp_path), "--json"]
    assert main([*words, "--cases", "predicted"]) == 0


def test_a_folder_of_images_alone_and_one_of_label_maps_alone_are_taken_whole(tmp_path: Path) -> None:
    write(tmp_path / "a" / "mask.nii.gz")
    write(tmp_path / "b" / "liver_mask.nii.gz")
    write(tmp_path / "labels" / "c.nii.gz")
    assert [case.name for case in find_inputs([tmp_path])] == ["mask", "liver_mask", "c"]


def test_label_names_come_from_the_records_of_the_predictions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain(tmp_path)
    for name in CASES:
        record = {"format": 1, "labels": [{"label": 1, "name": "hippocampus", "voxels": 3}]}
        (tmp_path / "labels" / f"{name}.json").write_text(json.dumps(record))
    words = ["evaluate", "--prediction", str(tmp_path / "labels"), "--reference", str(tmp_path), "--json"]
    assert main(words) == 0
    assert list(json.loads(capsys.readouterr().out)["labels"]) == ["hippocampus"]
    (tmp_path / "other").mkdir()
    decathlon(tmp_path / "other")
    assert known_names(tmp_path / "other" / "labelsTr", tmp_path / "other" / "labelsTr") == {1: "organ"}


@pytest.mark.parametrize(
    ("predicted", "remedy"),
    [
        (["c0", "c1", "extra"], "--cases common"),
        (["c0"], "--cases predicted"),
        (["c0_seg", "c1"], "'c0_seg' there looks like 'c0'|'c0' there looks like 'c0_seg'"),
    ],
)
def test_the_remedy_for_cases_without_partner_works_when_followed(
    predicted: list[str], remedy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain(tmp_path)
    for name in predicted:
        write(tmp_path / "p" / f"{name}.nii.gz", label=True)
    words = ["evaluate", "--prediction", str(tmp_path / "p"), "--reference", str(tmp_path)]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert any(one in said for one in remedy.split("|")), said
    if remedy.startswith("--"):
        assert main([*words, *remedy.split()]) == 0
    else:
        (tmp_path / "p" / "c0_seg.nii.gz").rename(tmp_path / "p" / "c0.nii.gz")
        assert main([*words, "--cases", "predicted"]) == 0


def test_a_label_map_of_a_near_name_is_named(tmp_path: Path) -> None:
    plain(tmp_path)
    (tmp_path / "labels" / "c2.nii.gz").rename(tmp_path / "labels" / "c2_seg.nii.gz")
    with pytest.raises(ValueError, match=r"c2_seg\.nii\.gz looks like it"):
        open_dataset(tmp_path)


def test_the_remedy_for_a_sheared_volume_makes_it_readable(tmp_path: Path) -> None:
    for label in (False, True):
        source, target = tmp_path / f"sheared_{label}.nii.gz", tmp_path / f"straight_{label}.nii.gz"
        write(source, label=label, shear=0.5)
        with pytest.raises(ValueError, match=r"python -m medseg.io.straighten .* STRAIGHT.nii.gz"):
            read_image(source)
        assert straighten([str(source), str(target), *(["--label"] if label else [])]) == 0
        straight, sheared = read_image(target), read_image(source, allow_shear=True)
        same = float(straight.array.sum() * abs(np.linalg.det(straight.affine[:3, :3])))
        before = float(sheared.array.sum() * abs(np.linalg.det(sheared.affine[:3, :3])))
        assert (abs(same - before) < 0.25 * before) if label else (straight.array.max() > 40)


def test_cuda_where_there_is_none_is_refused_before_a_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    plain(tmp_path)
    for words in (
        ["predict", "hippocampus_mr_mambavision", str(tmp_path / "images"), "-o", str(tmp_path / "out")],
        ["plan", "--data", str(tmp_path), "--output", str(tmp_path / "out"), "--folds", "2"],
    ):
        assert main([*words, "--device", "cuda"]) == 1
        said = capsys.readouterr().err
        assert "no CUDA device; use --device cpu" in said
        assert said.count("\n") == 1
        assert not (tmp_path / "out").exists()
    assert main([*words, "--device", "cpu"]) == 0
    bad = ["predict", "hippocampus_mr_mambavision", str(tmp_path / "images"), "-o", str(tmp_path / "made")]
    for refused in (["--mirror", "xyz"], ["--overlap", "3"], ["--precision", "fp8"], ["--window-batch", "0"]):
        assert main([*bad, *refused, "--device", "cpu"]) != 0, refused
        assert not (tmp_path / "made").exists(), refused


def test_the_names_that_are_checked_early_are_those_of_the_engines() -> None:
    from medseg.inference import settings
    from medseg.inference.engines import choice, engine

    assert set(settings.ENGINES) == {"auto", *choice.ENGINES}
    assert set(settings.PRECISIONS) == set(engine.PRECISIONS)
