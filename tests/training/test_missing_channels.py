"""Cases that lack a channel: refused by default, trained with zeros and channel dropout when that is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from medseg.cli.main import main
from medseg.commands.fit import fit_bundle
from medseg.commands.plan import plan_bundle
from medseg.datasets import open_dataset
from medseg.io.datalist import Case
from medseg.planning.plan import Plan
from medseg.training.prepare import preprocess_case
from medseg.transforms.crops.augmentation import ChannelParameters, apply, draw, spare_missing
from medseg.transforms.preprocessing import Preprocessing
from tests.volumes import make_case

QUICK = {"max_epochs": 1, "steps_per_epoch": 2, "batch_size": 2, "val_interval": 1, "num_workers": 0}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four cases of two channels in nnU-Net's layout; ball_2 has no second one."""
    folder = tmp_path / "data"
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for index in range(4):
        for channel in range(2):
            case = make_case(tmp_path / "made", f"ball_{index}", shape=(12, 12, 12), radius=3.0, seed=index)
            if (index, channel) != (2, 1):
                case.images[0].rename(folder / "imagesTr" / f"ball_{index}_{channel:04d}.nii.gz")
        assert case.label is not None
        case.label.rename(folder / "labelsTr" / f"ball_{index}.nii.gz")
    described = {"labels": {"background": 0, "ball": 1}, "channel_names": {"0": "T1", "1": "FLAIR"}}
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def test_by_default_the_case_and_the_channel_are_named(data: Path, tmp_path: Path, capsys) -> None:
    assert main(["plan", "--data", str(data), "--output", str(tmp_path / "b"), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert "case 'ball_2': has no file for channel FLAIR" in error
    assert "--missing-channels zero" in error
    assert not (tmp_path / "b").exists()


def test_asked_for_it_is_trained_and_the_report_names_the_case(data: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "b"
    plan = plan_bundle(data, bundle, preset="resenc_unet", missing_channels="zero")
    assert plan.augmentation["channel_dropout"] == 0.2
    assert "do without" in plan.reasons["missing_channels"]
    assert Plan.read(bundle / "plan.json").missing_channels == "zero"
    metrics = fit_bundle(bundle, overrides=QUICK)[0]
    assert 0 <= metrics["val_dice"] <= 1
    report = json.loads((bundle / "runs" / "fold_0" / "preparation.json").read_text())
    gaps = {**report["train"]["missing_channels"], **report["val"]["missing_channels"]}
    assert gaps == {"ball_2": [1]}


@pytest.mark.parametrize("entry", [{"kind": "zscore"}, {"kind": "ct", "lower": -9, "upper": 9, "mean": 3, "std": 2}])
def test_an_absent_channel_is_zero_for_the_network(data: Path, entry: dict) -> None:
    dataset = open_dataset(data, missing_channels="zero")
    case = next(case for case in dataset.cases if case.missing)
    arrays = preprocess_case(Preprocessing(None, [{"kind": "zscore"}, entry]), dataset.labels)(case)
    assert arrays.image.shape[0] == 2
    assert arrays.image[0].std() > 0.9
    assert not arrays.image[1].any()


def test_channel_dropout_moves_no_other_draw_and_leaves_one_channel() -> None:
    plain = draw(np.random.default_rng(3), (8, 8, 8), 3, preset="strong")
    dropped = draw(np.random.default_rng(3), (8, 8, 8), 3, preset="strong", channel_dropout=1.0)
    lost = [index for index, changes in enumerate(dropped.channels) if changes.dropped]
    assert len(lost) == 1
    assert np.array_equal(plain.matrix, dropped.matrix)
    kept = [index for index in range(3) if index not in lost]
    assert all(plain.channels[index] == dropped.channels[index] for index in kept)
    crop, _ = apply(np.ones((3, 9, 9, 9), np.float32), None, (4, 4, 4), (8, 8, 8), dropped)
    assert not crop[lost[0]].any()
    others = spare_missing(dropped, kept)
    assert not any(changes.dropped for changes in others.channels)
    assert others.channels[kept[0]] == ChannelParameters()
    assert not draw(np.random.default_rng(3), (8, 8, 8), 1, channel_dropout=1.0).channels[0].dropped


def test_a_csv_list_may_leave_a_cell_empty(data: Path, tmp_path: Path) -> None:
    rows = ["image_0,image_1,label,name"]
    for index in range(4):
        second = "" if index == 2 else f"{data}/imagesTr/ball_{index}_0001.nii.gz"
        rows.append(
            f"{data}/imagesTr/ball_{index}_0000.nii.gz,{second},{data}/labelsTr/ball_{index}.nii.gz,ball_{index}"
        )
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "cases.csv").write_text("\n".join(rows))
    (tmp_path / "list" / "dataset.json").write_text(
        json.dumps({"labels": {"background": 0, "ball": 1}, "channels": ["T1", "FLAIR"]})
    )
    cases = open_dataset(tmp_path / "list", missing_channels="zero").cases
    assert [case.missing for case in cases] == [(), (), (1,), ()]
    assert isinstance(cases[0], Case)
    assert torch.tensor(len(cases[2].images)) == 1
