"""Words of a command line -> cases."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from medseg.errors import DataError, MedsegError, UnreadableFileError
from medseg.io.datalist import Case, read_case_list
from medseg.io.inputs import find_inputs
from medseg.io.volume import read_header, read_image, write_label
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


def _record(folder: Path, name: str, **facts: object) -> None:
    known = {"format": 1, "inputs_sha256": [], "label_sha256": "", "model": {}, **facts}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(known))


@pytest.mark.parametrize("old", [False, True])
def test_label_maps_beside_their_records_are_no_scans(
    tmp_path: Path, old: bool, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "a.nii.gz", "seg/a.nii.gz", "seg/a_probabilities.nii.gz", "seg/b.mha", "seg/other.nii.gz")
    touch(tmp_path, "apart/a/liver.nii.gz", "apart/a/deep/x.nii.gz")
    scan = hashlib.sha256((tmp_path / "a.nii.gz").read_bytes()).hexdigest()
    for name, suffix in (("a", ".nii.gz"), ("b", ".mha")):
        _record(tmp_path / "seg", name, **({} if old else {"suffix": suffix, "one_file_per_label": False}))
    _record(tmp_path / "apart", "a", **({} if old else {"suffix": ".nii.gz", "one_file_per_label": True}))
    _record(tmp_path, "a", inputs_sha256=[scan], **({} if old else {"suffix": ".nrrd", "one_file_per_label": False}))
    assert names(find_inputs([tmp_path])) == ["a", "other"]
    assert any("left out a.nii.gz (and 2 more)" in message for message in caplog.messages)
    assert names(find_inputs([f"{tmp_path}/**/*.nii.gz"]))[:1] == ["a"]
    assert find_inputs([tmp_path / "seg" / "a.nii.gz"])[0].images == (tmp_path / "seg" / "a.nii.gz",)
    (tmp_path / "seg" / "other.nii.gz").unlink()
    with pytest.raises(DataError, match="only what earlier runs of medseg wrote"):
        find_inputs([tmp_path / "seg"])


def test_a_label_map_whose_own_record_was_deleted_is_known_by_the_summary_of_its_run(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "b.nii.gz", "seg/a.nii.gz", "seg/b.nii.gz")
    _record(tmp_path / "seg", "a", suffix=".nii.gz", one_file_per_label=False)
    assert [case.name for case in find_inputs([tmp_path / "seg"])] == ["b"]  # nothing says what it is
    cases = [{"name": "a", "status": "done"}, {"name": "b", "status": "done"}, {"name": "c", "status": "failed"}]
    (tmp_path / "seg" / "summary.json").write_text(json.dumps({"done": 2, "skipped": 0, "failed": 1, "cases": cases}))
    touch(tmp_path, "seg/c.nii.gz")
    files = [case.images[0] for case in find_inputs([tmp_path])]
    assert files == [tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", tmp_path / "seg" / "c.nii.gz"]
    for strange in ("[]", "{", '{"cases": 3}', '{"cases": [{}]}'):  # somebody else's file of that name
        (tmp_path / "seg" / "summary.json").write_text(strange)
        assert [case.name for case in find_inputs([tmp_path / "seg"])] == ["b", "c"]


def test_a_sidecar_of_others_is_no_record(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz")
    (tmp_path / "a.json").write_text('{"EchoTime": 0.03}')
    (tmp_path / "b.json").write_text("[1")
    assert names(find_inputs([tmp_path])) == ["a"]


@pytest.mark.parametrize("suffix", [".IMA", ".dicom", ".img", ".MR", "", ".840.113619", ".nii", ".gz"])
def test_dicom_is_known_by_its_content(tmp_path: Path, suffix: str) -> None:
    make_series(tmp_path / "p1")
    for path in make_series(tmp_path / "p2"):
        path.rename(path.with_suffix(suffix))
    assert names(find_inputs([tmp_path])) == ["p1", "p2"]
    assert read_image(tmp_path / "p2").array.shape == (1, 8, 6, 5)


def test_a_file_without_a_preamble_is_dicom_too(tmp_path: Path) -> None:
    for path in make_series(tmp_path / "p"):
        path.with_suffix("").write_bytes(path.read_bytes()[132:])
        path.unlink()
    (tmp_path / "p" / "notes.txt").write_text("A" * 200)
    assert names(find_inputs([tmp_path])) == ["p"]
    assert read_image(tmp_path / "p").array.shape == (1, 8, 6, 5)


def test_a_mask_beside_a_series_is_left_out_by_name_and_another_scan_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_series(tmp_path / "p")
    header = read_header(tmp_path / "p")
    write_label(tmp_path / "p" / "mask.nii.gz", np.zeros(header.shape, np.uint8), header)
    assert find_inputs([tmp_path]) == [Case("p", (tmp_path / "p",))]
    assert any("left out mask.nii.gz, which lies on the grid" in message for message in caplog.messages)
    touch(tmp_path, "p/other.nii.gz")
    assert names(find_inputs([tmp_path])) == ["p", "other"]


def _two(case: Case) -> tuple[str, list[str]]:
    return case.name, [path.name for path in case.images]


def test_a_flat_folder_is_grouped_by_the_names_of_the_channels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    channels = {0: "PET", 1: "CT"}
    touch(
        tmp_path,
        *(f"{name}_{kind}.nii.gz" for name in ("p1", "p2") for kind in ("ct", "pet")),
        "ct-q.nrrd",
        "PET q.nrrd",
    )
    right = [
        ("p1", ["p1_pet.nii.gz", "p1_ct.nii.gz"]),
        ("p2", ["p2_pet.nii.gz", "p2_ct.nii.gz"]),
        ("q", ["PET q.nrrd", "ct-q.nrrd"]),
    ]
    for words in ([tmp_path], [f"{tmp_path}/*.n*"], sorted(tmp_path.iterdir())):
        assert sorted(map(_two, find_inputs(words, channels=channels))) == right
    touch(tmp_path, "p1_dose.nii.gz")
    assert sorted(map(_two, find_inputs([tmp_path], channels=channels))) == right
    assert any("left out p1_dose.nii.gz, which is named like none" in message for message in caplog.messages)
    touch(tmp_path, "p3_ct.nii.gz")
    with pytest.raises(DataError, match="case 'p3': has no file for channel PET, only p3_ct"):
        find_inputs([tmp_path], channels=channels)
    lacking = find_inputs([tmp_path], channels=channels, gaps=True)
    assert [(case.name, case.missing) for case in lacking if case.missing] == [("p3", (0,))]
    touch(tmp_path, "p3_cta.nii.gz")
    with pytest.raises(DataError, match=r"is channel 'CT' by its name, and so is p3_ct\.nii\.gz"):
        find_inputs([tmp_path], channels=channels, gaps=True)


def test_one_patient_in_a_flat_folder_is_named_by_the_files_and_two_are_never_mixed(tmp_path: Path) -> None:
    channels = {0: "PET", 1: "CT"}
    for place in ("one", "set/images"):
        touch(tmp_path / place, "p1_ct.nii.gz", "p1_pet.nii.gz")
        found = find_inputs([tmp_path / place.partition("/")[0]], channels=channels)
        assert [_two(case) for case in found] == [("p1", ["p1_pet.nii.gz", "p1_ct.nii.gz"])]
    touch(tmp_path, "mixed/p1_ct.nii.gz", "mixed/p2_pet.nii.gz")
    assert [len(case.images) for case in find_inputs([tmp_path / "mixed"], channels=channels)] == [1, 1]
    touch(tmp_path, "numbers/p_0.nii.gz", "numbers/p_1.nii.gz")
    assert names(find_inputs([tmp_path / "numbers"], channels={0: "0", 1: "1"})) == ["p_0", "p_1"]


def test_a_dicom_folder_per_channel_makes_one_case(tmp_path: Path) -> None:
    channels = {0: "PET", 1: "CT"}
    for place in ("a/p1/CT", "a/p1/PET", "a/p2/CT", "a/p2/PET", "b/p3_CT", "b/p3_PET"):
        make_series(tmp_path / place)
    found = find_inputs([tmp_path / "a"], channels=channels)
    assert [_two(case) for case in found] == [("p1", ["PET", "CT"]), ("p2", ["PET", "CT"])]
    assert read_image(found[0].images).array.shape == (2, 8, 6, 5)
    assert [_two(case) for case in find_inputs([tmp_path / "a/p1"], channels=channels)] == [("p1", ["PET", "CT"])]
    words = [tmp_path / "a/p1/CT", tmp_path / "a/p1/PET"]
    assert [_two(case) for case in find_inputs(words, channels=channels)] == [("p1", ["PET", "CT"])]
    assert [_two(case) for case in find_inputs([tmp_path / "b"], channels=channels)] == [("p3", ["p3_PET", "p3_CT"])]


def test_channels_are_matched_by_name_and_may_lack_where_the_network_takes_that(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    channels = {0: "PET", 1: "CT"}
    touch(tmp_path, "p1/ct.nii.gz", "p1/pet.nii.gz", "p2/pet.nii.gz", "p2/ct.nii.gz", "p2/dose.nii.gz")
    found = find_inputs([tmp_path], channels=channels)
    assert [[path.name for path in case.images] for case in found] == [["pet.nii.gz", "ct.nii.gz"]] * 2
    assert any("left out dose.nii.gz, which is named like none" in message for message in caplog.messages)
    assert [path.name for path in find_inputs([tmp_path / "p1"], channels=channels)[0].images] == [
        "pet.nii.gz",
        "ct.nii.gz",
    ]
    touch(tmp_path, "q/p3/ct.nii.gz", "q/p4_0001.nii.gz")
    lacking = find_inputs([tmp_path / "q"], channels=channels, gaps=True)
    assert [(case.name, case.missing) for case in lacking] == [("p4", (0,)), ("p3", (0,))]
    (tmp_path / "list.csv").write_text("image_0,image_1\np1/ct.nii.gz,p1/pet.nii.gz\n")
    with pytest.raises(DataError, match="named like channel 1"):
        find_inputs([tmp_path / "list.csv"], channels=channels)
    (tmp_path / "list.csv").write_text("image_0,image_1\n,p1/ct.nii.gz\n")
    with pytest.raises(DataError, match="every line needs all"):
        find_inputs([tmp_path / "list.csv"], channels=channels)
    assert find_inputs([tmp_path / "list.csv"], channels=channels, gaps=True)[0].missing == (0,)
