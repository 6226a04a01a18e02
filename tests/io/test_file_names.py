"""Names of files are readable, and two things never have one."""

from __future__ import annotations

import os

import pytest

from medseg.io.file_names import distinct_file_names, file_name, readable_name, same_file
from medseg.io.volume import case_name

pytestmark = pytest.mark.requirement("R8")


def test_label_names_become_file_names() -> None:
    assert file_name("left kidney / cyst") == "left_kidney_cyst"
    assert file_name("../..") not in ("..", "../..")
    assert file_name("//") == "label"
    assert file_name("CON") == "_CON"
    assert len(file_name("ü" * 300).encode()) <= 120


@pytest.mark.parametrize(
    "texts",
    [
        ["T1+", "T1"], ["left kidney", "left_kidney"], ["C1/C2", "C1 C2"], ["Tumour", "tumour"], ["é", "e\u0301"],
        ["tumour (core)", "tumour core"], ["a", "a_3", "a"], ["a", "a_1", "A", "a_1_2"], ["", "//"],
        ["x" * 300, "x" * 301], ["ß", "ss"],
    ],
)  # fmt: skip
def test_names_of_several_labels_are_distinct_on_every_disk(texts: list[str]) -> None:
    found = distinct_file_names(dict(enumerate(texts, start=1)))
    assert len({same_file(name) for name in found.values()}) == len(texts)


def test_names_that_do_not_meet_stay_as_they_are() -> None:
    assert distinct_file_names({1: "low part", 2: "high"}) == {1: "low_part", 2: "high"}


@pytest.mark.parametrize("stored", [b"M\xfcller.nii.gz", "Müller.nii.gz".encode(), b"\x81\x8d.nii.gz"])
def test_a_file_name_of_any_encoding_names_a_case_in_readable_letters(stored: bytes) -> None:
    name = case_name(os.fsdecode(stored))
    name.encode()
    assert name == "Müller" or b"\x81" in stored


def test_a_readable_name_stays() -> None:
    assert readable_name("肝臓 é") == "肝臓 é"
