"""A bundle in the model zoo's layout, not written by medseg, predicts what `monai.bundle` predicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg.commands.predict import predict_bundle
from medseg.errors import ConfigError
from medseg.inference.settings import PredictOptions
from medseg.io import Header, read_header, read_label, write_image

NETWORK = {
    "_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 3,
    "channels": [4, 8], "strides": [2], "norm": "instance",
}  # fmt: skip


def zoo_config(*, inverts: bool = True) -> dict:
    """The keys and steps that spleen_ct_segmentation and its kin have."""
    before = [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
        {"_target_": "Spacingd", "keys": "image", "pixdim": [1.5, 1.5, 2.0], "mode": "bilinear"},
        {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -3, "a_max": 3, "b_min": 0, "b_max": 1, "clip": True},
        {"_target_": "EnsureTyped", "keys": "image"},
    ]  # fmt: skip
    invert = {
        "_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image",
        "nearest_interp": False, "to_tensor": True,
    }  # fmt: skip
    save = {
        "_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "separate_folder": False,
        "output_postfix": "", "output_dtype": "uint8", "resample": False, "print_log": False,
    }  # fmt: skip
    after = [
        {"_target_": "Activationsd", "keys": "pred", "softmax": True},
        *([invert] if inverts else []),
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
        save,
    ]
    return {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": ".",
        "datalist": "$list(sorted(glob.glob(@dataset_dir + '/*.nii.gz')))",
        "device": "$torch.device('cpu')",
        "network_def": NETWORK,
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": before},
        "dataset": {"_target_": "Dataset", "data": "$[{'image': i} for i in @datalist]", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16], "sw_batch_size": 2, "overlap": 0.5},
        "postprocessing": {"_target_": "Compose", "transforms": after},
        "handlers": [
            {"_target_": "CheckpointLoader", "load_path": "$@bundle_root + '/models/model.pt'", "load_dict": {"model": "@network"}}
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator", "device": "@device", "val_data_loader": "@dataloader", "network": "@network",
            "inferer": "@inferer", "postprocessing": "@postprocessing", "val_handlers": "@handlers",
        },
        "run": ["$@evaluator.run()"],
    }  # fmt: skip


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "zoo_bundle"
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    names = {"0": "background", "1": "spleen", "2": "tumour"}
    tensor = {
        "type": "image",
        "format": "hounsfield",
        "num_channels": 1,
        "spatial_shape": [16, 16, 16],
        "dtype": "float32",
    }
    formats = {"inputs": {"image": tensor}, "outputs": {"pred": {**tensor, "num_channels": 3, "channel_def": names}}}
    metadata = {
        "version": "0.1.0", "monai_version": "1.6.1", "pytorch_version": "2.11", "numpy_version": "2.0",
        "required_packages_version": {}, "task": "t", "description": "d", "authors": "a", "copyright": "c",
        "network_data_format": formats,
    }  # fmt: skip
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    (folder / "configs" / "inference.json").write_text(json.dumps(zoo_config()))
    torch.manual_seed(0)
    from monai.networks.nets import UNet

    network = UNet(**{key: value for key, value in NETWORK.items() if key != "_target_"})
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    affine = np.array([[-1.0, 0.1, 0, 7], [0.1, 1.0, 0, -3], [0, 0, 2.5, 11], [0, 0, 0, 1]])
    affine[:3, :2] /= np.linalg.norm(affine[:3, 0])
    from scipy.ndimage import gaussian_filter

    array = gaussian_filter(np.random.default_rng(0).normal(size=(40, 33, 14)), 2).astype(np.float32) * 12
    path = tmp_path / "scans" / "patient.nii.gz"
    write_image(path, array, Header.of_array(array.shape, affine))
    return path


@pytest.mark.parametrize("inverts", [True, False], ids=["Invertd", "without Invertd"])
def test_a_zoo_bundle_predicts_what_monai_predicts(
    bundle: Path, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inverts: bool
) -> None:
    (bundle / "configs" / "inference.json").write_text(json.dumps(zoo_config(inverts=inverts)))
    result = predict_bundle(bundle, scan, tmp_path / "ours", preview=False)
    assert [case.status for case in result.cases] == ["done"]
    if inverts:  # once as users run it: in a child process, which sends its results and progress
        told: list[Any] = []
        monkeypatch.delenv("MEDSEG_FOREIGN")
        again = predict_bundle(
            bundle, scan, tmp_path / "child", preview=False, progress=lambda *facts: told.append(facts),
            finished=lambda *facts: told.append(facts),
        )  # fmt: skip
        assert told == [("patient", 1, 1), (again.cases[0], 1, 1)]
        assert (again.cases[0].status, again.cases[0].outputs) == ("done", result.cases[0].outputs)
        labels = [read_label(tmp_path / name / "patient.nii.gz").array for name in ("ours", "child")]
        np.testing.assert_array_equal(*labels)
    ours, source = read_label(tmp_path / "ours" / "patient.nii.gz"), read_header(scan)
    np.testing.assert_array_equal(ours.affine, source.affine)
    assert len(np.unique(ours.array)) == 3
    if not inverts:
        return
    from monai.bundle import run

    run(
        config_file=str(bundle / "configs" / "inference.json"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        bundle_root=str(bundle),
        dataset_dir=str(scan.parent),
        output_dir=str(tmp_path / "monai"),
    )
    theirs = read_label(next((tmp_path / "monai").rglob("*.nii.gz")))
    assert (ours.array == theirs.array).mean() >= 0.9999
    assert {row["name"] for row in result.cases[0].measures} == {"spleen", "tumour"}


def test_options_of_our_own_bundles_are_refused(bundle: Path, scan: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"set overlap, mirroring and precision in its inference\.json"):
        predict_bundle(bundle, scan, tmp_path / "ours", options=PredictOptions(overlap=0.25))


def test_overlapping_labels_are_refused_by_name() -> None:
    from monai.inferers import SimpleInferer
    from monai.transforms import Compose

    from medseg.errors import BundleError
    from medseg.inference.foreign import MonaiSegmenter

    made = MonaiSegmenter(torch.nn.Identity(), Compose([]), Compose([]), SimpleInferer(), device=torch.device("cpu"))
    regions = np.zeros((2, 3, 3, 3))
    regions[0, 0] = 1
    regions[1, 1] = 1
    assert made._one_label(regions).max() == 2
    regions[1, 0] = 1
    with pytest.raises(BundleError, match="overlap"):
        made._one_label(regions)
