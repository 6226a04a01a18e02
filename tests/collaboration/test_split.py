"""`medseg split` from the plan to a joined bundle, with all sites in this process; and every refusal, in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medseg.cli.main import main
from medseg.config import read_json
from medseg.io.atomic import write_json
from medseg.layout import Layout
from tests.collaboration.split_samples import PATIENTS, make_patients


def plan(data: Path, output: Path, *more: str, sites: str = "ct=CT,pet=PET", label: str = "pet") -> int:
    words = ["split", "plan", "--data", str(data), "--sites", sites, "--label-site", label, "--output", str(output)]
    return main([*words, "--preset", "resenc_unet", "--folds", "3", "--quiet", *more])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_patients(tmp_path_factory.mktemp("data"), ("CT", "PET"), label="PET")


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = tmp_path_factory.mktemp("split") / "whole"
    assert plan(data, bundle) == 0
    train = read_json(Layout(bundle).train)
    for folder in (bundle, *(Layout(bundle).site(name).folder for name in ("ct", "pet"))):
        write_json(
            Layout(folder).train,
            train | {"roi_size": [32, 32, 32], "batch_size": 1, "max_epochs": 1, "steps_per_epoch": 3},
        )
    assert main(["split", "run", str(bundle), "--one-process", "--quiet"]) == 0
    return bundle


def test_the_plan_says_what_crosses_and_each_site_has_its_own_record(trained: Path) -> None:
    layout = Layout(trained)
    record, ct = read_json(layout.collaboration), read_json(layout.site("ct").record)
    assert ct["role"] == "images"
    assert ct["settings"]["levels"] == [2, 3, 4]
    assert read_json(layout.site("pet").record)["role"] == "labels"
    assert record["bytes_each_way"]["ct"] > 0
    assert "labels and decoder stay at pet" in read_json(layout.plan)["reasons"]["sites"]
    assert main(["bundle", "verify", str(trained), "--quiet"]) in (0, 1)


def test_before_the_join_predict_refuses_and_afterwards_it_gives_what_the_sites_gave_together(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stacked = tmp_path / "in" / "p0"
    stacked.mkdir(parents=True)
    for number, channel in enumerate(("CT", "PET")):
        shutil.copy(data / "p0" / f"{channel}_image.nii.gz", stacked / f"p0_000{number}.nii.gz")
    words = [
        "predict",
        str(trained),
        str(stacked),
        "-o",
        str(tmp_path / "joined"),
        "--quiet",
        "--no-preview",
        "--engine",
        "eager",
    ]
    assert main(words) == 1
    assert "medseg split predict" in capsys.readouterr().err
    (tmp_path / "cases.txt").write_text("p0\n", encoding="utf-8")
    across = [
        "split",
        "predict",
        str(trained),
        "--cases",
        str(tmp_path / "cases.txt"),
        "--output",
        str(tmp_path / "across"),
    ]
    assert main([*across, "--one-process", "--quiet"]) == 0
    assert main(["split", "join", str(trained), "--quiet"]) == 0
    assert main(words) == 0
    found = next((tmp_path / "joined").rglob("*.nii.gz"))
    labels = [np.asarray(nibabel.load(path).dataobj) for path in (found, tmp_path / "across" / "p0.nii.gz")]
    assert len(np.unique(labels[0])) == 2
    assert np.array_equal(*labels)


def test_another_fold_is_not_gone_on_with_and_what_it_trained_with_is_never_called_unseen(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, output = tmp_path / "whole", tmp_path / "labels"
    shutil.copytree(trained, bundle)
    run = ["split", "run", str(bundle), "steps_per_epoch=1", "--one-process", "--quiet", "--fold", "1"]
    refused(capsys, main(run), "holds another training", "--overwrite")
    assert main([*run, "--overwrite"]) == 0
    assert len(read_json(Layout(bundle).site("pet").losses)) == 1
    predict = ["split", "predict", str(bundle), "--output", str(output), "--one-process", "--quiet"]
    refused(capsys, main([*predict, "--fold", "0"]), "trained with fold 1")
    refused(capsys, main(["split", "leakage", str(bundle), "--fold", "0"]), "trained with fold 1")
    assert main(predict) == 0
    unseen = read_json(Layout(bundle).splits)[1]["val"]
    assert sorted(path.name for path in output.iterdir()) == sorted(f"{name}.nii.gz" for name in unseen)


def refused(capsys: pytest.CaptureFixture[str], code: int, *texts: str) -> None:
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("medseg:")]
    assert code == 1
    assert len(lines) == 1
    assert all(text in lines[0] for text in texts), lines[0]


def test_wrong_sites_are_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    refused(capsys, plan(data, out, sites="pet=PET"), "1 site was named")
    refused(capsys, plan(data, out, label="mr"), "'mr' is none of the sites")
    refused(capsys, plan(data, out, sites="ct=CT,b=CT,pet=PET"), "'ct' and 'b' both claim CT")
    refused(capsys, plan(data, out, label="ct"), "label site 'ct' has no label map")
    refused(capsys, plan(data, out, "--finest", "0"), "level 0", "--finest-of")
    refused(capsys, plan(data, out, "--finest", "9"), "finest level sent is 9")
    refused(capsys, plan(data, out, "--noise", "1"), "noise without clip")
    assert not out.exists()


def test_missing_images_and_foreign_patients_are_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(data, folder)
    (folder / "p1" / "CT_image.nii.gz").unlink()
    refused(capsys, plan(folder, out), "patient 'p1' has no image at site 'ct'", "--allow-missing")
    assert plan(folder, out, "--allow-missing") == 0
    assert "zeros stand for 1 missing" in caplog.text
    for name in PATIENTS:
        (folder / name / "CT_image.nii.gz").unlink(missing_ok=True)
        (folder / f"other_{name}").mkdir()
        shutil.copy(data / name / "CT_image.nii.gz", folder / f"other_{name}")
    refused(capsys, plan(folder, tmp_path / "none"), "no patient in common")


def test_another_version_or_more_than_a_site_lets_go_is_refused_and_the_site_named(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "whole"
    shutil.copytree(trained, bundle)
    record = Layout(bundle).site("ct").record
    site = read_json(record)
    write_json(record, site | {"settings": site["settings"] | {"levels": [4]}})
    run = ["split", "run", str(bundle), "--one-process"]
    refused(capsys, main(run), "site 'ct'", "asks for level 2", "lets only [4] go")
    write_json(record, site)
    train = Layout(Layout(bundle).site("ct").folder).train
    write_json(train, read_json(train) | {"roi_size": [24, 24, 24]})
    refused(capsys, main(run), "site 'ct' has another version of the bundle")


def test_commands_on_other_bundles_and_without_halves_are_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "whole"
    assert plan(data, bundle) == 0
    refused(capsys, main(["split", "join", str(bundle)]), "has no half.pt", "medseg split run")
    refused(
        capsys,
        main(["split", "predict", str(bundle), "--output", str(tmp_path / "o"), "--one-process"]),
        "has no half.pt",
    )
    refused(capsys, main(["split", "run", str(bundle), "--one-process", "--fold", "9"]), "has the folds 0 to 2")
    shutil.rmtree(Layout(bundle).runs)
    refused(capsys, main(["split", "run", str(bundle)]), "not planned for split training")
    assert json.loads((bundle / "plan.json").read_text(encoding="utf-8"))["network"]["sites"] == {"ct": 1, "pet": 1}
