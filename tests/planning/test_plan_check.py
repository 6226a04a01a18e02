"""A plan.json that somebody edited, cut or made up: one line that names the file and the key, before anything uses it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medseg.errors import BundleError
from medseg.planning.plan import Plan

SOUND: dict[str, Any] = {
    "name": "x", "data_folder": "data", "spatial_dims": 3, "channels": {"0": "CT"},
    "labels": {"0": "background", "1": "a", "2": "b"}, "orientation": "RAS", "spacing": [1, 1.0, 1.5],
    "roi_size": [32, 32, 32], "batch_size": 2, "normalization": [{"kind": "zscore"}],
    "network": {"preset": "mambavision", "in_channels": 1, "out_channels": 3, "spatial_dims": 3},
    "optimization": {}, "augmentation": {}, "inference": {"overlap": 0.5, "mirror_axes": [0]}, "folds": 1,
    "splits": [{"train": ["b"], "val": ["a"]}],
}  # fmt: skip
LOW = {"spacing": [3, 3, 3], "roi_size": [16, 16, 16], "batch_size": 1, "network": {"out_channels": 3}}

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a label that is no number": ({"labels": {"0": "background", "a": "b"}}, "labels"),
    "a negative label": ({"labels": {"0": "background", "-1": "b"}}, "labels"),
    "a label twice": ({"labels": {"0": "background", "01": "b", "1": "c"}}, "labels"),
    "a huge label": ({"labels": {"0": "background", "9" * 39: "b"}}, "labels"),
    "no background": ({"labels": {"1": "a", "2": "b", "3": "c"}}, "labels"),
    "no labels": ({"labels": {}}, "labels"),
    "labels in a list": ({"labels": ["background", "a"]}, "labels"),
    "a label without a name": ({"labels": {"0": "background", "1": None, "2": "b"}}, "labels"),
    "labels and outputs differ": ({"labels": {"0": "background", "1": "a"}}, "out_channels"),
    "channels and inputs differ": ({"channels": {"0": "a", "1": "b"}, "normalization": [{}, {}]}, "in_channels"),
    "channels with a gap": ({"channels": {"1": "CT"}}, "channels"),
    "no channels": ({"channels": None}, "channels"),
    "normalization of other channels": ({"normalization": [{}, {}]}, "normalization"),
    "dimensions": ({"spatial_dims": 4}, "spatial_dims"),
    "dimensions as truth": ({"spatial_dims": True}, "spatial_dims"),
    "window of two": ({"roi_size": [32, 32]}, "roi_size"),
    "window of nothing": ({"roi_size": [32, 0, 32]}, "roi_size"),
    "window of halves": ({"roi_size": [32, 32, 0.5]}, "roi_size"),
    "window as a word": ({"roi_size": "abc"}, "roi_size"),
    "window of a universe": ({"roi_size": [60000] * 3}, "roi_size"),
    "spacing below zero": ({"spacing": [1, -1, 1]}, "spacing"),
    "spacing of nothing": ({"spacing": [1, 1, 0]}, "spacing"),
    "spacing null": ({"spacing": None}, "spacing"),
    "spacing as words": ({"spacing": ["1", "1", "1"]}, "spacing"),
    "batch of none": ({"batch_size": 0}, "batch_size"),
    "batch as a float": ({"batch_size": 2.0}, "batch_size"),
    "orientation of one axis": ({"orientation": "LRA"}, "orientation"),
    "orientation in Greek": ({"orientation": "αβγ"}, "orientation"),
    "inference in a list": ({"inference": []}, "inference"),
    "overlap of all": ({"inference": {"overlap": 1}}, "overlap"),
    "mirror beyond": ({"inference": {"mirror_axes": [3]}}, "mirror_axes"),
    "mirror twice": ({"inference": {"mirror_axes": [0, 0]}}, "mirror_axes"),
    "steps in a word": ({"inference": {"postprocessing": "all"}}, "postprocessing"),
    "regions as numbers": ({"regions": [1]}, "regions"),
    "region of a label that is not there": ({"regions": [{"name": "x", "labels": [7], "label": 1}]}, "regions"),
    "ignored and a label": ({"ignore_label": 1}, "ignore_label"),
    "folds and splits differ": ({"folds": 5}, "splits"),
    "a fold in a list": ({"splits": [["a"]]}, "splits"),
    "a case that is a number": ({"splits": [{"train": [1], "val": []}]}, "splits"),
    "network in a list": ({"network": ["mambavision"]}, "network"),
    "low resolution of other outputs": ({"low_resolution": {**LOW, "network": {"out_channels": 9}}}, "low_resolution"),
    "low resolution cut": ({"low_resolution": {"spacing": [1, 1, 1]}}, "low_resolution"),
    "measures that are none": ({"fingerprint": {"median_spacing": [0, 0]}}, "fingerprint"),
    "reasons in a list": ({"reasons": []}, "reasons"),
}  # fmt: skip


def read(path: Path, content: Any) -> Plan:
    path.write_text(json.dumps(content))
    return Plan.read(path)


def test_a_sound_plan_is_read(tmp_path: Path) -> None:
    plan = read(tmp_path / "plan.json", {**SOUND, "low_resolution": LOW, "ignore_label": 3, "of tomorrow": 1})
    assert plan.labels == {0: "background", 1: "a", 2: "b"}
    assert plan.channels == {0: "CT"}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_named_with_its_file(name: str, tmp_path: Path) -> None:
    change, key = WRONG[name]
    path = tmp_path / "plan.json"
    with pytest.raises(BundleError) as caught:
        read(path, {**SOUND, **change})
    message = str(caught.value)
    assert message.startswith(f"{path}: "), message
    assert key in message
    assert "\n" not in message
    assert len(message) < len(str(path)) + 400


@pytest.mark.parametrize("key", [key for key in SOUND])
def test_a_missing_value_is_named(key: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=f"'{key}' is a required property"):
        read(tmp_path / "plan.json", {name: value for name, value in SOUND.items() if name != key})


@pytest.mark.parametrize("content", [[], None, 3, "plan", {}])
def test_what_is_no_plan_is_named(content: Any, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"plan\.json: top level"):
        read(tmp_path / "plan.json", content)
