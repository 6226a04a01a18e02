"""Files are put in the order of the channels that their names say, and never in another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from medseg.errors import DataError
from medseg.io.channels import check_order, order_by_name

pytestmark = pytest.mark.requirement("R8")


@pytest.mark.parametrize(
    ("files", "channels", "right"),
    [
        (["ct", "pet"], ["PET", "CT"], ["pet", "ct"]),
        (["p7-ct", "p7-suv"], ["PET", "CT"], ["p7-suv", "p7-ct"]),
        (["pet_ct_ct", "pet_ct_pet"], ["CT", "PET"], ["pet_ct_ct", "pet_ct_pet"]),
        (["t1", "t1_gd", "t2", "flair"], ["FLAIR", "T1w", "T1-Gd", "T2w"], ["flair", "t1", "t1_gd", "t2"]),
        (["b-t1c", "b-t1n", "b-t2f", "b-t2w"], ["t1ce", "T1", "FLAIR", "T2"], ["b-t1c", "b-t1n", "b-t2f", "b-t2w"]),
        (["x_ADC map", "x_dwi"], ["DWI", "adc_map"], ["x_dwi", "x_ADC map"]),
        (["ct", "ct_pet"], ["PET", "CT"], ["ct_pet", "ct"]),
    ],
)
def test_names_of_files_say_their_channel(files: list[str], channels: list[str], right: list[str]) -> None:
    order = order_by_name([Path(f"{name}.nii.gz") for name in files], dict(enumerate(channels)))
    assert order is not None
    assert [path.name.removesuffix(".nii.gz") for path in order.values()] == right
    check_order("x", order, dict(enumerate(channels)))


def test_names_that_say_nothing_are_left_to_the_alphabet() -> None:
    assert order_by_name([Path("a.nii"), Path("b.nii")], {0: "PET", 1: "CT"}) is None
    assert order_by_name([Path("mri_a.nii"), Path("mri_b.nii")], {0: "MRI", 1: "MRI"}) is None


def test_a_case_with_fewer_files_tells_which_are_missing() -> None:
    assert order_by_name([Path("t2.nii")], {0: "T1", 1: "T2"}) == {1: Path("t2.nii")}


@pytest.mark.parametrize("files", [["ct", "scan"], ["ct", "pet", "ct_2"], ["a_ct", "b_ct", "c_pet"]])
def test_conflicts_are_refused_by_name(files: list[str]) -> None:
    with pytest.raises(DataError, match=r"named like no channel|by its name, and so is"):
        order_by_name([Path(f"{name}.nii") for name in files], {0: "PET", 1: "CT"})


def test_an_order_against_the_names_is_refused_wherever_it_comes_from() -> None:
    with pytest.raises(DataError, match=r"ct\.nii is given as channel 0 \(PET\), and is named like channel 1 \(CT\)"):
        check_order("x", {0: Path("ct.nii"), 1: Path("pet.nii")}, {0: "PET", 1: "CT"})
    check_order("x", {0: Path("ct_0000.nii"), 1: Path("ct_0001.nii")}, {0: "PET", 1: "MR"})
