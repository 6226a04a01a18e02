"""Names of patients are intersected by DH-PSI in `make test-extras`; without its package the command says what is missing."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from medseg.cli.main import main
from medseg.collaboration.patient_files import patient_names
from medseg.errors import DataError
from tests.collaboration.flare_runs import record

needs_protocol = pytest.mark.skipif(
    importlib.util.find_spec("private_set_intersection") is None, reason="the package openmined.psi is not installed"
)


def site(folder: Path, *names: str) -> Path:
    """Patients of whom only the file's name is asked for."""
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "CT_image.nii.gz").touch()
    return folder


def intersect(output: Path, *sites: str) -> int:
    return main(["split", "intersect", "--sites", *sites, "--output", str(output), "--quiet"])


def test_patients_are_folders_that_hold_a_volume(tmp_path: Path) -> None:
    folder = site(tmp_path / "a", "p2", "p1")
    (folder / "notes").mkdir()
    assert patient_names(folder) == ["p1", "p2"]
    with pytest.raises(DataError, match="no such folder"):
        patient_names(tmp_path / "none")


def test_without_the_protocol_the_extra_and_the_way_round_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = site(tmp_path / "a", "p1"), site(tmp_path / "b", "p1")
    real = importlib.util.find_spec
    told = {"private_set_intersection": None, "nvflare": object()}  # as where only the extra `federated` is installed
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *more: told[name] if name in told else real(name, *more)
    )
    assert intersect(tmp_path / "names.txt", f"x={a}", f"y={b}") == 1
    error = capsys.readouterr().err
    assert "medseg[psi]" in error
    assert "--cases" in error


def test_one_site_and_an_output_that_exists_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = site(tmp_path / "a", "p1")
    assert intersect(tmp_path / "names.txt", f"x={a}") == 1
    assert "1 site was named" in capsys.readouterr().err
    (tmp_path / "names.txt").touch()
    assert intersect(tmp_path / "names.txt", f"x={a}", f"y={a}") == 1
    assert "exists already" in capsys.readouterr().err


@needs_protocol
def test_three_sites_learn_the_patients_they_share_and_no_other_name_is_written(tmp_path: Path) -> None:
    a = site(tmp_path / "a", *(f"p{n}" for n in range(12)))
    b = site(tmp_path / "b", *(f"p{n}" for n in range(8, 20)))
    c = site(tmp_path / "c", "p9", "p10", "p11", "other")
    assert intersect(tmp_path / "names.txt", f"x={a}", f"y={b}", f"z={c}") == 0
    names = (tmp_path / "names.txt").read_text(encoding="utf-8").split()
    record("private intersection of three sites", {"of": [12, 12, 4], "shared": len(names)})
    assert names == ["p10", "p11", "p9"]


@needs_protocol
def test_sites_without_a_shared_patient_are_told_so_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = site(tmp_path / "a", "p1", "p2"), site(tmp_path / "b", "p3")
    assert intersect(tmp_path / "names.txt", f"x={a}", f"y={b}") == 1
    assert "medseg:" in capsys.readouterr().err
    assert not (tmp_path / "names.txt").exists()


@needs_protocol
def test_a_site_whose_folder_is_gone_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = site(tmp_path / "a", "p1", "p2")
    assert intersect(tmp_path / "names.txt", f"x={a}", f"y={tmp_path / 'none'}") == 1
    assert "site 'y'" in capsys.readouterr().err
