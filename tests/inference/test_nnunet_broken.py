"""Broken nnU-Net folders: one line that names the file, nothing written, never another exception."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medseg.commands.import_nnunet import import_nnunet
from medseg.errors import MedsegError
from tests.commands.test_import_nnunet import trained_folder

DEEP = "[" * 100_000 + "]" * 100_000
CIRCLE = {"3d_fullres": {"inherits_from": "b"}, "b": {"inherits_from": "3d_fullres"}}
PLANS_TRIES: dict[str, Any] = {
    "a circle": {"configurations": CIRCLE},
    "an heir of itself": {"configurations": {"3d_fullres": {"inherits_from": "3d_fullres"}}},
    "an heir of nobody": {"configurations": {"3d_fullres": {"inherits_from": "x"}}},
    "an heir of a number": {"configurations": {"3d_fullres": {"inherits_from": 1}}},
    "configurations in a list": {"configurations": [1]},
    "configurations null": {"configurations": None},
    "a configuration that is a word": {"configurations": {"3d_fullres": "x"}},
    "intensities in a list": {"foreground_intensity_properties_per_channel": [1]},
    "intensities as words": {"foreground_intensity_properties_per_channel": {"0": {"mean": "x"}}},
    "an axis twice": {"transpose_forward": [0, 0, 1]},
    "axes null": {"transpose_forward": None},
}
CONFIGURATION_TRIES: dict[str, Any] = {
    "spacing null": {"spacing": None},
    "spacing below zero": {"spacing": [1, 1, -1]},
    "spacing of two": {"spacing": [1, 1]},
    "patch as a word": {"patch_size": "abc"},
    "patch of zero": {"patch_size": [0, 16, 16]},
    "no architecture arguments": {"architecture": {"network_class_name": "x"}},
    "architecture null": {"architecture": None},
    "kwargs in a list": {"resampling_fn_data_kwargs": [1]},
    "schemes null": {"normalization_schemes": None},
    "schemes unknown": {"normalization_schemes": ["Magic"]},
    "schemes of two channels": {"normalization_schemes": ["CTNormalization"] * 2, "use_mask_for_norm": [False] * 2},
    "masks of other length": {"use_mask_for_norm": []},
    "batch as a word": {"batch_size": "two"},
}
NETWORK_TRIES: dict[str, Any] = {
    "a million features": {"features_per_stage": [10**6] * 3},
    "wide beyond the weights": {"features_per_stage": [8000] * 3},
    "no stages": {"n_stages": 0},
    "a million stages": {"n_stages": 10**6},
    "stages as a word": {"n_stages": "three"},
    "fewer widths": {"features_per_stage": [4]},
    "counts null": {"n_conv_per_stage": None},
    "a billion convolutions": {"n_conv_per_stage": [10**9, 1, 1]},
    "kernels of zero": {"kernel_sizes": [[0, 3, 3]] * 3},
    "strides of two": {"strides": [[1, 1]] * 3},
    "eps as a word": {"norm_op_kwargs": {"eps": "small"}},
}
DATASET_TRIES: dict[str, Any] = {
    "no labels": {"labels": None},
    "labels in a list": {"labels": [1]},
    "labels as words": {"labels": {"background": "0", "a": "one"}},
    "labels below zero": {"labels": {"background": 0, "a": -1}},
    "a label twice": {"labels": {"background": 0, "a": 1, "b": 1}},
    "no background": {"labels": {"a": 1, "b": 2, "c": 3}},
    "regions": {"labels": {"background": 0, "a": [1, 2]}},
    "no channels": {"channel_names": {}},
    "channels in a list": {"channel_names": ["CT"]},
    "a channel by a word": {"channel_names": {"CT": "0"}},
    "a channel too far": {"channel_names": {"7": "CT"}},
}
CHECKPOINT_TRIES: dict[str, Any] = {
    "a list": [1],
    "weights in a list": {"network_weights": [1]},
    "weights by numbers": {"network_weights": {1: torch.zeros(1)}},
    "weights as words": {"network_weights": {"encoder.stages.0.0.convs.0.conv.weight": "x"}},
    "no weights": {"network_weights": {}},
    "axes as a word": {"network_weights": {}, "inference_allowed_mirroring_axes": "xx"},
    "axes beyond": {"network_weights": {}, "inference_allowed_mirroring_axes": (0, 5)},
}


def refused(folder: Path, output: Path) -> None:
    with pytest.raises(MedsegError) as caught:
        import_nnunet(folder, output)
    message = str(caught.value)
    assert str(folder) in message, message
    assert "\n" not in message
    assert len(message) < 2 * len(str(folder)) + 600
    assert not output.exists()


def edited(path: Path, values: dict[str, Any], *steps: str) -> None:
    content = json.loads(path.read_text())
    node = content
    for step in steps:
        node = node[step]
    node.update(values)
    path.write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return trained_folder(tmp_path / "trained")


@pytest.mark.parametrize("name", PLANS_TRIES)
def test_broken_plans_are_named(name: str, folder: Path, tmp_path: Path) -> None:
    edited(folder / "plans.json", PLANS_TRIES[name])
    refused(folder, tmp_path / "out")


@pytest.mark.parametrize("name", CONFIGURATION_TRIES)
def test_a_broken_configuration_is_named(name: str, folder: Path, tmp_path: Path) -> None:
    edited(folder / "plans.json", CONFIGURATION_TRIES[name], "configurations", "3d_fullres")
    refused(folder, tmp_path / "out")


@pytest.mark.parametrize("name", NETWORK_TRIES)
def test_a_broken_network_is_named(name: str, folder: Path, tmp_path: Path) -> None:
    steps = ("configurations", "3d_fullres", "architecture", "arch_kwargs")
    edited(folder / "plans.json", NETWORK_TRIES[name], *steps)
    refused(folder, tmp_path / "out")


@pytest.mark.parametrize("name", DATASET_TRIES)
def test_a_broken_dataset_file_is_named(name: str, folder: Path, tmp_path: Path) -> None:
    edited(folder / "dataset.json", DATASET_TRIES[name])
    refused(folder, tmp_path / "out")


@pytest.mark.parametrize("name", CHECKPOINT_TRIES)
def test_a_broken_checkpoint_is_named(name: str, folder: Path, tmp_path: Path) -> None:
    torch.save(CHECKPOINT_TRIES[name], folder / "fold_0" / "checkpoint_final.pth")
    refused(folder, tmp_path / "out")


@pytest.mark.parametrize("file", ["plans.json", "dataset.json", "fold_0/checkpoint_final.pth"])
@pytest.mark.parametrize("content", [b"", b"[1, 2]", DEEP.encode(), b"\0" * 99, b"null", b"PK\x03\x04", b"\x80\x02."])
def test_a_file_of_something_else_is_named(file: str, content: bytes, folder: Path, tmp_path: Path) -> None:
    (folder / file).write_bytes(content)
    refused(folder, tmp_path / "out")


class Planted:
    """What a pickled checkpoint would call when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch planted",)


def cut(part: float) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * part)])

    return change


def in_place(make: Callable[[Path], Any]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.unlink()
        make(path)

    return change


CHANGES: dict[str, Callable[[Path], Any]] = {
    "missing": Path.unlink,
    "cut at a third": cut(0.3),
    "cut at its end": cut(0.98),
    "a folder": in_place(Path.mkdir),
    "a pipe": in_place(os.mkfifo),
    "a device": in_place(lambda path: path.symlink_to("/dev/zero")),
    "a link to nothing": in_place(lambda path: path.symlink_to("nowhere")),
}


@pytest.mark.parametrize("file", ["plans.json", "dataset.json", "fold_0/checkpoint_final.pth"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_file_that_is_missing_cut_or_no_file_is_named(file: str, name: str, folder: Path, tmp_path: Path) -> None:
    CHANGES[name](folder / file)
    refused(folder, tmp_path / "out")


@pytest.mark.parametrize("whole", [True, False])
def test_a_pickled_checkpoint_is_refused_and_runs_nothing(
    whole: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(
        Planted() if whole else {"network_weights": {"a": Planted()}}, folder / "fold_0" / "checkpoint_final.pth"
    )
    refused(folder, tmp_path / "out")
    assert not (tmp_path / "planted").exists()


def test_a_folder_without_its_fold_is_named(folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(folder / "fold_0")
    refused(folder, tmp_path / "out")
    (folder / "fold_0").mkdir()
    refused(folder, tmp_path / "out")
    (folder / "fold_1").write_text("no folder")
    refused(folder, tmp_path / "out")
