"""Lists of cases: several files of one are put in the order of the channels by names, in training and in prediction."""

from __future__ import annotations

from pathlib import Path

import pytest

from medseg.datasets import load_case, open_dataset
from medseg.errors import DataError
from medseg.io.inputs import find_inputs
from tests.datasets.layouts import SHAPE, write_case, write_json

pytestmark = pytest.mark.requirement("R8")

FACTS = {"labels": {"1": "one", "2": "two"}}


@pytest.mark.parametrize("kind", ["list", "under image", "beside label"])
def test_decathlon_entries_of_several_files_are_matched_by_name(tmp_path: Path, kind: str) -> None:
    entries = []
    for number, name in enumerate(("p1", "p2")):
        files = {key: f"imagesTr/{name}_{key}.nii.gz" for key in ("ct", "pet")[:: 1 if number else -1]}
        for seed, path in enumerate(files.values()):
            write_case(tmp_path / path, tmp_path / f"labelsTr/{name}.nii.gz", seed=seed)
        images = {"list": {"image": list(files.values())}, "under image": {"image": files}, "beside label": files}[kind]
        entries.append({**images, "label": f"labelsTr/{name}.nii.gz"})
    facts = {"labels": {"0": "background", "1": "one", "2": "two"}, "modality": {"0": "PET", "1": "CT"}}
    write_json(tmp_path / "dataset.json", {**facts, "training": entries})
    dataset = open_dataset(tmp_path)
    assert [(case.name, [path.name for path in case.images]) for case in dataset.cases] == [
        (name, [f"{name}_pet.nii.gz", f"{name}_ct.nii.gz"]) for name in ("p1", "p2")
    ]
    assert load_case(dataset.cases[0], dataset)[0].array.shape == (2, *SHAPE)
    found = find_inputs([tmp_path], channels=dataset.channels)
    assert [(case.name, case.images) for case in found] == [(case.name, case.images) for case in dataset.cases]


def test_decathlon_lists_whose_names_tell_nothing_keep_their_order_in_training_and_in_prediction(
    tmp_path: Path,
) -> None:
    for name in ("1/b", "1/a", "2/b", "2/a", "3/b", "3/a"):
        write_case(tmp_path / f"{name}.nii.gz", tmp_path / "labels" / f"{name[0]}.nii.gz")
    entries = [{"image": [f"{n}/b.nii.gz", f"{n}/a.nii.gz"], "label": f"labels/{n}.nii.gz"} for n in (1, 2)]
    facts = {"labels": {"1": "one", "2": "two"}, "modality": {"0": "PET", "1": "CT"}, "training": entries}
    write_json(tmp_path / "dataset.json", {**facts, "test": [["3/b.nii.gz", "3/a.nii.gz"]]})
    dataset = open_dataset(tmp_path)
    listed = [*dataset.cases, *dataset.test_cases]
    assert [[path.name for path in case.images] for case in listed] == [["b.nii.gz", "a.nii.gz"]] * 3
    assert [case.name for case in listed] == ["1", "2", "3"]
    assert [case.images for case in find_inputs([tmp_path], channels=dataset.channels)] == [
        one.images for one in listed
    ]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"ct": "x_ct.nii.gz", "mr": "x_pet.nii.gz"}, "'mr' is none of the channels PET, CT"),
        ({"ct": "x_pet.nii.gz", "pet": "x_ct.nii.gz"}, r"x_ct\.nii\.gz is given as channel 0 \(PET\)"),
        (["x_ct.nii.gz", "y_ct.nii.gz"], r"x_ct\.nii\.gz is given as channel 0 \(PET\)|and so is"),
        ({"ct": "x_ct.nii.gz"}, "has no file for channel PET"),
        ({"ct": ["x_ct.nii.gz", "y_ct.nii.gz"], "pet": "x_pet.nii.gz"}, "expected one file"),
        ({"CT": "x_ct.nii.gz", "ct": "y_ct.nii.gz"}, "twice"),
    ],
    ids=str,
)
def test_conflicts_in_decathlon_entries_are_refused(tmp_path: Path, image: object, message: str) -> None:
    for name in ("x_ct", "y_ct", "x_pet"):
        write_case(tmp_path / f"{name}.nii.gz", tmp_path / "label.nii.gz")
    facts = {"labels": {"1": "one", "2": "two"}, "modality": {"0": "PET", "1": "CT"}}
    write_json(tmp_path / "dataset.json", {**facts, "training": [{"image": image, "label": "label.nii.gz"}]})
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path)


def test_columns_of_a_list_may_be_named_by_the_channels(tmp_path: Path) -> None:
    for name in ("scan1", "scan2"):
        write_case(tmp_path / f"{name}.nii.gz", tmp_path / "label.nii.gz")
    write_json(tmp_path / "dataset.json", {"labels": {"1": "one", "2": "two"}, "channels": {"0": "PET", "1": "CT"}})
    (tmp_path / "cases.csv").write_text("name,image_ct,image_PET,label\na,scan1.nii.gz,scan2.nii.gz,label.nii.gz\n")
    dataset = open_dataset(tmp_path)
    assert [path.name for path in dataset.cases[0].images] == ["scan2.nii.gz", "scan1.nii.gz"]
    found = find_inputs([tmp_path / "cases.csv"], channels=dataset.channels)
    assert found[0].images == dataset.cases[0].images
    write_json(tmp_path / "dataset.json", {"labels": {"1": "one", "2": "two"}})
    undeclared = open_dataset(tmp_path)
    assert undeclared.channels == {0: "ct", 1: "PET"}
    assert [path.name for path in undeclared.cases[0].images] == ["scan1.nii.gz", "scan2.nii.gz"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "image_ct,image_mr,label\nscan1.nii.gz,scan2.nii.gz,label.nii.gz",
            "'mr' is none of the channels PET, CT",
        ),
        ("image_ct,image_0,label\nscan1.nii.gz,scan2.nii.gz,label.nii.gz", "numbers and by names"),
        ("image_ct,image_cta,label\nscan1.nii.gz,scan2.nii.gz,label.nii.gz", "channel 'CT' twice"),
        ("image_ct,label\nscan1.nii.gz,label.nii.gz", "has no file for channel PET"),
        ("image_pet,image_ct,label\nct.nii.gz,scan2.nii.gz,label.nii.gz", "named like channel 1"),
    ],
    ids=str,
)
def test_columns_that_contradict_the_channels_are_refused(tmp_path: Path, text: str, message: str) -> None:
    for name in ("scan1", "scan2", "ct"):
        write_case(tmp_path / f"{name}.nii.gz", tmp_path / "label.nii.gz")
    write_json(tmp_path / "dataset.json", {"labels": {"1": "one", "2": "two"}, "channels": {"0": "PET", "1": "CT"}})
    (tmp_path / "cases.csv").write_text(text + "\n")
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path)
    if "no file" not in message:
        with pytest.raises(DataError, match=message):
            find_inputs([tmp_path / "cases.csv"], channels={0: "PET", 1: "CT"})


def numbered(root: Path, layout: str) -> list[Path]:
    """A dataset of PET and CT whose files say only numbers; the files of its case in its own order."""
    names = {"nnunet": "imagesTr/p_{:04d}.nii.gz", "folder": "images/p/{}.nii.gz", "csv": "any/{}.nii.gz"}[layout]
    files = [root / names.format(number) for number in (0, 1)]
    for number, path in enumerate(files):
        write_case(path, root / ("labelsTr" if layout == "nnunet" else "labels") / "p.nii.gz", seed=number)
    key = "channel_names" if layout == "nnunet" else "channels"
    write_json(root / "dataset.json", {"labels": {"background": 0, "one": 1, "two": 2}, key: {"0": "PET", "1": "CT"}})
    if layout == "csv":
        (root / "cases.csv").write_text("name,image_0,image_1,label\np,any/0.nii.gz,any/1.nii.gz,labels/p.nii.gz\n")
    return files


@pytest.mark.parametrize("layout", ["nnunet", "folder", "csv"])
def test_numbers_of_a_dataset_mean_its_channels_also_for_a_network_that_orders_them_otherwise(
    tmp_path: Path, layout: str
) -> None:
    pet, ct = numbered(tmp_path, layout)
    assert open_dataset(tmp_path).cases[0].images == (pet, ct)
    words = {
        "nnunet": [tmp_path, tmp_path / "imagesTr", f"{tmp_path}/imagesTr/*"],
        "folder": [tmp_path, tmp_path / "images"],
    }
    for word in words.get(layout, [tmp_path, tmp_path / "cases.csv"]):
        assert find_inputs([word], channels={0: "PET", 1: "CT"})[0].images == (pet, ct), word
        assert find_inputs([word], channels={0: "CT", 1: "pt"})[0].images == (ct, pet), word
        with pytest.raises(DataError, match="declares the channels PET, CT, the network takes CT, MR"):
            find_inputs([word], channels={0: "CT", 1: "MR"})
        assert find_inputs([word], channels={0: "one", 1: "two"})[0].images == (pet, ct), word


def test_one_file_that_holds_the_channels_in_another_order_is_refused(tmp_path: Path) -> None:
    write_case(tmp_path / "imagesTr/p.nii.gz", tmp_path / "labelsTr/p.nii.gz", channels=2)
    entries = [{"image": "imagesTr/p.nii.gz", "label": "labelsTr/p.nii.gz"}]
    write_json(tmp_path / "dataset.json", {**FACTS, "modality": {"0": "PET", "1": "CT"}, "training": entries})
    for word in (tmp_path, tmp_path / "imagesTr/p.nii.gz", f"{tmp_path}/imagesTr/*"):
        assert len(find_inputs([word], channels={0: "PET", 1: "CT"})) == 1
        with pytest.raises(DataError, match="give one file per channel"):
            find_inputs([word], channels={0: "CT", 1: "PET"})


def test_a_network_takes_what_it_knows_of_a_dataset_with_more_channels(tmp_path: Path) -> None:
    kinds = ("flair", "t1", "t1gd", "t2")
    for kind in kinds:
        write_case(tmp_path / f"imagesTr/p/{kind}.nii.gz", tmp_path / "label.nii.gz")
    entry = {"image": {kind: f"imagesTr/p/{kind}.nii.gz" for kind in kinds}, "label": "label.nii.gz"}
    modality = {str(number): kind for number, kind in enumerate(("FLAIR", "T1w", "T1gd", "T2w"))}
    write_json(tmp_path / "dataset.json", {**FACTS, "modality": modality, "training": [entry]})
    (case,) = find_inputs([tmp_path], channels={0: "T1ce", 1: "FLAIR"})
    assert [path.name for path in case.images] == ["t1gd.nii.gz", "flair.nii.gz"]
    with pytest.raises(DataError, match="lists no file for channel ADC"):
        find_inputs([tmp_path], channels=dict(enumerate(["ADC", "FLAIR", "T1", "T1ce", "T2"])))
    (case,) = find_inputs([tmp_path], channels=dict(enumerate(["ADC", "FLAIR", "T1", "T1ce", "T2"])), gaps=True)
    assert (case.name, case.missing, len(case.images)) == ("p", (0,), 4)


@pytest.mark.parametrize("text", ["image_0,image_2", "image_2,image_3", "image,image_0"])
def test_numbers_of_columns_follow_each_other(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.csv").write_text(f"{text}\na.nii.gz,b.nii.gz\n")
    with pytest.raises(DataError, match="numbers its image columns"):
        find_inputs([tmp_path / "list.csv"], channels=2)
