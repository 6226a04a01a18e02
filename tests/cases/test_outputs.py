"""All paths are known before a run, no two are one, and a finished case is one whose every file is whole and wanted as it is."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.cases.batch import run_cases
from medseg.cases.outputs import CaseOutputs, OutputOptions, check_outputs
from medseg.errors import DataError
from medseg.io import Case, Header, write_image
from tests.cases.test_batch import LABELS, Threshold, job_for

pytestmark = pytest.mark.requirement("R8")


def _case(folder: Path, name: str, seed: int = 0, suffix: str = ".nii.gz") -> Case:
    array = np.random.default_rng(seed).normal(size=(5, 6, 4)).astype(np.float32)
    write_image(folder / f"{name}{suffix}", array, Header.of_array(array.shape, np.eye(4)))
    return Case(name, (folder / f"{name}{suffix}",))


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (["x", "x_probabilities"], {"probabilities": True}),
        (["summary"], {}),
        (["Summary"], {}),
        (["x", "X"], {}),
        (["é", "e\u0301"], {}),
    ],
)
def test_one_file_for_two_things_is_refused_before_anything_runs(
    tmp_path: Path, names: list[str], options: dict[str, Any]
) -> None:
    cases = [Case(name, (tmp_path / f"in{number}.nii.gz",)) for number, name in enumerate(names)]
    with pytest.raises(DataError, match="this one file"):
        check_outputs(cases, LABELS, OutputOptions(tmp_path / "out", **options))


def test_names_that_only_look_alike_are_let_through(tmp_path: Path) -> None:
    cases = [Case(name, (tmp_path / f"{name}.nii.gz",)) for name in ("1.2.840.1", "1.2.840.2", "x", "x_probabilities")]
    check_outputs(cases, LABELS, OutputOptions(tmp_path / "out"))


def test_an_output_never_replaces_an_input_nor_a_file_that_is_no_record(tmp_path: Path) -> None:
    case = _case(tmp_path / "in", "a")
    with pytest.raises(DataError, match="would replace the input"):
        check_outputs([case], LABELS, OutputOptions(tmp_path / "in"))
    (tmp_path / "link").symlink_to(tmp_path / "in")
    with pytest.raises(DataError, match="would replace the input"):
        check_outputs([case], LABELS, OutputOptions(tmp_path / "link"))
    (tmp_path / "out").mkdir()
    os.link(case.images[0], tmp_path / "out" / "a.nii.gz")
    check_outputs([case], LABELS, OutputOptions(tmp_path / "out"))  # written under another name first: the input stays
    (tmp_path / "in" / "a.json").write_text('{"EchoTime": 0.03}')
    with pytest.raises(DataError, match="no record of medseg"):
        check_outputs([case], LABELS, OutputOptions(tmp_path / "in", suffix=".nrrd"))


def test_labels_of_like_names_have_a_file_each(tmp_path: Path) -> None:
    labels = {0: "background", 1: "T1+", 2: "T1", 3: "left kidney"}
    outputs = CaseOutputs.of(Case("a", ()), labels, OutputOptions(tmp_path, one_file_per_label=True))
    assert [path.name for path in outputs.labels.values()] == ["T1_1.nii.gz", "T1_2.nii.gz", "left_kidney.nii.gz"]


CHANGES = ["cut", "other_bytes", "probabilities", "preview", "statistics", "suffix", "no_record"]


@pytest.mark.parametrize("change", CHANGES)
def test_continue_does_again_what_is_not_whole_or_was_not_wanted(tmp_path: Path, change: str) -> None:
    case, out = _case(tmp_path / "in", "a"), tmp_path / "out"
    list(run_cases([case], job_for(out, Threshold(), preview=False)))
    wanted: dict[str, Any] = {"preview": False, "resume": True}
    label = out / "a.nii.gz"
    if change == "cut":
        label.write_bytes(label.read_bytes()[:50])
    elif change == "other_bytes":
        label.write_bytes(label.read_bytes() + b"x")
    elif change == "no_record":
        (out / "a.json").write_text("{}")
    else:
        wanted[change] = ".nrrd" if change == "suffix" else True
    segmenter = WithProbabilities()
    assert [result.status for result in run_cases([case], job_for(out, segmenter, **wanted))] == ["done"]
    assert [result.status for result in run_cases([case], job_for(out, segmenter, **wanted))] == ["skipped"]
    assert segmenter.seen == 1


class WithProbabilities(Threshold):
    probabilities = np.zeros((3, 5, 6, 4), np.float16)


def test_more_than_is_wanted_is_finished_too(tmp_path: Path) -> None:
    case, out = _case(tmp_path / "in", "a"), tmp_path / "out"
    list(run_cases([case], job_for(out, Threshold(), statistics=True)))
    assert [r.status for r in run_cases([case], job_for(out, Threshold(), preview=False, resume=True))] == ["skipped"]


def test_a_picture_of_other_labels_does_not_stay_beside_new_ones(tmp_path: Path) -> None:
    out = tmp_path / "out"
    list(run_cases([_case(tmp_path / "in", "a")], job_for(out, Threshold())))
    list(run_cases([_case(tmp_path / "in", "a", seed=1)], job_for(out, Threshold(), preview=False)))
    assert sorted(path.name for path in out.iterdir()) == ["a.json", "a.nii.gz"]


def test_the_record_names_the_bytes_that_were_read(tmp_path: Path) -> None:
    case, other = _case(tmp_path / "in", "a"), _case(tmp_path / "new", "a", seed=1)
    read = hashlib.sha256(case.images[0].read_bytes()).hexdigest()

    class Exchanged(Threshold):
        def segment(self, prepared: Any, progress: Any = None) -> np.ndarray:
            shutil.copyfile(other.images[0], case.images[0])
            return super().segment(prepared, progress)

    list(run_cases([case], job_for(tmp_path / "out", Exchanged())))
    assert json.loads((tmp_path / "out" / "a.json").read_text())["inputs_sha256"] == [read]
    assert [r.status for r in run_cases([case], job_for(tmp_path / "out", Threshold(), resume=True))] == ["done"]


def test_a_file_exchanged_for_one_of_its_size_and_time_is_noticed(tmp_path: Path) -> None:
    """`rsync -t` and restored backups keep times; the disk's own time of change is nobody's to set."""
    plain = Header.of_array((5, 6, 4), np.diag([1.0, 2.0, 1.5, 1.0]))
    image = tmp_path / "in" / "a.nii"
    image.parent.mkdir()
    write_image(image, np.zeros((1, 5, 6, 4), np.float32), plain)
    case, out = Case("a", (image,)), tmp_path / "out"
    list(run_cases([case], job_for(out, Threshold())))
    before = image.stat()
    write_image(image, np.ones((1, 5, 6, 4), np.float32), plain)
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (image.stat().st_size, image.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert [r.status for r in run_cases([case], job_for(out, Threshold(), resume=True))] == ["done"]
    label, old = out / "a.nii.gz", (out / "a.nii.gz").stat()
    label.write_bytes(bytes(old.st_size))
    os.utime(label, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert [r.status for r in run_cases([case], job_for(out, Threshold(), resume=True))] == ["done"]
