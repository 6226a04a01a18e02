"""Files of a bundle that contradict each other, or themselves: one line with the file, before anything is computed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from medseg.bundle.load import load_bundle
from medseg.bundle.low_resolution import settings_of
from medseg.commands.fit import fit_bundle
from medseg.errors import BundleError, ConfigError, MedsegError
from medseg.layout import Layout

pytestmark = pytest.mark.requirement("R13")


def restore(layout: Layout, **values: Any) -> None:
    content = json.loads(layout.inference.read_text())
    content["postprocessing"]["transforms"][0].update(values)
    layout.inference.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "values",
    [
        {"labels": [0, 1]},
        {"labels": [0, 1, 2, 3]},
        {"labels": [0, 99, 300]},
        {"labels": [0, 1, 1]},
        {"labels": [0.5, 1, 2]},
        {"labels": 5},
        {"labels": []},
        {"labels": [-1, 0, 1]},
        {"labels": [[0], 1, 2]},
        {"labels": [0, 1, 10**8]},
        {"labels": [0, 1, 2], "regions": True},
    ],
    ids=str,
)
def test_label_values_are_those_of_the_plan(values: dict[str, Any], bundle: Layout) -> None:
    restore(bundle, **values)
    with pytest.raises(BundleError, match=r"inference\.json: postprocessing: (labels|regions)") as caught:
        _ = load_bundle(bundle.folder).label_settings
    assert "\n" not in str(caught.value)


def test_label_values_in_order_are_taken(bundle: Layout) -> None:
    restore(bundle, labels=[0, 1, 2])
    assert load_bundle(bundle.folder).label_values == [0, 1, 2]


def set_inference(layout: Layout, **values: Any) -> None:
    layout.inference.write_text(json.dumps({**json.loads(layout.inference.read_text()), **values}))


@pytest.mark.parametrize("through", ["network_def", "a reference"])
def test_an_average_of_itself_is_one_line(through: str, bundle: Layout) -> None:
    average = {"_target_": "medseg.components.averaged_network", "bundle_root": "@bundle_root"}
    set_inference(bundle, q=average, network_def=average if through == "network_def" else "@q")
    with pytest.raises(BundleError, match=r"inference\.json: averaged_network averages itself"):
        load_bundle(bundle.folder).networks()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("roi_size", "much"),
        ("roi_size", [0, 1, 2]),
        ("checkpoint", 5),
        ("margin_mm", "wide"),
        ("margin_mm", -1),
        ("find", "all"),
        ("find", ["a"]),
        ("overlap", 2),
    ],
)
def test_a_low_resolution_network_is_checked_like_the_other_one(key: str, value: Any, bundle: Layout) -> None:
    facts = {"network_def": {}, "preprocessing_def": {}, "roi_size": [8, 8, 8], "checkpoint": "models/x.pt"}
    set_inference(bundle, low_resolution={**facts, key: value})
    with pytest.raises(BundleError, match=rf"inference\.json: low_resolution::{key} is"):
        settings_of(load_bundle(bundle.folder))
    set_inference(bundle, low_resolution=facts)
    assert settings_of(load_bundle(bundle.folder))["roi_size"] == (8, 8, 8)
    set_inference(bundle, low_resolution=[])
    with pytest.raises((BundleError, ConfigError), match="low_resolution"):
        settings_of(load_bundle(bundle.folder))


def test_mirror_axes_that_are_no_axes_are_refused(bundle: Layout) -> None:
    from medseg.bundle.configs.deciding import allowed_mirror_axes

    set_inference(bundle, allowed_mirror_axes=["x"])
    with pytest.raises(MedsegError, match=r"inference\.json: allowed_mirror_axes"):
        allowed_mirror_axes(load_bundle(bundle.folder).config)


@pytest.mark.parametrize(
    ("key", "value", "planned"), [("in_channels", 2, "1 channels"), ("out_channels", 4, "3 outputs")]
)
def test_channels_of_the_network_are_those_of_the_plan(key: str, value: int, planned: str, bundle: Layout) -> None:
    """At load for inference.json, before training for train.json; both values are named."""
    for path in (bundle.inference, bundle.train):
        content = json.loads(path.read_text())
        content["network_def"][key] = value
        path.write_text(json.dumps(content))
    said = rf"inference\.json: network_def::{key} is {value}, .*plan\.json names {planned}"
    with pytest.raises(BundleError, match=said) as caught:
        load_bundle(bundle.folder)
    assert "\n" not in str(caught.value)
    with pytest.raises(MedsegError, match=rf"network_def::{key}: plan\.json {planned[0]}, configs/train\.json {value}"):
        fit_bundle(bundle.folder, device="cpu")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"0": "background", "1": "liver", "2": "posterior"}, 'labels::1: plan\\.json "anterior", configs/train\\.json "liver"'),
        ({"0": "background", "1": "anterior"}, 'labels::2: plan\\.json "posterior", configs/train\\.json null'),
        ({"0": "background", "1": "anterior", "2": "posterior", "3": "x"}, 'labels::3: plan\\.json null, configs/train\\.json "x"'),
        ([1], "labels: plan\\.json .*anterior.*, configs/train\\.json \\[1\\]"),
    ],
    ids=["another name", "one less", "one more", "a list"],
)  # fmt: skip
def test_labels_of_the_training_are_those_of_the_plan(labels: Any, said: str, bundle: Layout) -> None:
    content = json.loads(bundle.train.read_text())
    bundle.train.write_text(json.dumps({**content, "labels": labels}))
    with pytest.raises(MedsegError, match=said) as caught:
        fit_bundle(bundle.folder, device="cpu")
    assert "\n" not in str(caught.value)
