"""Models and cases in nnU-Net's own layout, with random weights, for prediction_nnunet.py."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from prediction_phantom import LOWER, UPPER, phantom, train

from medseg.networks.imported.nnunet import build_nnunet

MODULE = "dynamic_network_architectures.architectures.unet."


RESAMPLING = {"order_z": 0, "force_separate_z": None}


@dataclass(frozen=True)
class Model:
    """One trained nnU-Net folder and the volumes it is applied to.

    Args:
        name: of the row.
        kind: class of the network.
        spacing: of the configuration, along the network's axes.
        patch: window, along the network's axes.
        shape, source: voxels and mm of the volume (X, Y, Z).
        scheme: normalization; `masked` for statistics inside the nonzero region.
        transpose: `transpose_forward`.
        folds: how many are trained and averaged.
        margin: voxels of zeros round the volume, which nnU-Net cuts off.
        features: width of each stage.
    """

    name: str
    kind: str = "PlainConvUNet"
    spacing: tuple[float, ...] = (1.5, 1.5, 1.5)
    patch: tuple[int, ...] = (48, 48, 48)
    shape: tuple[int, ...] = (120, 110, 70)
    source: tuple[float, ...] = (0.9, 0.9, 1.5)
    scheme: str = "CTNormalization"
    masked: bool = False
    transpose: tuple[int, ...] = (0, 1, 2)
    folds: int = 1
    margin: int = 0
    classes: int = 8
    features: tuple[int, ...] = (8, 16, 32)
    oblique: bool = False
    steps: int = 30
    kernels: tuple[tuple[int, ...], ...] = ((3, 3, 3),) * 3
    strides: tuple[tuple[int, ...], ...] = ((1, 1, 1), (2, 2, 2), (2, 2, 2))


MODELS = (
    Model("CT, isotropic"),
    Model("CT, residual encoder", kind="ResidualEncoderUNet"),
    Model("CT, thick slices", spacing=(4.0, 0.8, 0.8), source=(0.7, 0.7, 5.0), shape=(130, 120, 20), patch=(16, 64, 64),
          kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)), strides=((1, 1, 1), (1, 2, 2), (2, 2, 2))),
    Model("MR, masked z-score, zeros around, oblique", scheme="ZScoreNormalization", masked=True, margin=9,
          source=(1.1, 1.0, 1.2), shape=(120, 126, 110), spacing=(1.0, 1.0, 1.0), oblique=True),
    Model("CT, axes permuted", transpose=(2, 0, 1), source=(1.5, 0.8, 0.8), shape=(60, 120, 120)),
    Model("CT, two folds", folds=2),
    Model("CT, smaller than the window", shape=(60, 50, 30), source=(1.2, 1.2, 2.0)),
    Model("CT, four to three along thick slices", spacing=(4.0, 1.0, 1.0), source=(1.0, 1.0, 3.0),
          shape=(120, 110, 48), patch=(16, 64, 64),
          kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)), strides=((1, 1, 1), (1, 2, 2), (2, 2, 2))),
)  # fmt: skip


def architecture(model: Model) -> dict[str, Any]:
    """`architecture` of a plans file."""
    stages = len(model.features)
    arguments = {
        "n_stages": stages, "features_per_stage": list(model.features), "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [list(k) for k in model.kernels], "strides": [list(s) for s in model.strides],
        "n_conv_per_stage_decoder": [2] * (stages - 1), "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None, "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
    }  # fmt: skip
    blocks = "n_blocks_per_stage" if model.kind == "ResidualEncoderUNet" else "n_conv_per_stage"
    arguments[blocks] = [2] * stages
    wanted = ["conv_op", "norm_op", "dropout_op", "nonlin"]
    return {"network_class_name": MODULE + model.kind, "arch_kwargs": arguments, "_kw_requires_import": wanted}


def plans(model: Model) -> dict[str, Any]:
    """plans.json, with nnU-Net's default resampling."""
    facts = {"mean": 50.0, "std": 300.0, "percentile_00_5": LOWER, "percentile_99_5": UPPER, "min": -1000.0,
             "max": 1500.0, "median": 0.0}  # fmt: skip
    default = "resample_data_or_seg_to_shape"
    resampling: dict[str, Any] = {}
    for what, order, is_seg in (("data", 3, False), ("seg", 1, True), ("probabilities", 1, False)):
        resampling[f"resampling_fn_{what}"] = default
        resampling[f"resampling_fn_{what}_kwargs"] = {"is_seg": is_seg, "order": order, **RESAMPLING}
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2,
        "patch_size": list(model.patch), "median_image_size_in_voxels": list(model.patch),
        "spacing": list(model.spacing), "normalization_schemes": [model.scheme],
        "use_mask_for_norm": [model.masked], "architecture": architecture(model), "batch_dice": False, **resampling,
    }  # fmt: skip
    back = [model.transpose.index(axis) for axis in range(3)]
    return {
        "dataset_name": "Dataset001_Phantom", "plans_name": "nnUNetPlans", "label_manager": "LabelManager",
        "original_median_spacing_after_transp": list(model.spacing), "experiment_planner_used": "ExperimentPlanner",
        "original_median_shape_after_transp": list(model.patch), "image_reader_writer": "SimpleITKIO",
        "transpose_forward": list(model.transpose), "transpose_backward": back,
        "configurations": {"3d_fullres": configuration}, "foreground_intensity_properties_per_channel": {"0": facts},
    }  # fmt: skip


def normalized(model: Model) -> Any:
    """HU -> what the network is trained on; the z-score of a whole phantom is near enough to this."""
    shift, scale = (50.0, 300.0) if model.scheme == "CTNormalization" else (0.0, 250.0)
    return lambda hu: ((np.clip(hu, LOWER, UPPER) - shift) / scale).astype(np.float32)


def make_model(model: Model, results: Path) -> Path:
    """Train and write what nnU-Net leaves in its results folder; returns the trained folder."""
    folder = results / "Dataset001_Phantom" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    if (folder / "plans.json").is_file():
        return folder
    for fold in range(model.folds):
        torch.manual_seed(fold)
        network = build_nnunet(model.kind, architecture(model)["arch_kwargs"], 1, model.classes)
        axes = [2 - axis for axis in model.transpose]
        options = {"steps": model.steps, "classes": model.classes, "axes": axes}
        train(network, normalized(model), model.spacing, model.patch, **options)
        state = network.state_dict()
        twice = {f"decoder.{key}": value for key, value in state.items() if key.startswith("encoder.")}
        checkpoint = {
            "network_weights": {**with_all_modules(state), **with_all_modules(twice)},
            "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": "3d_fullres"}, "inference_allowed_mirroring_axes": (0, 1, 2),
        }  # fmt: skip
        (folder / f"fold_{fold}").mkdir(parents=True, exist_ok=True)
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    labels = {"background": 0, **{f"organ {k}": k for k in range(1, model.classes)}}
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 3, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(dataset))
    (folder / "plans.json").write_text(json.dumps(plans(model)))
    return folder


def with_all_modules(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """nnU-Net's blocks hold their layers a second time, as `all_modules.0` (convolution) and `.1` (norm)."""
    twice = {}
    for key, value in state.items():
        for part, number in ((".conv.", 0), (".norm.", 1)):
            if part in key:
                twice[key.replace(part, f".all_modules.{number}.")] = value
    return {**state, **twice}


def make_case(model: Model, folder: Path) -> Path:
    """The volume, as nnU-Net names it."""
    hu, _ = phantom(model.shape, model.source, classes=model.classes)
    if model.margin:
        zeros = np.zeros_like(hu)
        inner = tuple(slice(model.margin, -model.margin) for _ in range(3))
        zeros[inner] = np.where(hu[inner] == 0, 1, hu[inner])
        hu = zeros
    affine = np.diag([-model.source[0], -model.source[1], model.source[2], 1.0])
    if model.oblique:
        c, s = np.cos(0.2), np.sin(0.2)
        affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ affine[:3, :3]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "case_0000.nii.gz"
    nibabel.save(nibabel.Nifti1Image(hu, affine), path)
    return path
