"""A name planted in headers, file names and folders of the input is found nowhere in what we write.

Two exceptions, tested too: an output's name follows its input's unless --anonymous-names is given, and DICOM SEG carries
the attributes of patient and study that its standard wants.
"""

from __future__ import annotations

import gzip
import logging
import os
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medseg.bundle.load import load_bundle
from medseg.bundle.weights import write_state_dict
from medseg.bundle.write import write_bundle
from medseg.commands.fit import fit_bundle
from medseg.commands.predict import predict_bundle
from medseg.inference.settings import PredictOptions
from tests.bundle.samples import make_dataset, make_plan

pytestmark = pytest.mark.requirement("R14")

CANARY = "MUSTERMANN"


def hits(folder: Path) -> list[str]:
    """Files whose name or (unpacked) content holds the canary, in any case."""
    found = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        if CANARY.lower() in path.name.lower() or CANARY.lower().encode() in content.lower():
            found.append(str(path.relative_to(folder)))
    return found


def plant(folder: Path) -> Path:
    """Copies of the sample cases with the canary in every free text of the header, the file and the folder name."""
    place = folder / f"{CANARY}_ward"
    names = make_dataset(folder / "plain")
    for kind in ("images", "labels"):
        (place / kind).mkdir(parents=True)
        for name in names:
            volume = nibabel.load(folder / "plain" / kind / f"{name}.nii.gz")
            header = volume.header.copy()
            header["descrip"] = f"{CANARY} 1950-01-01"
            header["aux_file"] = CANARY
            header["db_name"] = CANARY
            header["intent_name"] = CANARY
            header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", f"patient {CANARY}".encode()))
            marked = nibabel.Nifti1Image(np.asarray(volume.dataobj), volume.affine, header)
            nibabel.save(marked, place / kind / f"{CANARY}_{name}.nii.gz")
    shutil.rmtree(folder / "plain")
    return place


def make_marked_bundle(folder: Path, data: Path) -> Path:
    names = sorted(path.name.removesuffix(".nii.gz") for path in (data / "images").iterdir())
    layout = write_bundle(folder, make_plan(data, names))
    write_state_dict(layout.weights, load_bundle(folder).untrained_network().state_dict())
    return layout.folder


@pytest.fixture
def marked(tmp_path: Path) -> tuple[Path, Path]:
    """A bundle planned on marked data, and that data."""
    data = plant(tmp_path / "hospital")
    return make_marked_bundle(tmp_path / "tiny_mr_unet", data), data


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_outputs_and_records_hold_no_names(marked: tuple[Path, Path], tmp_path: Path, suffix: str) -> None:
    bundle, data = marked
    output = tmp_path / "out"
    inputs = [str(data / "images")]
    options = PredictOptions(engine="eager")
    result = predict_bundle(bundle, inputs, output, options=options, suffix=suffix, anonymous_names=True)
    assert len(list(output.glob(f"*{suffix}"))) == len(result.cases) == 3
    assert not result.failed
    assert hits(output) == []


def test_output_names_follow_the_input_and_contents_do_not(marked: tuple[Path, Path], tmp_path: Path) -> None:
    """The first exception: names of outputs, and the same names where a table or summary refers to an output."""
    bundle, data = marked
    output = tmp_path / "out"
    predict_bundle(bundle, [str(data / "images")], output, options=PredictOptions(engine="eager"))
    named = {path.name for path in output.iterdir() if CANARY in path.name}
    assert f"{CANARY}_case0.nii.gz" in named
    for path in output.glob("*.nii.gz"):
        assert CANARY.encode() not in gzip.decompress(path.read_bytes())
    for path in output.glob(f"{CANARY}*.json"):
        assert CANARY not in path.read_text().replace(path.stem, "")
        assert str(data) not in path.read_text()


def test_training_record_cache_and_logs_hold_no_names(
    marked: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bundle, _ = marked
    monkeypatch.setenv("MEDSEG_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/tracking/mlflow.db")
    (tmp_path / "tracking").mkdir()
    monkeypatch.chdir(tmp_path / "tracking")
    with caplog.at_level(logging.DEBUG, logger="medseg"):
        fit_bundle(bundle, fold=0)
    assert hits(tmp_path / "store") == []
    assert hits(tmp_path / "tracking") == []
    artifacts = [folder for folder in bundle.joinpath("runs").iterdir() if folder.name == "mlartifacts"]
    assert [hit for folder in artifacts for hit in hits(folder)] == []
    # a warning on the screen names the file it is about, for the person who sits there; progress does not
    progress = [
        record for record in caplog.records if record.name.startswith("medseg") and record.levelno < logging.WARNING
    ]
    assert CANARY not in "\n".join(record.getMessage() for record in progress)
    assert not [path for path in tmp_path.rglob("*.log") if CANARY in path.read_text()]


def test_dicom_seg_carries_what_its_standard_wants_and_no_more(real_data: Path, tmp_path: Path) -> None:
    """The second exception: patient and study of the source series, by standard; free texts stay behind."""
    pydicom = pytest.importorskip("pydicom")
    source = real_data / "odd_geometry" / "dicom_series_small"
    series = tmp_path / f"{CANARY}_series"
    series.mkdir()
    for number, path in enumerate(sorted(path for path in source.rglob("*") if path.is_file())):
        try:
            image = pydicom.dcmread(path)
        except pydicom.errors.InvalidDicomError:
            continue
        image.Modality = "MR"  # the sample bundle's; the series is a CT, which an MR model refuses
        image.PatientName = f"{CANARY}^Erika"
        image.PatientComments = f"{CANARY} has a comment"
        image.ImageComments = CANARY
        image.PatientAddress = CANARY
        image.save_as(series / f"{number:03d}.dcm")
    bundle = make_marked_bundle(tmp_path / "tiny_mr_unet", plant(tmp_path / "hospital"))
    output = tmp_path / "out"
    options = PredictOptions(engine="eager", overlap=0.0)
    result = predict_bundle(bundle, [str(series)], output, options=options, suffix=".dcm", anonymous_names=True)
    assert not result.failed, result.failed
    (written,) = output.glob("*.dcm")
    segmentation = pydicom.dcmread(written)
    assert str(segmentation.PatientName) == f"{CANARY}^Erika"
    texts = [element.keyword for element in segmentation.iterall() if CANARY in str(element.value)]
    assert texts == ["PatientName"]
    written.unlink()
    assert hits(output) == []


def test_canary_is_really_in_the_input(marked: tuple[Path, Path]) -> None:
    """The search itself works: the planted files are found by it."""
    assert len(hits(marked[1])) == 6
    assert os.path.basename(marked[1]).startswith(CANARY)
