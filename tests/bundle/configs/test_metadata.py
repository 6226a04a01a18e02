"""metadata.json at the door: a wrong type or a contradiction is one line; a missing author is left to `bundle verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medseg.bundle.configs.metadata import metadata_faults, read_metadata
from medseg.errors import BundleError
from medseg.layout import Layout

IMAGE = {
    "type": "image",
    "format": "magnitude",
    "num_channels": 1,
    "spatial_shape": ["*", "8*n", 32],
    "dtype": "float32",
}
PRED = {**IMAGE, "num_channels": 2, "channel_def": {"0": "background", "1": "a"}}


def formats(side: str, **changes: Any) -> dict[str, Any]:
    both = {"inputs": {"image": IMAGE}, "outputs": {"pred": PRED}}
    both[side] = {name: {**tensor, **changes} for name, tensor in both[side].items()}
    return {"network_data_format": both}


WRONG: dict[str, Any] = {
    "a list": [],
    "nothing": None,
    "formats in a list": {"network_data_format": [1]},
    "outputs in a list": {"network_data_format": {"inputs": {}, "outputs": ["pred"]}},
    "output that is a word": {"network_data_format": {"inputs": {}, "outputs": {"pred": "x"}}},
    "channels as a word": formats("inputs", num_channels="one"),
    "channels as truth": formats("inputs", num_channels=True),
    "no channel": formats("inputs", num_channels=0),
    "a number of channels that fills the memory": formats("inputs", num_channels=10**12),
    "a name by a word": formats("outputs", channel_def={"a": "b"}),
    "a name by nothing": formats("outputs", channel_def={"": "b"}),
    "a name by Arabic digits": formats("outputs", channel_def={"\u0661": "b"}),
    "names in a list": formats("outputs", channel_def=["background", "a"]),
    "a name that is a number": formats("outputs", channel_def={"0": 1}),
    "a name for a channel that is not there": formats("outputs", channel_def={"0": "a", "1": "b", "2": "c"}),
    "a shape below zero": formats("inputs", spatial_shape=[-1, 32, 32]),
    "a shape of code": formats("inputs", spatial_shape=["__import__('os')"]),
    "version as a number": {"version": 1.0},
    "changelog in a list": {"changelog": ["0.1.0"]},
    "packages in a list": {"required_packages_version": ["torch"]},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_one_line_with_the_file(name: str, tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.configs.mkdir()
    layout.metadata.write_text(json.dumps(WRONG[name]))
    with pytest.raises(BundleError) as caught:
        read_metadata(tmp_path)
    assert str(caught.value).startswith(f"{layout.metadata}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(layout.metadata)) + 400


def test_what_is_only_incomplete_opens_and_verify_names_it(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.configs.mkdir()
    layout.metadata.write_text(json.dumps({"version": "1", **formats("inputs")}))
    assert read_metadata(tmp_path)["version"] == "1"
    assert any("authors" in fault for fault in metadata_faults(read_metadata(tmp_path)))
