"""With `--anonymous-names` no file, log line, table or error of a run says what a scan or its folder is called."""

from __future__ import annotations

import io
import json
import logging
import shutil
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medseg.cases.anonymous import Mask, anonymous
from medseg.cli.main import main
from medseg.commands.predict import predict_bundle
from medseg.errors import DataError, MedsegError
from medseg.inference.settings import PredictOptions
from medseg.io import Case
from medseg.layout import Layout
from tests.bundle.samples import AFFINE, make_bundle

CANARY = "MUSTERMANN"


def scan(path: Path, affine: np.ndarray = AFFINE, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).normal(size=(16, 16, 16)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(image, affine), path)
    return path


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> tuple[Layout, Path]:
    """A bundle, and scans of which one is sound, one odd enough for a warning, and the others broken, each in its way."""
    root = tmp_path_factory.mktemp("anonymous")
    layout = make_bundle(root / "tiny_mr_unet", root / "data")
    ward = root / f"Ward {CANARY}"
    scan(ward / "sound.nii.gz")
    odd = AFFINE.copy()
    odd[0, 1] += 0.004  # nearly orthogonal: read with a warning
    scan(ward / f"{CANARY}_odd.nii.gz", odd, seed=1)
    cut = scan(ward / f"{CANARY} Erika 1950.nii.gz", seed=2)
    cut.write_bytes(cut.read_bytes()[:300])
    (ward / f"{CANARY}_noise.nii.gz").write_bytes(b"no volume at all")
    (ward / f"{CANARY}.nrrd").write_text("NRRD0004\ntype: nothing\n\n")
    (ward / f"{CANARY}_2.mha").write_text(f"ObjectType = Image\nElementDataFile = {CANARY}.raw\n")
    series = ward / f"{CANARY}^Erika"
    series.mkdir()
    (series / f"{CANARY}001.dcm").write_bytes(bytes(128) + b"DICM" + bytes(40))
    return layout, ward


def told(folder: Path) -> list[str]:
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if CANARY.lower() in path.name.lower() or (path.is_file() and CANARY.encode() in path.read_bytes())
    ]


def test_no_file_and_no_message_names_a_scan(
    hospital: tuple[Layout, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layout, ward = hospital
    said: list[str] = []
    with caplog.at_level(logging.DEBUG):
        result = predict_bundle(
            layout.folder, [str(ward)], tmp_path, options=PredictOptions(engine="eager"), anonymous_names=True,
            finished=lambda case, done, total: said.append(f"{case.name} {case.error}"),
        )  # fmt: skip
    assert {case.status for case in result.cases} == {"done", "failed"}
    assert len(result.failed) >= 5
    assert told(tmp_path) == []
    lines = [*said, *caplog.messages, caplog.text, json.dumps(result.to_dict())]
    assert not [line for line in lines if CANARY.lower() in line.lower()]
    for case in result.failed:
        assert case.name.startswith("case_")
        assert case.name in case.error, "a message that names nobody still says which case it is about"


def test_a_single_broken_scan_is_not_named_by_the_command(hospital: tuple[Layout, Path], tmp_path: Path) -> None:
    layout, ward = hospital
    path = ward / f"{CANARY} Erika 1950.nii.gz"
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["predict", str(layout.folder), str(path), "-o", str(tmp_path), "--anonymous-names", "--json"])
    assert code == 1
    assert "truncated" in err.getvalue()
    assert CANARY not in out.getvalue() + err.getvalue()
    assert told(tmp_path) == []


@pytest.mark.parametrize("kind", ["folder", "list", "channels", "no volume"])
def test_inputs_that_make_no_cases_are_not_named(kind: str, hospital: tuple[Layout, Path], tmp_path: Path) -> None:
    ward = tmp_path / f"{CANARY}_ward"
    word = {"folder": ward, "list": ward / "list.csv", "channels": ward, "no volume": ward / f"{CANARY}.txt"}[kind]
    (ward / "below").mkdir(parents=True)
    (ward / f"{CANARY}.txt").write_text("x")
    (ward / "list.csv").write_text(f"image,name\n{CANARY}/gone.nii.gz,{CANARY}\n{CANARY}/b.nii.gz,{CANARY}\n")
    if kind == "channels":
        for place in (ward, ward / "below"):
            scan(place / f"{CANARY}_1.nii.gz")
        word = ward / "**" / "*.nii.gz"
    with pytest.raises(MedsegError) as caught:
        predict_bundle(hospital[0].folder, [str(word)], tmp_path / "out", anonymous_names=True)
    assert CANARY not in str(caught.value)


def test_equal_scans_keep_apart_and_every_channel_counts(tmp_path: Path) -> None:
    first, second = scan(tmp_path / "a.nii.gz"), tmp_path / "b.nii.gz"
    shutil.copyfile(first, second)
    other = scan(tmp_path / "c.nii.gz", seed=1)
    one, two, three, four = anonymous(
        [Case("a", (first,)), Case("b", (second,)), Case("c", (first, second)), Case("d", (first, other))]
    )
    assert two.name == f"{one.name}_2"
    assert len({one.name, two.name, three.name, four.name}) == 4


def test_folders_and_every_spelling_are_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = scan(tmp_path / "Ward_Müller" / "Jürgen\n7.nii.gz")
    monkeypatch.chdir(tmp_path)
    cases = [Case("Jürgen\n7", (path.relative_to(tmp_path),))]
    mask = Mask(cases, [Case("case_1", cases[0].images)], ["Ward_Müller"])
    for text in (f"{path}: bad", f"{cases[0].images[0]!r}", f"{str(path)!r}", f"{cases[0].name!a}", str(path.parent)):
        assert "rgen" not in mask.text(text), text
        assert "ller" not in mask.text(text), text
    assert mask.text("voxel size 7 mm, 3 channels") == "voxel size 7 mm, 3 channels"


def test_errors_and_warnings_that_end_the_run_are_masked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = scan(tmp_path / f"{CANARY}.nii.gz")
    mask = Mask([Case(CANARY, (path,))], [Case("case_1", (path,))])

    def run() -> None:
        with mask.over_messages():
            logging.getLogger("medseg.x").warning("%s is odd", path)
            logging.getLogger("highdicom").warning("Invalid value 'ERIKA'")
            warnings.warn("ERIKA", stacklevel=1)
            raise DataError(f"{path}: broken")

    with pytest.raises(DataError, match=r"^case_1: broken$"):
        run()
    assert caplog.messages == ["case_1 is odd", "highdicom: what it says is not shown with anonymous names"]
    logging.getLogger("medseg.x").warning("%s is odd", path)
    assert CANARY in caplog.messages[-1], "the mask ends with the run"


def test_anonymous_names_follow_the_voxels_wherever_they_lie(tmp_path: Path) -> None:
    cases = []
    for number, text in enumerate(("one", "two", "one")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "scan.mhd").write_text("NDims = 3\nElementDataFile = scan.raw\n")
        (tmp_path / str(number) / "scan.raw").write_text(text)
        cases.append(Case("scan", (tmp_path / str(number) / "scan.mhd",)))
    gone = [Case("gone", (tmp_path / f"gone{number}.nii",)) for number in range(2)]
    names = [case.name for case in anonymous([*cases, *gone])]
    assert len(set(names)) == 5
    assert names[2] == f"{names[0]}_2"
    assert names[3:] == ["case_unreadable_1", "case_unreadable_2"]
