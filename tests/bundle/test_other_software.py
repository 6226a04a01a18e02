"""What MONAI Label and MONAI Deploy read from a bundle, restated: the same steps in the same order, on our files.

Restated from their public sources (MONAI Label's bundle inference and training tasks, the Deploy SDK's bundle operator);
their own packages pin older versions of numpy and are not installed here. docs/bundles-elsewhere.md records a run of
their own code on the shipped bundles.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged, MapTransform, Resize, SaveImaged

from medseg.bundle.load import load_bundle
from medseg.bundle.weights import read_state_dict
from medseg.layout import Layout
from tests.bundle.samples import make_bundle
from tests.bundle.shipped import each_shipped
from tests.bundle.test_monai import predicted_by_hand


def label_server_config(layout: Layout, options: dict[str, Any] | None = None) -> ConfigParser:
    """The file as the server holds it: root and device set, options of the user put into displayable_configs."""
    parser = ConfigParser()
    parser.read_config(str(layout.inference))
    parser.config.update({"bundle_root": str(layout.folder), "device": "cpu"})
    shown = parser.get_parsed_content("displayable_configs", instantiate=True)
    assert all(isinstance(value, (int, float, str, bool)) for value in shown.values())  # shown as plain options
    parser["displayable_configs"].update({key: (options or {}).get(key, value) for key, value in shown.items()})
    parser.parse()
    return parser


def restored(data: dict[str, Any]) -> dict[str, Any]:
    """The step that the server appends: back to the source's size by nearest neighbour, its affine into the meta data."""
    meta = data["image"].meta
    result = data["pred"]
    wanted = meta["spatial_shape"][-3:]
    if np.any(np.not_equal(result.shape[1:], wanted)):
        result = Resize(spatial_size=wanted, mode="nearest")(result)
    return {**data, "pred": result[0], "pred_meta_dict": {"affine": meta["original_affine"]}}


def test_label_server_gets_the_same_labels(bundle_and_data: tuple[Layout, Path]) -> None:
    """It drops SaveImaged and appends its own way back: ours has been there already, so nothing may change again."""
    layout, data = bundle_and_data
    parser = label_server_config(layout)
    network = parser.get_parsed_content("network_def", instantiate=True)
    network.load_state_dict(torch.load(layout.weights, weights_only=True))
    network.eval()
    path = data / "images" / "case1.nii.gz"
    item: dict[str, Any] = {"image": str(path)}
    for step in parser.get_parsed_content("preprocessing", instantiate=True).transforms:
        item = step(item)
    inferer = parser.get_parsed_content("inferer", instantiate=True)
    with torch.no_grad():
        item["pred"] = inferer(item["image"][None], network)[0]
    post = parser.get_parsed_content("postprocessing", instantiate=True)
    assert isinstance(post, Compose)
    steps = [step for step in post.transforms if not isinstance(step, SaveImaged)]
    assert len(steps) == len(post.transforms) - 1
    for step in steps:
        item = step(item)
    before = np.asarray(item["pred"])[0]
    item = restored(item)
    np.testing.assert_array_equal(np.asarray(item["pred"]), before)
    np.testing.assert_array_equal(before, predicted_by_hand(layout, path))
    np.testing.assert_allclose(np.asarray(item["pred_meta_dict"]["affine"]), nibabel.load(path).affine, atol=1e-6)


def test_label_server_options_reach_the_window(bundle_and_data: tuple[Layout, Path]) -> None:
    parser = label_server_config(bundle_and_data[0], {"overlap": 0.25, "sw_batch_size": 2})
    inferer = parser.get_parsed_content("inferer", instantiate=True)
    assert inferer.overlap in (0.25, (0.25,) * 3)
    assert inferer.sw_batch_size == 2


def test_label_server_finds_its_labels(bundle_and_data: tuple[Layout, Path]) -> None:
    formats = json.loads(bundle_and_data[0].metadata.read_text())["network_data_format"]
    key_image, image = next(iter(formats["inputs"].items()))
    key_pred, pred = next(iter(formats["outputs"].items()))
    assert (key_image, key_pred, len(image["spatial_shape"])) == ("image", "pred", 3)
    labels = {name.lower(): int(channel) for channel, name in pred["channel_def"].items()}
    labels.pop("background")
    assert labels == {"anterior": 1, "posterior": 2}


def test_label_server_trains_from_its_own_list_and_weights(tmp_path: Path) -> None:
    """It gives lists of files, and a checkpoint loader in train#handlers; the result must be models/model.pt."""
    layout = make_bundle(tmp_path / "tiny_mr_unet", tmp_path / "data")
    start = read_state_dict(layout.weights)
    files = [
        {"image": str(path), "label": str(path.parents[1] / "labels" / path.name)}
        for path in sorted((tmp_path / "data" / "images").iterdir())
    ]
    loader = {
        "_target_": "CheckpointLoader",
        "load_path": str(layout.weights),
        "load_dict": {"model": "$@network"},
        "strict": False,
    }
    overrides: dict[str, Any] = {
        "bundle_root": str(layout.folder),
        "train#trainer#max_epochs": 1,
        "train#dataset#data": files[:2],
        "validate#dataset#data": files[2:],
        "device": "cpu",
        "train#handlers": [loader],
        "train#module#learning_rate": 1e-12,  # so small that the result is what was loaded
    }
    layout.splits.write_text("[]")  # nothing may be taken from here
    monai.bundle.run(
        run_id="run",
        init_id=None,
        final_id=None,
        meta_file=str(layout.metadata),
        config_file=str(layout.train),
        **overrides,
    )
    result = read_state_dict(layout.weights)
    for name, value in start.items():
        torch.testing.assert_close(result[name], value, atol=1e-5, rtol=1e-5)
    manifest = json.loads((layout.run_folder(0) / "manifest.json").read_text())
    assert (manifest["training_cases"], manifest["validation_cases"]) == (2, 1)


@pytest.mark.parametrize("source", ["folder", "torchscript"])
def test_deploy_operator_predicts_from_memory(
    source: str, bundle_and_data: tuple[Layout, Path], tmp_path: Path
) -> None:
    """It drops every Load* and Save* step and hands an image in memory to the rest; configuration from .ts or folder."""
    layout, data = bundle_and_data
    parser = ConfigParser()
    if source == "torchscript":
        target = tmp_path / "model.ts"
        monai.bundle.ckpt_export(
            "network_def",
            filepath=str(target),
            ckpt_file=str(layout.weights),
            meta_file=str(layout.metadata),
            config_file=str(layout.inference),
        )
        extra = {"inference.json": "", "metadata.json": ""}
        network: Any = torch.jit.load(str(target), _extra_files=extra)
        parser.read_config(json.loads(extra["inference.json"]))
        assert json.loads(extra["metadata.json"])["network_data_format"]["inputs"]["image"]["num_channels"] == 1
    else:
        parser.read_config(str(layout.inference))
        network = parser.get_parsed_content("network_def", instantiate=True)
        network.load_state_dict(torch.load(layout.weights, weights_only=True))
    parser.config.update({"bundle_root": str(layout.folder), "device": "cpu"})
    parser.parse()

    def kept(key: str) -> Compose:
        steps = parser.get_parsed_content(key).transforms
        return Compose([step for step in steps if not type(step).__name__.lower().startswith(("load", "save"))])

    path = data / "images" / "case2.nii.gz"
    loaded = LoadImaged("image")({"image": str(path)})["image"]
    image = MetaTensor(loaded.as_tensor(), affine=loaded.affine)
    image.meta["original_channel_dim"] = float("nan")  # no channel, as the operator says it
    item = kept("preprocessing")({"image": image})
    with torch.no_grad():
        item["pred"] = parser.get_parsed_content("inferer")(item["image"][None], network.eval())[0]
    label = np.asarray(kept("postprocessing")(item)["pred"])[0]
    agreement = np.mean(label == predicted_by_hand(layout, path))
    assert agreement >= 0.9999


def test_folder_name_does_not_change_the_kind_of_task(bundle_and_data: tuple[Layout, Path]) -> None:
    """Words in a folder's name set the task in MONAI Label; none of its special ones stands in ours."""
    name = load_bundle(bundle_and_data[0].folder).name
    assert not any(word in name for word in ("detection", "deepedit", "deepgrow", "classification"))


@each_shipped
def test_shipped_bundles_have_what_each_loader_reads(layout: Layout) -> None:
    """The table of docs/bundles-elsewhere.md, key by key."""
    raw = json.loads(layout.inference.read_text())
    for key in ("bundle_root", "device", "network_def", "network", "preprocessing", "postprocessing", "inferer"):
        assert key in raw, key
    parser = label_server_config(layout)
    weights = torch.load(layout.weights, weights_only=True)
    for key in ("network_def", "network"):
        parser.get_parsed_content(key).load_state_dict(weights, strict=True)
    for key in ("preprocessing", "postprocessing"):
        steps = parser.get_parsed_content(key)
        assert isinstance(steps, Compose)
        assert all(isinstance(step, MapTransform) for step in steps.transforms)
    formats = json.loads(layout.metadata.read_text())["network_data_format"]
    assert (next(iter(formats["inputs"])), next(iter(formats["outputs"]))) == ("image", "pred")
    names = next(iter(formats["outputs"].values()))["channel_def"]
    assert list(names) == [str(number) for number in range(len(names))]
    assert names["0"] == "background"
    assert not (layout.models / "model.ts").exists()  # Deploy would take it instead of model.pt
    words = ("detection", "deepedit", "deepgrow", "classification")
    assert not any(word in layout.folder.name for word in words)
