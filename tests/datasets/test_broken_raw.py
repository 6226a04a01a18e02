"""Broken nnU-Net dataset folders: one line that names the file, never another exception, never a hang."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medseg.datasets import check_headers, load_case, open_dataset
from medseg.errors import MedsegError
from tests.datasets.layouts import make_nnunet

pytestmark = pytest.mark.requirement("R1")

Change = Callable[[Path], Any]
IMAGE, LABEL = "imagesTr/sub-1_scan_0000.nii.gz", "labelsTr/sub-1_scan.nii.gz"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_nnunet(tmp_path_factory.mktemp("raw") / "Dataset001_Toy")


def told(**values: Any) -> Change:
    def change(root: Path) -> None:
        path = root / "dataset.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def text(content: str | bytes, name: str = "dataset.json") -> Change:
    return lambda root: (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def cut(name: str) -> Change:
    def change(root: Path) -> None:
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: 2 * len(content) // 3])

    return change


def instead(name: str, make: Callable[[Path], Any]) -> Change:
    def change(root: Path) -> None:
        (root / name).unlink()
        make(root / name)

    return change


def zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


CHANGES: dict[str, Change] = {
    "description cut": cut("dataset.json"),
    "description empty": text(""),
    "description of zeros": text(b"\0" * 99),
    "description a list": text("[1]"),
    "description nested": text("[" * 100_000 + "]" * 100_000),
    "description with a long number": text('{"channel_names": {"0": "a"}, "labels": ' + "9" * 5000 + "}"),
    "description with NaN": text('{"channel_names": {"0": "a"}, "labels": NaN}'),
    "description in UTF-16": text('{"channel_names": {"0": "a"}}'.encode("utf-16")),
    "description a folder": instead("dataset.json", Path.mkdir),
    "description a pipe": instead("dataset.json", os.mkfifo),
    "description a device": instead("dataset.json", zero),
    "no description": lambda root: (root / "dataset.json").unlink(),
    "labels null": told(labels=None),
    "labels a list": told(labels=[1]),
    "labels as words": told(labels={"background": "0", "a": "one"}),
    "labels below zero": told(labels={"background": 0, "a": -1}),
    "a label twice": told(labels={"background": 0, "a": 1, "b": 1}),
    "a label of a table": told(labels={"background": 0, "a": {}}),
    "a region of words": told(labels={"background": 0, "a": ["x"]}, regions_class_order=[1]),
    "an organ at zero": told(labels={"liver": 0, "a": 1}),
    "channels null": told(channel_names=None),
    "channels of numbers": told(channel_names=[{}]),
    "channels from one": told(channel_names={"1": "a", "2": "b"}),
    "one channel less": told(channel_names={"0": "a"}),
    "another ending": told(file_ending=".xyz"),
    "an ending of a number": told(file_ending=7),
    "splits a table": text("{}", "splits_final.json"),
    "splits of words": text('["a"]', "splits_final.json"),
    "splits of strangers": text('[{"train": ["x"], "val": ["y"]}]', "splits_final.json"),
    "image cut": cut(IMAGE),
    "image empty": text("", IMAGE),
    "image no image": text("hello", IMAGE),
    "image a device": instead(IMAGE, zero),
    "image a pipe": instead(IMAGE, os.mkfifo),
    "label cut": cut(LABEL),
    "label missing": lambda root: (root / LABEL).unlink(),
    "no images": lambda root: shutil.rmtree(root / "imagesTr"),
    "no labels": lambda root: shutil.rmtree(root / "labelsTr"),
}


def use(root: Path) -> None:
    dataset = open_dataset(root)
    for case in dataset.cases:
        check_headers(case, channels=len(dataset.channels))
        load_case(case, dataset)


@pytest.mark.parametrize("name", CHANGES)
def test_a_broken_dataset_is_one_line_that_names_its_file(name: str, sound: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(sound, tmp_path / sound.name))
    CHANGES[name](root)
    with pytest.raises(MedsegError) as caught:
        use(root)
    message = str(caught.value)
    assert str(root) in message, message
    assert "\n" not in message
    assert len(message) < 3 * len(str(root)) + 600


def test_the_sound_folder_opens_beside_all_of_this(sound: Path) -> None:
    use(sound)
