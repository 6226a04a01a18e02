"""Wrong usages end in one line that names the fault and a way out, within two seconds of a warm start."""

from __future__ import annotations

import re
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medseg.cli.main import main
from tests.bundle.samples import make_bundle

BUNDLE = "hippocampus_mr_mambavision"
# words, exit code, what the line must hold: the fault, and the word that mends it
USAGES = [
    ("predcit BUNDLE x", 2, "Did you mean predict"),
    ("--verison", 2, "Did you mean --version"),
    ("predict", 2, "medseg predict BUNDLE -i scans/ -o labels/"),
    ("predict BUNDLE", 2, "-i INPUT"),
    ("predict -i image.nii.gz", 2, "name its folder"),
    ("predict BUNDLE image.nii.gz --ouput x", 2, "Did you mean --output"),
    ("predict BUNDLE image.nii.gz --gpu", 2, "--device cuda"),
    ("predict BUNDLE image.nii.gz --threads x", 2, "is not a whole number"),
    ("predict BUNDLE image.nii.gz --max-memory lots", 2, "such as 8GB"),
    ("predict hipocampus_mr_mambavision image.nii.gz", 1, "Did you mean hippocampus_mr_mambavision"),
    ("predict BUNDLE nowhere.nii.gz", 1, "check the path"),
    ("predict BUNDLE text.txt", 1, "readable are"),
    ("predict BUNDLE empty", 1, "readable are"),
    ("predict BUNDLE *.mha", 1, "put it in quotes"),
    ("predict BUNDLE image.nii.gz --format jpg", 1, ".nii.gz"),
    ("predict BUNDLE image.nii.gz --overlap 2", 1, "--overlap 0.5"),
    ("predict BUNDLE image.nii.gz --window-batch 0", 1, "--window-batch 1"),
    ("predict BUNDLE image.nii.gz --engine fast", 1, "--engine auto"),
    ("predict BUNDLE image.nii.gz --precision fp8", 1, "--precision fp32"),
    ("predict BUNDLE image.nii.gz --mirror abc", 1, "letters out of x, y and z"),
    ("predict BUNDLE image.nii.gz --device gpu", 1, "--device auto"),
    ("predict BUNDLE image.nii.gz --device cuda:77", 1, "use --device"),
    ("predict BUNDLE image.nii.gz --threads 0", 2, "less than 1"),
    ("predict BUNDLE image.nii.gz -o text.txt", 1, "choose another with --output"),
    ("cv BUNDLE --output empty", 1, "empty/cv.html"),
    ("evaluate --prediction data/labels --reference data --images nowhere --output o", 1, "check the path"),
    ("demo --device nope", 1, "--device auto"),
    ("demo --output text.txt", 1, "choose another with --output"),
    ("fit BUNDLE --budget 0", 2, "such as 2h"),
    ("fit BUNDLE --budget -1h", 2, "such as 2h"),
    ("predict BUNDLE https://example.org/scan.nii.gz?x=1", 1, "download it"),
    ("fit", 2, "required: BUNDLE (see"),
    ("plan --dta data --output b", 2, "Did you mean --data"),
    ("plan data b", 2, "--data"),
    ("plan --data data --output b --folds x", 2, "is not a whole number"),
    ("plan --data data --output b --folds 1", 1, "at least 2"),
    ("plan --data data --output b --dims 4", 2, "choose from"),
    ("plan --data data --output b --memory much", 2, "such as 8GB"),
    ("plan --data nowhere --output b", 1, "check the path"),
    ("plan --data empty --output b", 1, "expected images/ and labels/"),
    ("plan --data data --output b --region organ", 1, "expected NAME=1,2"),
    ("fit BUNDLE lr=0.1", 1, "train::module::learning_rate"),
    ("fit BUNDLE max_epochs=abc", 1, "max_epochs=40"),
    ("fit BUNDLE --epochs 3", 2, "max_epochs=N"),
    ("fit BUNDLE --fold one", 1, "a number or `all`"),
    ("fit BUNDLE --fold 99", 1, "folds 0 to"),
    ("fit BUNDLE --budget soon", 2, "such as 2h"),
    ("fit BUNDLE device=cpu", 1, "device::name="),
    ("evaluate --prediction data/labels", 2, "--reference"),
    ("evaluate --prediction data/labels --refrence data", 2, "Did you mean --reference"),
    ("evaluate --prediction data/labels --reference nowhere", 1, "check the path"),
    ("evaluate --prediction empty --reference data", 1, "holds no label maps"),
    ("evaluate --prediction data/labels --reference data --labels nothing", 1, "1=name,2=name"),
    ("bundle", 2, "ACTION"),
    ("bundle verfiy BUNDLE", 2, "Did you mean verify"),
    ("bundle export BUNDLE --to tflite", 2, "choose from"),
    ("networks mambavison", 1, "Did you mean mambavision"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("usages")
    for part in ("data/images", "data/labels", "empty"):
        (folder / part).mkdir(parents=True)
    label = np.zeros((8, 9, 7), np.uint8)
    label[2:5, 2:6, 2:5] = 1
    for name in ("a", "b"):
        nib.save(nib.Nifti1Image(label, np.eye(4)), folder / "data" / "labels" / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(label.astype(np.float32), np.eye(4)), folder / "data" / "images" / f"{name}.nii.gz")
    nib.save(nib.Nifti1Image(label.astype(np.float32), np.eye(4)), folder / "image.nii.gz")
    (folder / "text.txt").write_text("no volume")
    return folder


@pytest.fixture(scope="module")
def _warm() -> None:
    """What a warm start has in memory: the parts that the verbs import."""
    import medseg.bundle.predictor
    import medseg.commands.fit
    import medseg.commands.plan
    import medseg.networks.cost  # noqa: F401


@pytest.mark.usefixtures("_warm")
@pytest.mark.parametrize(("words", "code", "says"), USAGES)
def test_a_wrong_usage_ends_in_one_line_with_a_way_out(
    words: str, code: int, says: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    began = time.process_time()
    assert main(words.replace("BUNDLE", BUNDLE).split()) == code
    assert time.process_time() - began < 2
    said = capsys.readouterr().err
    assert says in said, said
    assert said.count("\n") == 1, said
    assert sorted(place.rglob("*")) == before


# What the lines above say, followed: every option and value that they name, in commands that work.
FOLLOWED = [
    "predict BUNDLE -i image.nii.gz -o OUT/labels --format .nii.gz --overlap 0.5 --window-batch 1 --engine auto --precision fp32 "
    "--mirror x --device auto --no-preview --max-memory 8GB --threads 2 --quiet",
    "plan --data data --output OUT/b --folds 2 --dims 3 --region organ=1 --memory 8GB --device cpu --quiet",
    "fit BUNDLE --keys train::module::learning_rate=0.1 max_epochs=40 device::name=cpu --fold all",
    "evaluate --prediction data/labels --reference data --labels 1=name --quiet",
    "networks mambavision",
    "--version",
]
# a training and MONAI's own run of the bundle: seconds each
FOLLOWED_SLOWLY = [
    "fit OUT/tiny max_epochs=3 --fold 0 steps_per_epoch=1 batch_size=1 num_workers=0 train::trainer::tracking=false",
    "fit OUT/tiny --budget 5s steps_per_epoch=1 batch_size=1 num_workers=0 train::trainer::tracking=false",  # all of it is used
    "bundle verify OUT/tiny",
    "bundle export OUT/tiny --to torchscript",
]


@pytest.mark.usefixtures("_warm")
@pytest.mark.parametrize("words", FOLLOWED)
def test_a_way_out_that_is_followed_leads_out(
    words: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    assert main(words.replace("BUNDLE", BUNDLE).replace("OUT", str(tmp_path)).split()) == 0


@pytest.mark.slow
def test_a_way_out_that_takes_long_is_followed_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_bundle(tmp_path / "tiny", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    for words in FOLLOWED_SLOWLY:
        assert main(words.replace("OUT", str(tmp_path)).split()) == 0, words


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_where_there_is_no_gpu_the_way_out_names_the_one_that_leads_out(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    words = ["predict", BUNDLE, "image.nii.gz", "-o", str(tmp_path / "labels"), "--no-preview", "--device"]
    assert main([*words, "cuda"]) == 1
    (named,) = re.findall(r"--device (cpu|auto)", capsys.readouterr().err)
    assert not (tmp_path / "labels").exists()
    assert main([*words, named]) == 0


def test_every_option_that_a_way_out_names_is_followed_here() -> None:
    named = {option for _, _, says in USAGES for option in re.findall(r"--[a-z][a-z-]+", says)}
    followed = " ".join([*FOLLOWED, *FOLLOWED_SLOWLY, "--device cuda"]).split()
    assert {option for option in named if option not in followed} <= {"--output"}  # written -o above
    assert len(USAGES) >= 40
