"""Words of a command line -> cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medseg.errors import DataError, MedsegError, UnreadableFileError
from medseg.io.datalist import Case, read_case_list
from medseg.io.inputs import find_inputs
from tests.datasets.layouts import write_case
from tests.io.dicom_maker import make_series


def touch(root: Path, *names: str) -> None:
    for name in names:
        write_case(root / name, None)


def names(cases: list[Case]) -> list[str]:
    return [case.name for case in cases]


def test_files_folders_patterns_lists_and_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "scans/b.nii.gz", "scans/a.nrrd", "one.nii", "scans/deep/c.nii.gz")
    make_series(tmp_path / "scans" / "ct")
    (tmp_path / "scans" / "notes.txt").write_text("x")
    (tmp_path / "list.csv").write_text("image\nscans/b.nii.gz\n")
    assert find_inputs([str(tmp_path / "one.nii")]) == [Case("one", (tmp_path / "one.nii",))]
    assert names(find_inputs([tmp_path / "scans"])) == ["a", "b", "ct", "c"]
    assert find_inputs([tmp_path / "scans" / "ct"]) == [Case("ct", (tmp_path / "scans" / "ct",))]
    assert names(find_inputs([f"{tmp_path}/scans/*.nii.gz", tmp_path / "one.nii"])) == ["b", "one"]
    assert names(find_inputs([f"{tmp_path}/**/*.nii*"])) == ["b", "c", "one"]
    assert names(find_inputs([tmp_path / "list.csv"])) == ["b"]
    monkeypatch.chdir(tmp_path / "scans" / "ct")
    assert names(find_inputs(["."])) == ["ct"]


def test_equal_names_in_sub_folders_carry_the_folder(tmp_path: Path) -> None:
    touch(tmp_path, "p1/t1.nii.gz", "p2/t1.nii.gz", "p2/flair.nii.gz")
    assert names(find_inputs([tmp_path])) == ["p1_t1", "flair", "p2_t1"]


def test_several_channels(tmp_path: Path) -> None:
    touch(tmp_path, "n/x_0000.nii.gz", "n/x_0001.nii.gz", "n/y_0000.nii.gz", "n/y_0001.nii.gz")
    assert find_inputs([tmp_path / "n"], channels=2)[1].images == tuple(tmp_path / f"n/y_000{c}.nii.gz" for c in (0, 1))
    touch(tmp_path, "sub/p1/a.nii.gz", "sub/p1/b.nii.gz")
    assert find_inputs([tmp_path / "sub"], channels=2) == [
        Case("p1", (tmp_path / "sub/p1/a.nii.gz", tmp_path / "sub/p1/b.nii.gz"))
    ]
    (tmp_path / "n/y_0001.nii.gz").unlink()
    with pytest.raises(DataError, match=r"case 'y': has the channel files \[0\]"):
        find_inputs([tmp_path / "n"], channels=2)


def test_nnunet_names_of_one_channel_lose_their_number(tmp_path: Path) -> None:
    touch(tmp_path, "x_0000.nii.gz", "y_0000.nii.gz")
    assert names(find_inputs([tmp_path])) == ["x", "y"]
    touch(tmp_path, "scan_2021.nii.gz")
    assert names(find_inputs([tmp_path])) == ["scan_2021", "x_0000", "y_0000"]


def test_hidden_and_unfinished_files_are_no_inputs(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", ".hidden.nii.gz", ".git/b.nii.gz", ".medseg-tmp-00000000-1-00000000-c.nii.gz")
    assert names(find_inputs([tmp_path])) == ["a"]


@pytest.mark.parametrize(
    ("word", "error", "message"),
    [
        ("missing.nii.gz", UnreadableFileError, r"missing\.nii\.gz: no such file or folder"),
        ("*.nrrd", UnreadableFileError, r"\*\.nrrd: the pattern matches no volume"),
        ("empty", DataError, "empty: holds no volume"),
        ("note.txt", DataError, r"note\.txt: is no volume"),
        ("twice", DataError, "two cases are named 'a'"),
    ],
)
def test_what_is_no_input_is_named(tmp_path: Path, word: str, error: type[MedsegError], message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.txt").write_text("x")
    touch(tmp_path, "twice/a.nii.gz", "twice/a.nrrd")
    with pytest.raises(error, match=message):
        find_inputs([str(tmp_path / word)])


def test_no_word_at_all() -> None:
    with pytest.raises(DataError, match="no input was given"):
        find_inputs([])


def test_list_with_all_columns(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text(
        "\ufeffname;image_1;image_0;label;subject;labels_present\np1;b.nii;a.nii;l.nii;s7;1 3\n;x.nii;y.nii;;;\n\n",
        encoding="utf-8",
    )
    first, second = read_case_list(tmp_path / "cases.csv")
    assert first == Case("p1", (tmp_path / "a.nii", tmp_path / "b.nii"), tmp_path / "l.nii", "s7", (1, 3))
    assert second == Case("y", (tmp_path / "y.nii", tmp_path / "x.nii"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column 'image'"),
        ("picture\na.nii\n", "has no column 'image' in its first line"),
        ("image,lable\na.nii,b.nii\n", r"unknown column 'lable'\. Did you mean label"),
        ("image\n", "lists no case"),
        ("image,label\n,b.nii\n", "line 2 has no 'image'"),
        ("image\na.nii\nb/a.nii.gz\n", "two cases are named 'a'"),
        ("name,image\n../x,a.nii\n", r"the name '\.\./x' cannot name a file"),
        ("image,labels_present\na.nii,one\n", "expected whole numbers"),
        ('image\n"a.nii\n', "is not a csv list"),
        ("image\n\x00\n", "is not a csv list"),
    ],
)
def test_bad_lists_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "cases.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        read_case_list(tmp_path / "cases.csv")
    assert "cases.csv" in str(caught.value)


def test_list_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_bytes(np.arange(256, dtype=np.uint8).tobytes())
    with pytest.raises(DataError, match="is not UTF-8 text"):
        read_case_list(tmp_path / "cases.csv")
