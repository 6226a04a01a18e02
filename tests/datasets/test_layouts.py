"""Each layout gives its cases; each mistake gives one sentence with the file, the cause and the way out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medseg.datasets import DATASETS, check_headers, load_case, open_dataset
from medseg.errors import DataError, GridMismatchError, LabelError, MedsegError, UnreadableFileError
from medseg.io.header import Header
from medseg.io.volume import read_header, write_label
from tests.datasets.layouts import SHAPE, make_decathlon, make_folder, make_nnunet, write_case, write_json
from tests.io.dicom_maker import make_series

LABELS = {0: "background", 1: "one", 2: "two"}


def test_every_registered_layout_recognises_itself_only(tmp_path: Path) -> None:
    makers = {"decathlon": make_decathlon, "nnunet": make_nnunet, "folder": make_folder}
    assert set(makers) <= set(DATASETS)
    for kind, make in makers.items():
        root = make(tmp_path / kind)
        assert [name for name in makers if DATASETS[name].matches(root)] == [kind]


def test_decathlon(tmp_path: Path) -> None:
    dataset = open_dataset(make_decathlon(tmp_path))
    assert (dataset.name, dataset.licence, dataset.reference) == ("Toy", "CC0", "nobody")
    assert [case.name for case in dataset.cases] == ["b_1", "b_2"]
    assert [case.name for case in dataset.test_cases] == ["t"]
    assert dataset.labels == LABELS
    assert dataset.channels == {0: "MRI"}
    assert dataset.splits is None
    image, label = load_case(dataset.cases[0], dataset)
    assert image.array.shape == (1, *SHAPE)
    assert label.array.shape == SHAPE


def test_decathlon_channels_lie_in_the_fourth_axis(tmp_path: Path) -> None:
    dataset = open_dataset(make_decathlon(tmp_path, channels=4))
    assert len(dataset.channels) == 4
    assert load_case(dataset.cases[0], dataset)[0].array.shape == (4, *SHAPE)


def test_splits_final_is_used_when_present(tmp_path: Path) -> None:
    make_decathlon(tmp_path)
    splits = [{"train": ["b_1"], "val": ["b_2"]}, {"train": ["b_2"], "val": ["b_1"]}]
    write_json(tmp_path / "splits_final.json", splits)
    assert open_dataset(tmp_path).splits == splits
    write_json(tmp_path / "splits_final.json", [{"train": ["b_1"], "val": ["b_3"]}])
    with pytest.raises(DataError, match=r"fold 0 of splits_final\.json names unknown cases such as 'b_3'"):
        open_dataset(tmp_path)


def test_nnunet_gathers_numbered_channels(tmp_path: Path) -> None:
    dataset = open_dataset(make_nnunet(tmp_path))
    assert [case.name for case in dataset.cases] == ["sub-1_scan", "sub-2_scan"]
    assert [case.subject for case in dataset.cases] == ["1", "2"]
    assert [path.name for path in dataset.cases[0].images] == ["sub-1_scan_0000.nii.gz", "sub-1_scan_0001.nii.gz"]
    assert dataset.channels == {0: "T1", 1: "T2"}
    assert load_case(dataset.cases[0], dataset)[0].array.shape == (2, *SHAPE)
    (tmp_path / "imagesTr" / "sub-2_scan_0001.nii.gz").unlink()
    with pytest.raises(DataError, match=r"case 'sub-2_scan': has no file for channel T2.*--missing-channels zero"):
        open_dataset(tmp_path)
    incomplete = open_dataset(tmp_path, missing_channels="zero")
    image, _ = load_case(incomplete.cases[1], incomplete)
    assert incomplete.cases[1].missing == (1,)
    assert image.array.shape == (2, *SHAPE)
    assert image.array[0].any()
    assert not image.array[1].any()
    (tmp_path / "imagesTr" / "sub-2_scan_0000.nii.gz").rename(tmp_path / "imagesTr" / "sub-2_scan_0007.nii.gz")
    with pytest.raises(DataError, match=r"case 'sub-2_scan'.*has channel files \[7\].*declares 2 channels"):
        open_dataset(tmp_path, missing_channels="zero")


def test_nnunet_regions_and_ignore_label(tmp_path: Path) -> None:
    make_nnunet(tmp_path)
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "active": 3, "ignore": 4}
    write_json(tmp_path / "dataset.json", {"labels": labels, "channel_names": {"0": "T1", "1": "T2"}})
    dataset = open_dataset(tmp_path)
    assert dataset.ignore_label == 4
    assert dataset.regions == {"whole": (1, 2, 3), "core": (2, 3), "active": (3,)}
    assert dataset.region_order == (1, 2, 3)
    assert dataset.labels == {0: "background", 1: "whole (1)", 2: "core (2)", 3: "active"}


def test_plain_folder_with_and_without_a_description(tmp_path: Path) -> None:
    make_folder(tmp_path)
    write_case(tmp_path / "test_images/z.nii.gz", tmp_path / "test_labels/z.nii.gz")
    dataset = open_dataset(tmp_path)
    assert [case.name for case in dataset.cases] == ["a", "b", "c"]
    assert [(case.name, case.label is not None) for case in dataset.test_cases] == [("z", True)]
    assert (dataset.labels, dataset.channels, dataset.licence) == (LABELS, {0: "MRI"}, "CC0")
    (tmp_path / "dataset.json").unlink()
    assert open_dataset(tmp_path).labels == {0: "background", 1: "label_1", 2: "label_2"}


def test_plain_folder_with_a_folder_of_channels_per_case(tmp_path: Path) -> None:
    for channel in ("flair", "t1"):
        write_case(tmp_path / f"images/a/{channel}.nii.gz", tmp_path / "labels/a.nii.gz")
    write_json(
        tmp_path / "dataset.json", {"labels": {"0": "background", "1": "x", "2": "y"}, "channels": ["FLAIR", "T1"]}
    )
    dataset = open_dataset(tmp_path)
    assert dataset.channels == {0: "FLAIR", 1: "T1"}
    assert load_case(dataset.cases[0], dataset)[0].array.shape == (2, *SHAPE)


def test_undeclared_label_value_names_file_value_and_count(tmp_path: Path) -> None:
    make_folder(tmp_path)
    label = np.zeros(SHAPE, np.uint8)
    label[:2, 0, 0] = 7
    write_label(tmp_path / "labels/b.nii.gz", label, like=Header.of_array(SHAPE, np.eye(4)))
    dataset = open_dataset(tmp_path)
    with pytest.raises(
        LabelError, match=r"b\.nii\.gz: holds the undeclared label value 7 \(2 voxels of 7\); declared are 0, 1, 2"
    ):
        load_case(dataset.cases[1], dataset)


def test_different_grids_are_found_by_headers_alone(tmp_path: Path) -> None:
    make_folder(tmp_path)
    write_case(tmp_path / "elsewhere.nii.gz", tmp_path / "labels/c.nii.gz", spacing=2.0)
    dataset = open_dataset(tmp_path)
    with pytest.raises(GridMismatchError, match=r"case 'c'.*spacing \(1.0, 1.0, 1.0\) vs \(2.0, 2.0, 2.0\) mm"):
        check_headers(dataset.cases[2])


def test_wrong_number_of_channels(tmp_path: Path) -> None:
    make_folder(tmp_path)
    write_case(tmp_path / "images/a.nii.gz", None, channels=2)
    dataset = open_dataset(tmp_path)
    with pytest.raises(DataError, match=r"case 'a': .*hold 2 channels, the dataset declares 1"):
        load_case(dataset.cases[0], dataset)


def _remove(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).unlink()


def _write(name: str, text: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / name).write_text(text, encoding="utf-8")

    return change


MISTAKES: dict[str, tuple[Callable[[Path], Path], Callable[[Path], None], str]] = {
    "listed file missing": (
        make_decathlon,
        _remove("imagesTr/b_1.nii.gz"),
        r"b_1\.nii\.gz: no such file, though .*lists it",
    ),
    "no label map": (make_folder, _remove("labels/b.nii.gz"), r"labels/b\.nii\.gz: no such label map, but .*images/b"),
    "no nnunet label": (make_nnunet, _remove("labelsTr/sub-1_scan.nii.gz"), r"sub-1_scan\.nii\.gz: no such file, but"),
    "not JSON": (make_folder, _write("dataset.json", "{,}"), r"dataset\.json: is not valid JSON: .* line 1, column 2"),
    "JSON list": (make_folder, _write("dataset.json", "[]"), r"dataset\.json: holds a list, expected an object"),
    "deep JSON": (
        make_folder,
        _write("dataset.json", "[" * 10**5),
        r"dataset\.json: .*(nested too deeply|not valid JSON)",
    ),
    "no labels": (make_decathlon, _write("dataset.json", '{"training": []}'), 'has no "labels"'),
    "two names": (make_folder, _write("dataset.json", '{"labels": {"1": "a", "b": 1}}'), "the value 1 has two names"),
    "label text": (
        make_folder,
        _write("dataset.json", '{"labels": {"a": "b"}}'),
        "neither value: name nor name: value",
    ),
    "bad splits": (make_folder, _write("splits_final.json", "{}"), r"splits_final\.json: expected a list of"),
    "channel gap": (
        make_folder,
        _write("dataset.json", '{"labels": {"0": "b"}, "channels": {"1": "x"}}'),
        "expected 0, 1, 2",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named_in_one_line(tmp_path: Path, mistake: str) -> None:
    make, change, message = MISTAKES[mistake]
    root = make(tmp_path / "data")
    change(root)
    with pytest.raises(MedsegError, match=message) as caught:
        open_dataset(root)
    assert "\n" not in str(caught.value)


def test_missing_empty_and_unknown_folders(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match="no: no such folder"):
        open_dataset(tmp_path / "no")
    with pytest.raises(DataError, match="is empty; expected images/ and labels/"):
        open_dataset(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="no known dataset layout"):
        open_dataset(tmp_path)
    (tmp_path / "labels").mkdir()
    with pytest.raises(DataError, match="images: holds no volume"):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match=r"'decathln' does not exist\. Did you mean decathlon"):
        open_dataset(tmp_path, kind="decathln")


@pytest.mark.data
def test_real_hippocampus_with_its_splits(real_data: Path) -> None:
    dataset = open_dataset(real_data / "hippocampus")
    assert len(dataset.cases) == 208
    assert dataset.labels == {0: "background", 1: "Anterior", 2: "Posterior"}
    assert dataset.splits is not None
    assert len(dataset.splits) == 5
    image, label = load_case(dataset.cases[0], dataset)
    assert image.array.shape[1:] == label.array.shape


@pytest.mark.parametrize(
    "labels",
    [
        {"0": "liver", "1": "tumour"},
        {"0": "liver", "1": "background"},
        {"liver": 0},
        {"1": "background", "2": "liver"},
        ["liver"],
    ],
)
def test_a_structure_at_zero_is_refused(tmp_path: Path, labels: object) -> None:
    make_folder(tmp_path)
    write_json(tmp_path / "dataset.json", {"labels": labels})
    with pytest.raises(DataError, match=r"0 must be the background|has no \"labels\""):
        open_dataset(tmp_path)


@pytest.mark.parametrize("name", ["background", "Background", "BG", "Clear Label", "unlabelled", "Unknown", "no organ"])
def test_names_of_the_background_pass(tmp_path: Path, name: str) -> None:
    make_folder(tmp_path)
    write_json(tmp_path / "dataset.json", {"labels": {"0": name, "1": "one", "2": "two"}})
    assert open_dataset(tmp_path).labels[0] == name
    write_json(tmp_path / "dataset.json", {"labels": {"1": "one", "2": "two"}})
    assert open_dataset(tmp_path).labels[0] == "background"


def test_channels_of_the_folder_layout_follow_their_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for number, kind in enumerate(("ct", "pet")):
            label = tmp_path / "labels" / f"{name}.nii.gz"
            write_case(tmp_path / "images" / name / f"{kind}.nii.gz", label, seed=number)
    write_json(tmp_path / "dataset.json", {"labels": {"1": "one", "2": "two"}, "channels": {"0": "PET", "1": "CT"}})
    assert [path.name for path in open_dataset(tmp_path).cases[0].images] == ["pet.nii.gz", "ct.nii.gz"]
    (tmp_path / "images" / "a" / "ct.nii.gz").rename(tmp_path / "images" / "a" / "other.nii.gz")
    with pytest.raises(DataError, match=r"other\.nii\.gz: is named like no channel"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("layout", ["folder", "nnunet", "patients"])
def test_flat_files_are_matched_by_the_names_of_the_channels(tmp_path: Path, layout: str) -> None:
    places = {"folder": ("images", "labels/{}"), "nnunet": ("imagesTr", "labelsTr/{}"), "patients": ("{}", "{}/{}_seg")}
    images, label = places[layout]
    for name in ("p1", "p2"):
        for number, kind in enumerate(("ct", "pet")):
            image = tmp_path / images.format(name) / f"{name}_{kind}.nii.gz"
            write_case(image, tmp_path / f"{label.format(name, name)}.nii.gz", seed=number)
    key = "channel_names" if layout == "nnunet" else "channels"
    description = {"labels": {"0": "background", "1": "one", "2": "two"}, key: {"0": "PET", "1": "CT"}}
    write_json(tmp_path / "dataset.json", description)
    found = open_dataset(tmp_path)
    assert [(case.name, [path.name for path in case.images]) for case in found.cases] == [
        (name, [f"{name}_pet.nii.gz", f"{name}_ct.nii.gz"]) for name in ("p1", "p2")
    ]
    assert load_case(found.cases[0], found)[0].array.shape == (2, *SHAPE)
    if layout == "patients":
        (tmp_path / "dataset.json").unlink()
        undeclared = open_dataset(tmp_path)
        assert undeclared.channels == {0: "ct", 1: "pet"}
        return
    (tmp_path / images / "p1_ct.nii.gz").unlink()
    with pytest.raises(DataError, match="case 'p1': has no file for channel CT"):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path, missing_channels="zero").cases[0].missing == (1,)


def test_a_list_of_channels_against_their_names_is_refused(tmp_path: Path) -> None:
    write_case(tmp_path / "ct.nii.gz", tmp_path / "label.nii.gz")
    write_case(tmp_path / "pet.nii.gz", None)
    write_json(tmp_path / "dataset.json", {"labels": {"1": "one", "2": "two"}, "channels": {"0": "PET", "1": "CT"}})
    (tmp_path / "cases.csv").write_text("name,image_0,image_1,label\na,ct.nii.gz,pet.nii.gz,label.nii.gz\n")
    with pytest.raises(DataError, match="named like channel 1"):
        open_dataset(tmp_path)


def test_dicom_series_and_files_are_images_of_the_folder_layout(tmp_path: Path) -> None:
    make_series(tmp_path / "images" / "a")
    header = read_header(tmp_path / "images" / "a")
    for name in ("a", "b"):
        write_label(tmp_path / "labels" / f"{name}.nii.gz", np.ones(header.shape, np.uint8), header)
    for number, kind in enumerate(("t1", "t2")):
        make_series(tmp_path / "two" / "images" / "b" / kind, prefix=f"p{number}")
    make_series(tmp_path / "images" / "b", prefix="scan")
    write_json(tmp_path / "dataset.json", {"labels": {"1": "one"}})
    dataset = open_dataset(tmp_path)
    assert [case.images for case in dataset.cases] == [(tmp_path / "images" / name,) for name in ("a", "b")]
    assert load_case(dataset.cases[0], dataset)[0].array.shape == (1, *header.shape)
    (tmp_path / "two" / "labels").mkdir()
    (tmp_path / "labels" / "b.nii.gz").rename(tmp_path / "two" / "labels" / "b.nii.gz")
    write_json(tmp_path / "two" / "dataset.json", {"labels": {"1": "one"}, "channels": {"0": "T2", "1": "T1"}})
    assert [path.name for path in open_dataset(tmp_path / "two").cases[0].images] == ["t2", "t1"]


@pytest.mark.parametrize("place", ["", "CT", "scans"])
@pytest.mark.parametrize("label", ["label", "{}_seg", "tumour"])
def test_a_patients_image_may_be_a_dicom_series(tmp_path: Path, place: str, label: str) -> None:
    for name in ("a", "b"):
        make_series(tmp_path / name / place, prefix=name)
        header = read_header(tmp_path / name / place)
        write_label(tmp_path / name / f"{label.format(name)}.nii.gz", np.ones(header.shape, np.uint8), header)
    make_series(tmp_path / "c" / place, prefix="c")
    write_json(tmp_path / "dataset.json", {"labels": {"1": "one"}})
    dataset = open_dataset(tmp_path)
    assert [(case.name, case.images) for case in dataset.cases] == [
        (name, (tmp_path / name / place,)) for name in ("a", "b")
    ]
    assert [case.name for case in dataset.test_cases] == ["c"]
    image, found = load_case(dataset.cases[0], dataset)
    assert image.array.shape[1:] == found.array.shape
