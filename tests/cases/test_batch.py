"""Running over cases: failures stay with their case, files are whole, finished work is not done twice."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medseg.cases.batch import Job, OutputOptions, first_look, run_cases
from medseg.cases.measures import measure, rows_to_csv, surface_area_mm2
from medseg.errors import UnreadableFileError
from medseg.io import Case, Header, Volume, read_label, write_image

LABELS = {0: "background", 1: "low part", 2: "high"}


class Threshold:
    """A segmenter without a network: label 2 above zero, 1 above minus one."""

    def __init__(self) -> None:
        self.seen = 0
        self.steps: list[str] = []

    def prepare(self, volume: Volume) -> Any:
        return volume.array[0].copy()

    def segment(self, prepared: Any, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
        self.seen += 1
        if progress:
            progress(1, 1)
        if prepared.max() > 50:
            raise RuntimeError("bad luck")
        return np.digitize(prepared, [-1.0, 0.0]).astype(np.uint8)

    def describe(self) -> dict[str, Any]:
        return {"threshold": [-1, 0]}


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    found = []
    for number in range(4):
        path = tmp_path / "in" / f"scan{number}.nii.gz"
        array = np.random.default_rng(number).normal(size=(9, 8, 7)).astype(np.float32)
        affine = np.diag([-1.0, 2.0, 1.5, 1.0])
        write_image(path, array, Header.of_array(array.shape, affine))
        found.append(Case(path.name.removesuffix(".nii.gz"), (path,)))
    return found


def job_for(folder: Path, segmenter: Threshold, **options: Any) -> Job:
    return Job(lambda: segmenter, LABELS, {"name": "test"}, OutputOptions(folder, **options), {"overlap": 0.5})


def test_outputs_are_right_and_named(cases, tmp_path: Path) -> None:
    results = list(run_cases(cases, job_for(tmp_path / "out", Threshold())))
    assert [(r.name, r.status) for r in results] == [(f"scan{n}", "done") for n in range(4)]
    for case, result in zip(cases, results, strict=True):
        assert sorted(result.outputs) == [f"{case.name}.json", f"{case.name}.nii.gz", f"{case.name}.png"]
        label = read_label(tmp_path / "out" / f"{case.name}.nii.gz")
        row = result.measures[1]
        assert row["voxels"] == int((label.array == 2).sum())
        assert row["volume_ml"] == pytest.approx(row["voxels"] * 3.0 / 1000)
        assert (tmp_path / "out" / f"{case.name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_broken_case_stops_nobody(cases, tmp_path: Path) -> None:
    path = cases[1].images[0]
    path.write_bytes(path.read_bytes()[:-20])
    hot = np.full((4, 4, 4), 99.0, np.float32)
    write_image(cases[2].images[0], hot, Header.of_array(hot.shape, np.eye(4)))
    results = {r.name: r for r in run_cases(cases, job_for(tmp_path / "out", Threshold()))}
    assert [results[f"scan{n}"].status for n in range(4)] == ["done", "failed", "failed", "done"]
    assert str(path) in results["scan1"].error
    assert "\n" not in results["scan1"].error
    assert "RuntimeError: bad luck" in results["scan2"].error
    assert not list((tmp_path / "out").glob("scan1*"))
    assert not list((tmp_path / "out").glob("scan2*"))


def test_alone_or_in_a_folder_the_labels_are_equal(cases, tmp_path: Path) -> None:
    list(run_cases(cases, job_for(tmp_path / "all", Threshold())))
    for case in reversed(cases):
        list(run_cases([case], job_for(tmp_path / "one", Threshold())))
        name = f"{case.name}.nii.gz"
        assert (tmp_path / "all" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_continue_skips_what_is_finished_and_nothing_else(cases, tmp_path: Path) -> None:
    out = tmp_path / "out"
    list(run_cases(cases, job_for(out, Threshold())))
    (out / "scan0.nii.gz").unlink()
    array = np.zeros((3, 3, 3), np.float32)
    write_image(cases[1].images[0], array, Header.of_array(array.shape, np.eye(4)))  # another image now
    segmenter = Threshold()
    results = list(run_cases(cases, job_for(out, segmenter, resume=True)))
    assert [r.status for r in results] == ["done", "done", "skipped", "skipped"]
    assert segmenter.seen == 2
    other = job_for(out, segmenter, resume=True)
    other.request = {"overlap": 0.25}
    assert [r.status for r in run_cases(cases[2:], other)] == ["done", "done"]


def test_records_repeat_and_carry_no_names_of_the_input(cases, tmp_path: Path) -> None:
    records = []
    for folder in ("a", "b"):
        list(run_cases(cases[:1], job_for(tmp_path / folder, Threshold())))
        text = (tmp_path / folder / "scan0.json").read_text()
        assert "scan0" not in text
        assert str(tmp_path) not in text
        records.append(json.loads(text))
    assert records[0]["hash"] == records[1]["hash"]
    assert records[0]["label_sha256"] == records[1]["label_sha256"]


def test_one_file_per_label(cases, tmp_path: Path) -> None:
    list(run_cases(cases[:1], job_for(tmp_path / "out", Threshold(), one_file_per_label=True, preview=False)))
    names = sorted(path.name for path in (tmp_path / "out" / "scan0").iterdir())
    assert names == ["high.nii.gz", "low_part.nii.gz"]
    assert set(np.unique(read_label(tmp_path / "out" / "scan0" / "high.nii.gz").array)) == {0, 1}
    assert not (tmp_path / "out" / "scan0.png").exists()


def test_first_look_reads_a_single_case_only(cases) -> None:
    looked = first_look([cases[0].images[0]])
    assert list(looked) == [cases[0].images]
    assert first_look([cases[0].images[0].parent]) == {}
    cases[0].images[0].write_bytes(b"nonsense")
    with pytest.raises(UnreadableFileError, match="scan0"):
        first_look([cases[0].images[0]])


def test_surface_of_a_sphere() -> None:
    index = np.indices((48, 48, 24)) + 0.5
    centre, step = np.array([24, 24, 12]).reshape(3, 1, 1, 1), np.array([1.0, 1.0, 2.0]).reshape(3, 1, 1, 1)
    sphere = (((index - centre) * step) ** 2).sum(axis=0) <= 16.0**2
    assert surface_area_mm2(sphere, (1.0, 1.0, 2.0)) == pytest.approx(4 * np.pi * 16**2, rel=0.04)


def test_measures_state_what_they_saw() -> None:
    label = np.zeros((10, 10, 10), np.uint8)
    label[:3, 2:5, 2:5] = 1
    image = np.zeros((10, 10, 10), np.float32)
    image[:3, 2:5, 2:5] = 7.0
    rows = measure(label, np.diag([2.0, 1.0, 1.0, 1.0]), {0: "b", 1: "a", 5: "absent"}, image=image, details=True)
    assert rows[0]["voxels"] == 27
    assert rows[0]["volume_ml"] == pytest.approx(0.054)
    assert rows[0]["touches_border"]
    assert rows[0]["mean"] == 7.0
    assert rows[1] == {"label": 5, "name": "absent", "voxels": 0, "volume_ml": 0.0}
    table = list(csv.DictReader(rows_to_csv(rows).splitlines()))
    assert table[1]["mean"] == ""
    assert table[0]["name"] == "a"


@pytest.mark.parametrize("turn", ["axial", "oblique"])
def test_outputs_carry_the_inputs_geometry_in_48_orientations(tmp_path: Path, turn: str) -> None:
    """Affine, qform, sform and both codes, bit for bit, through reading, segmenting and writing; the mark comes back."""
    rotation = np.eye(3) if turn == "axial" else nib.eulerangles.euler2mat(0.31, -0.22, 0.17)
    array = np.full((4, 5, 6), -5.0, np.float32)
    array[1, 3, 2] = 5.0
    headers = {}
    for number, (axes, signs) in enumerate(
        itertools.product(itertools.permutations(range(3)), itertools.product((1.0, -1.0), repeat=3))
    ):
        affine = np.eye(4)
        affine[:3, :3] = rotation @ (np.eye(3)[:, list(axes)] * np.array(signs)) @ np.diag([0.7, 1.1, 3.3])
        affine[:3, 3] = [-31.3, 17.9, 101.1]
        image = nib.Nifti1Image(array, affine)
        image.set_qform(affine, code=1 + number % 4)
        image.set_sform(affine, code=1 + number % 3)
        (tmp_path / "in").mkdir(exist_ok=True)
        nib.save(image, tmp_path / "in" / f"case{number:02}.nii.gz")
        headers[f"case{number:02}"] = nib.load(tmp_path / "in" / f"case{number:02}.nii.gz")
    job = job_for(tmp_path / "out", Threshold(), preview=False)
    results = list(run_cases([Case(name, (tmp_path / "in" / f"{name}.nii.gz",)) for name in headers], job))
    assert [r.status for r in results] == ["done"] * 48
    for name, source in headers.items():
        found = nib.load(tmp_path / "out" / f"{name}.nii.gz")
        np.testing.assert_array_equal(found.affine, source.affine)
        for field in ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y",
                      "qoffset_z", "srow_x", "srow_y", "srow_z"):  # fmt: skip
            assert found.header[field].tobytes() == source.header[field].tobytes(), field
        assert found.header["pixdim"][:4].tobytes() == source.header["pixdim"][:4].tobytes()
        assert np.argwhere(np.asanyarray(found.dataobj) == 2).tolist() == [[1, 3, 2]]
