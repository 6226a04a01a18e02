"""`medseg pretrain`: images without labels, exact resume, and facts that travel with the weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from medseg.cli.main import main
from medseg.commands.adapt import Wish, adapt_bundle
from medseg.commands.pretrain import Pretraining, pretrain_bundle
from medseg.errors import DataError, MedsegError
from medseg.layout import Layout
from tests.commands.adapt_samples import data_set

SHORT = {
    "steps_per_epoch": 2, "train::trainer::tracking": False, "num_workers": 0, "train::module::schedule": "constant",
    "train::module::warmup_steps": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_set(tmp_path_factory.mktemp("data") / "d", {"1": "a", "2": "b"}, cases=6)


@pytest.mark.slow
def test_a_resumed_pretraining_ends_with_the_weights_of_an_uninterrupted_one_and_they_are_adapted(
    labelled: Path, tmp_path: Path
) -> None:
    for name, parts in (("whole", (2,)), ("parts", (1, 2))):
        for number, epochs in enumerate(parts):
            asked = Pretraining(
                preset="resenc_unet", resume=number > 0, overrides={**SHORT, "max_epochs": epochs}, device="cpu"
            )
            facts = pretrain_bundle(labelled, tmp_path / name, asked)
    states = [torch.load(Layout(tmp_path / name).weights, weights_only=True) for name in ("whole", "parts")]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert facts["steps"] == 4
    assert (facts["task"], facts["preset"], facts["channels"]) == ("volume_fusion", "resenc_unet", ["MRI"])
    assert set(facts["left_out"]).isdisjoint(facts["cases"])
    found = adapt_bundle(tmp_path / "whole", labelled, tmp_path / "new", Wish(twin=True))
    assert set(found.classes.values()) == {None}  # levels are no anatomy: the heads begin as made
    body = [key for key in states[0] if "head" not in key]
    assert set(found.transfer.loaded) == set(body)
    travelled = json.loads(Layout(tmp_path / "new").pretraining.read_text())
    assert travelled["cases_sha256"] == facts["cases_sha256"]


def test_labels_and_the_validation_cases_of_fold_0_are_left_alone(
    labelled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from medseg.commands.pretrain import images_of

    with caplog.at_level("INFO"):
        cases, channels, held = images_of(labelled)
    assert "labels are not read; 2 validation cases of fold 0" in caplog.text
    assert len(cases) == 4
    assert {case.label for case in cases} == {None}
    assert channels == {0: "MRI"}
    unlabelled = tmp_path / "images"
    shutil.copytree(labelled / "imagesTr", unlabelled)
    cases, _, held = images_of(unlabelled)
    assert (len(cases), held) == (6, [])


def test_what_teaches_nothing_is_refused_with_its_name(labelled: Path, tmp_path: Path) -> None:
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(labelled / "imagesTr" / "case_0_0000.nii.gz", one)
    with pytest.raises(DataError, match="1 volume to pretrain on, expected two or more"):
        pretrain_bundle(one, tmp_path / "a")
    for value, said in ((3.0, "one value everywhere"), (np.nan, "holds nan")):
        folder = tmp_path / f"of_{value}"
        folder.mkdir()
        for name in ("x", "y"):
            flat = nibabel.Nifti1Image(np.full((16, 16, 16), value, np.float32), np.eye(4))
            nibabel.save(flat, folder / f"{name}.nii.gz")
        asked = Pretraining(preset="resenc_unet", overrides={**SHORT, "max_epochs": 1}, device="cpu")
        with pytest.raises(MedsegError, match=said):
            pretrain_bundle(folder, tmp_path / f"b_{value}", asked)
    mixed = data_set(tmp_path / "mixed", {"1": "a"}, channels=("CT", "MRI"))
    with pytest.raises(DataError, match="its channels are CT and others"):
        pretrain_bundle(mixed, tmp_path / "c")


def test_an_unknown_task_is_named(labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "--data", str(labelled), "--output", str(tmp_path / "x"), "--task", "fusion"]) == 1
    assert "'fusion' is not known. " in capsys.readouterr().err
