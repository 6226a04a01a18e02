"""For every target of the table that medseg builds: arguments with which it can be built and used."""

from __future__ import annotations

from typing import Any

NET = {"in_channels": 1, "out_channels": 2, "spatial_dims": 3}
LABELS = {"0": "background", "1": "organ"}

# Components that others are given, by id; `@NAME` below stands for one of them.
DENOISER = {"_target_": "medseg.components.build_diffit", "sigma_data": 1.0, "width": 16, "multiples": [1]}
PARTS: dict[str, Any] = {
    "network": {"_target_": "UNet", **NET, "channels": [2, 4], "strides": [2]},
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [8, 8, 8]},
    "steps": {"_target_": "Compose", "transforms": [{"_target_": "Identityd", "keys": "image"}]},
    "preprocessing": {
        "_target_": "medseg.components.Preprocessing",
        "spacing": [1, 1, 1],
        "normalization": [{"kind": "zscore"}],
    },
    "dataset": {
        "_target_": "medseg.components.TrainingDataset",
        "preprocessing": "@preprocessing",
        "labels": LABELS,
        "roi_size": [8, 8, 8],
        "samples_per_epoch": 2,
    },
    "validation": {
        "_target_": "medseg.components.ValidationDataset",
        "preprocessing": "@preprocessing",
        "labels": LABELS,
    },
    "function": "$lambda x: x[1:]",
}

# Arguments that a target needs, by their name; then by target, where one name is not enough.
BY_NAME: dict[str, Any] = {
    "keys": "image", "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "roi_size": [8, 8, 8], "pixdim": [1, 1, 2],
    "spatial_size": [8, 8, 8], "zoom": 1.5, "indices": [0, 2, 1, 3], "repeats": 2, "func": "@function", "select_labels": 1,
    "orig_labels": [0, 1], "target_labels": [1, 0], "name": "both", "a_min": 0, "a_max": 1, "lower": 5, "upper": 95,
    "b_min": 0, "b_max": 1, "threshold": 0.5, "offset": 1, "gamma": 2, "sigma": 1, "radius": 1, "source_key": "image",
    "spatial_border": 1, "k": 4, "applied_labels": [1], "transform": "@steps", "preprocessing": "@preprocessing",
    "labels": LABELS, "samples_per_epoch": 2, "inferer": "@inferer", "network": "@network", "train_dataset": "@dataset",
    "validation_dataset": "@validation", "batch_size": 1, "max_epochs": 1, "seed": 0, "spacing": [1, 1, 1],
    "normalization": [{"kind": "zscore"}], "img_size": [16, 16, 16], "backbone": "resnet10", "trainer": None, "module": None,
    "data": None, "device": "cpu", "bundle_root": "@bundle_root",
}  # fmt: skip
BY_TARGET: dict[str, dict[str, Any]] = {
    "AveragedNetwork": {"networks": [{"_target_": "UNet", **NET, "channels": [2, 4], "strides": [2]}]},
    "UNet": {"channels": [2, 4], "strides": [2]},
    "AttentionUnet": {"channels": [2, 4], "strides": [2]},
    "BasicUNet": {**NET, "features": [2, 2, 2, 2, 2, 2]},
    "BasicUNetPlusPlus": {**NET, "features": [2, 2, 2, 2, 2, 2]},
    "SegResNet": {**NET, "init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]},
    "SegResNetDS": {**NET, "init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]},
    "DynUNet": {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [2, 4, 8]},
    "SwinUNETR": {"feature_size": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1], "window_size": 2},
    "UNETR": {"feature_size": 2, "hidden_size": 12, "mlp_dim": 12, "num_heads": 2},
    "VNet": {"spatial_dims": 3, "in_channels": 1, "out_channels": 2},
    "MedNeXt": {**NET, "init_filters": 4, "blocks_down": [1, 1], "blocks_bottleneck": 1, "blocks_up": [1, 1],
                "encoder_expansion_ratio": 1, "decoder_expansion_ratio": 1, "bottleneck_expansion_ratio": 1},
    "HighResNet": NET,
    "FlexibleUNet": {"spatial_dims": 2, "decoder_channels": [8, 8, 8, 8, 8], "in_channels": 1},
    "HoVerNet": {"in_channels": 3, "out_classes": 2, "mode": "fast"},
    "Generator": {"latent_shape": [4], "start_shape": [2, 4, 4], "channels": [2, 1], "strides": [2, 1]},
    "SEResNet50": {"spatial_dims": 2, "in_channels": 1, "num_classes": 2, "layers": [1, 1, 1, 1]},
    "DenseNet121": {"init_features": 4, "growth_rate": 2, "block_config": [1, 1], "bn_size": 1},
    "build_network": {**NET, "preset": "mambavision", "size": "nano"},
    "build_split_network": {**NET, "preset": "mambavision", "sites": {"a": 1}, "sent": {"a": [0, 1, 2, 3, 4]}},
    "build_segresnet_ds": {**NET, "init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]},
    "build_nnunet": {
        "network_class": "PlainConvUNet",
        "arguments": {
            "n_stages": 2, "features_per_stage": [2, 4], "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * 2, "strides": [[1, 1, 1], [2, 2, 2]], "n_conv_per_stage": [1, 1],
            "n_conv_per_stage_decoder": [1], "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None, "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
        },
    },
    "NnunetPreprocessing": {"masked": [False], "intensities": {}, "normalization": ["ZScoreNormalization"]},
    "PostprocessLabeld": {"steps": []},
    "RestoreLabeld": {"labels": [0, 2]},
    "SliceInferer": {"roi_size": [8, 8], "spatial_dim": 2},
    "SpatialCropd": {"roi_start": [0, 0, 0], "roi_end": [4, 4, 4]},
    "SelectItemsd": {"keys": "image"},
    "Orientationd": {"axcodes": "RAS"},
    "FlattenSubKeysd": {"keys": "table"},
    "CopyItemsd": {"times": 1, "names": "copy"},
    "ConcatItemsd": {"keys": ["image", "pred"], "dim": 0},
    "SlidingWindowInferer": {"overlap": 0.25},
    "TrainingDataset": {"roi_size": [8, 8, 8], "labels": LABELS},
    "DiffusionModule": {"network": DENOISER, "labels": LABELS, "roi_size": [8, 8, 8]},
    "build_diffit": {"sigma_data": 1.0, "width": 16, "multiples": [1]},
    "make_trainer": {"tracking": False, "device": "cpu"},
    "choose_device": {"name": "cpu"},
    "LabelToMaskd": {"keys": "pred"},
    "LabelFilterd": {"keys": "pred"},
    "FillHolesd": {"keys": "pred"},
}  # fmt: skip


def sound_arguments(name: str, row_arguments: Any, required: set[str]) -> dict[str, Any]:
    """Arguments of a target: its own, and those it needs that every target of the name takes alike."""
    own = BY_TARGET.get(name, {})
    return {**{key: BY_NAME[key] for key in required if key in BY_NAME and key in row_arguments}, **own}
