"""`medseg predict` and the parts that MONAI runs give the same labels, whatever inference.json asks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from medseg.bundle.checks.two_paths import two_paths_differ
from medseg.bundle.load import load_bundle
from medseg.bundle.predictor import asked_settings
from medseg.bundle.weights import write_state_dict
from medseg.errors import BundleError, ConfigError
from medseg.inference.settings import PredictOptions
from medseg.layout import Layout
from tests.bundle.samples import make_bundle

NNUNET = {"placement": "even", "mode": "nnunet", "accumulation": "nnunet"}


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    # untrained, this one gives other labels for a mirrored image; that of samples.py is the same either way
    network = {"preset": "mambavision", "spatial_dims": 3, "in_channels": 1, "out_channels": 3}
    return make_bundle(tmp_path_factory.mktemp("two") / "net", roi_size=[32, 16, 16], network=network)


def opened(layout: Layout, config: dict[str, Any]) -> Any:
    layout.inference.write_text(json.dumps(config))
    return load_bundle(layout.folder)


@pytest.fixture
def config(layout: Layout) -> Any:
    text = layout.inference.read_text()
    yield json.loads(text)
    layout.inference.write_text(text)


@pytest.mark.parametrize(
    "change",
    [{}, {"mirror_axes": [0, 2]}, {"mode": "constant", "placement": "even"}, NNUNET, NNUNET | {"mirror_axes": [1]}],
    ids=str,
)
def test_both_paths_agree(layout: Layout, config: Any, change: dict[str, Any]) -> None:
    config["inferer"].update(change)
    bundle = opened(layout, config)
    for key, value in change.items():
        found = getattr(bundle.label_settings, key)
        assert (list(found) if isinstance(found, tuple) else found) == value
    assert two_paths_differ(bundle) == []


def test_the_average_of_members_is_rounded_alike(layout: Layout, config: Any) -> None:
    names = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        names.append(f"models/fold_{seed}/model.pt")
        write_state_dict(layout.folder / names[-1], load_bundle(layout.folder).untrained_network().state_dict())
    config["inferer"].update(NNUNET)
    config["models"], config["handlers"] = names, []
    target = "medseg.components.averaged_network"
    config["network"] = {"_target_": target, "bundle_root": "@bundle_root", "device": "@device"}
    assert two_paths_differ(opened(layout, config)) == []


def test_what_only_one_path_does_is_found(layout: Layout, config: Any) -> None:
    config["network"] = "$@network_def.to(@device)"
    config["checkpoint"] = "$@bundle_root + '/models/other.pt'"
    torch.manual_seed(3)
    write_state_dict(layout.models / "other.pt", load_bundle(layout.folder).untrained_network().state_dict())
    assert "differ in" in two_paths_differ(opened(layout, config))[0]


def test_settings_of_0_1_in_plan_json_still_hold_and_are_named(
    layout: Layout, config: Any, caplog: pytest.LogCaptureFixture
) -> None:
    del config["inferer"]["mirror_axes"]
    text = layout.plan.read_text()
    plan = json.loads(text)
    plan["inference"]["mirror_axes"] = [0]
    layout.plan.write_text(json.dumps(plan))
    try:
        bundle = opened(layout, config)
        assert bundle.label_settings.mirror_axes == (0,)
        assert "inferer::mirror_axes=[0]" in caplog.text
        assert "differ in" in two_paths_differ(bundle)[0]  # MONAI does not mirror: bundle verify says so
    finally:
        layout.plan.write_text(text)


@pytest.mark.parametrize(
    ("section", "entry"),
    [
        ("preprocessing", {"_target_": "ScaleIntensityd", "keys": "image"}),
        ("postprocessing", {"_target_": "KeepLargestConnectedComponentd", "keys": "pred"}),
    ],
    ids=str,
)
def test_a_step_that_predict_does_not_do_is_refused_by_name(
    layout: Layout, config: Any, section: str, entry: Any
) -> None:
    config[section]["transforms"].append(entry)
    with pytest.raises(BundleError, match=entry["_target_"]):
        _ = opened(layout, config).label_settings


def test_an_argument_of_the_inferer_that_predict_does_not_know_is_refused(layout: Layout, config: Any) -> None:
    config["inferer"]["sigma_scale"] = 0.2
    with pytest.raises(BundleError, match="sigma_scale"):
        _ = opened(layout, config).label_settings


def test_mirroring_beyond_what_training_showed_is_refused(layout: Layout, config: Any) -> None:
    config["allowed_mirror_axes"] = [0]
    bundle = opened(layout, config)
    assert asked_settings(bundle, PredictOptions(mirror=(0,))).mirror_axes == (0,)
    with pytest.raises(ConfigError, match="allowed: x"):
        asked_settings(bundle, PredictOptions(mirror=(0, 1)))


def test_slices_take_both_paths_alike(tmp_path: Path) -> None:
    made = make_bundle(
        tmp_path / "flat", spatial_dims=2, roi_size=[32, 32], network={"preset": "mambavision", "size": "nano", "mixer": None},
        inference={"overlap": 0.5, "mirror_axes": [0]} | {"placement": "even", "accumulation": "nnunet"},
    )  # fmt: skip
    assert two_paths_differ(load_bundle(made.folder)) == []
