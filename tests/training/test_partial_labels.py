"""Partly annotated data from the list to the selection: labels that some cases lack, and voxels that nobody annotated."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medseg.cli.main import main
from medseg.commands.fit import fit_bundle
from medseg.commands.plan import plan_bundle
from medseg.errors import LabelError
from tests.volumes import ball

SHAPE = (24, 16, 16)
IGNORE = 255
QUICK = {"max_epochs": 2, "steps_per_epoch": 25, "batch_size": 2, "num_workers": 0, "train::trainer::tracking": False}


def write_list(folder: Path, declared: dict[int, str]) -> None:
    rows = [f"case_{i},images/case_{i}.nii.gz,labels/case_{i}.nii.gz,{declared.get(i, '1 2')}" for i in range(4)]
    (folder / "cases.csv").write_text("\n".join(["name,image,label,labels_present", *rows]))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four cases of a dim and a bright ball; in two of them nobody annotated the bright one, and each has an ignored slab."""
    folder = tmp_path_factory.mktemp("partial")
    for part in ("images", "labels"):
        (folder / part).mkdir()
    for index in range(4):
        shift = np.random.default_rng(index).uniform(-1, 1, 3)
        dim, bright = (ball(SHAPE, 4.5, np.array([x, 7.5, 7.5]) + shift) for x in (6.0, 17.0))
        noise = np.random.default_rng(10 + index).normal(0, 0.2, SHAPE)
        label = dim + (2 * bright if index < 2 else 0)
        label[:, :, :3] = IGNORE
        for part, array in (
            ("images", (dim + 3.0 * bright + noise).astype(np.float32)),
            ("labels", label.astype(np.uint8)),
        ):
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / part / f"case_{index}.nii.gz")
    write_list(folder, {2: "1", 3: "1"})
    labels = {"background": 0, "dim": 1, "bright": 2, "ignore": IGNORE}
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, "channels": ["MRI"]}))
    splits = [{"train": ["case_0", "case_2"], "val": ["case_1", "case_3"]}]
    (folder / "splits_final.json").write_text(json.dumps(splits))
    return folder


def test_what_nobody_annotated_is_neither_learnt_nor_counted(data: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "balls"
    plan = plan_bundle(data, bundle, preset="resenc_unet")
    assert plan.ignore_label == IGNORE
    metrics = fit_bundle(bundle, overrides=QUICK)[0]
    # the bright ball is found in case_3 too, where its voxels are background in the map: that must not count as wrong
    assert metrics["val_dice/bright"] > 0.7
    assert metrics["val_dice/dim"] > 0.7
    assert main(["cv", str(bundle), "--quiet"]) == 0
    scores = json.loads((bundle / "docs" / "cross_validation.json").read_text())["evaluation"]
    assert scores["settings"]["ignore_label"] == IGNORE
    whole, partial = (case["labels"]["bright"] for case in scores["cases"])
    assert whole["dice"] > 0.7
    assert partial["dice"] is None
    assert "not annotated" in partial["undefined"]["dice"]


@pytest.mark.parametrize(
    ("declared", "message"),
    [({1: "1"}, r"case 'case_1'.*holds the label values 2, which labels_present does not list \(1\)"),
     ({2: "1 9"}, r"case 'case_2': labels_present lists 9; the dataset declares 0, 1, 2")],
)  # fmt: skip
def test_a_declaration_that_contradicts_the_data_is_refused(
    data: Path, tmp_path: Path, declared: dict[int, str], message: str
) -> None:
    for name in ("images", "labels", "dataset.json"):
        (tmp_path / name).symlink_to(data / name)
    write_list(tmp_path, declared)
    with pytest.raises(LabelError, match=message):
        plan_bundle(tmp_path, tmp_path / "bundle")
