"""MONAI's components: transforms, networks and inferers that compute and do nothing else, with their arguments.

What reads, writes, fetches or runs (LoadImage, SaveImage, loaders, engines, handlers) is left undone: medseg reads the image,
loads the weights and writes the label itself. Names are those of the definitions in MONAI.
"""

from __future__ import annotations

from .kinds import ANYTHING, DEVICE, DTYPE, FALSE, FLAG, KEYS, LAYER, NUMBER, SIZE, Kind, either, parts, words
from .target import Target, allowed, undone

INTERPOLATION = either(words("bilinear", "nearest", "nearest-exact", "trilinear", "bicubic", "area", "linear"), NUMBER)
PADDING = either(
    words("zeros", "border", "reflection", "constant", "edge", "reflect", "replicate", "circular", "symmetric", "wrap"),
    NUMBER,
)
_UPSAMPLING = words("deconv", "deconvgroup", "nontrainable", "pixelshuffle")


# Words are only recognised: images are read through our own door.
_READER = either(parts("reader"), words("NibabelReader", "ITKReader", "PydicomReader", "PILReader", "NrrdReader"))


def step(**arguments: Kind) -> Target:
    """A transform of the data dictionary."""
    return allowed("transform", keys=KEYS, allow_missing_keys=FLAG, **arguments)


def net(**arguments: Kind) -> Target:
    """A network."""
    return allowed("network", in_channels=SIZE, out_channels=SIZE, spatial_dims=SIZE, **arguments)


def _unused(*names: str) -> Target:
    return undone("unused", **dict.fromkeys(names, ANYTHING))


def _file_step(*names: str) -> Target:
    return undone("transform", keys=KEYS, allow_missing_keys=FLAG, reader=_READER, **dict.fromkeys(names, ANYTHING))


_WINDOW = {
    "roi_size": NUMBER, "sw_batch_size": NUMBER, "overlap": NUMBER, "mode": words("constant", "gaussian"), "sigma_scale": NUMBER,
    "padding_mode": words("constant", "reflect", "replicate", "circular"), "cval": NUMBER, "sw_device": DEVICE,
    "device": DEVICE, "progress": FLAG, "cache_roi_weight_map": FLAG, "cpu_thresh": NUMBER,
}  # fmt: skip

INFERERS = {
    "monai.inferers.inferer": {
        "SimpleInferer": allowed("inferer"),
        "SlidingWindowInferer": allowed("inferer", **_WINDOW, buffer_steps=NUMBER, buffer_dim=NUMBER, with_coord=FLAG),
        "SliceInferer": allowed("inferer", spatial_dim=NUMBER, **_WINDOW),
    },
    "monai.apps.pathology.inferers.inferer": {
        "SlidingWindowHoVerNetInferer": allowed("inferer", **_WINDOW, extra_input_padding=NUMBER),
    },
}  # fmt: skip

NETWORKS = {
    "monai.networks.nets.unet": {
        "UNet": net(channels=SIZE, strides=SIZE, kernel_size=SIZE, up_kernel_size=SIZE, num_res_units=SIZE, act=LAYER,
                    norm=LAYER, dropout=SIZE, bias=FLAG, adn_ordering=words("NDA", "NAD", "DNA", "AND", "ADN", "NA", "A")),
    },
    "monai.networks.nets.basic_unet": {
        "BasicUNet": net(features=SIZE, act=LAYER, norm=LAYER, bias=FLAG, dropout=SIZE, upsample=_UPSAMPLING),
    },
    "monai.networks.nets.basic_unetplusplus": {
        "BasicUNetPlusPlus": net(features=SIZE, deep_supervision=FLAG, act=LAYER, norm=LAYER, bias=FLAG, dropout=SIZE,
                                 upsample=_UPSAMPLING),
    },
    "monai.networks.nets.segresnet": {
        "SegResNet": net(init_filters=SIZE, dropout_prob=SIZE, act=LAYER, norm=LAYER, num_groups=SIZE,
                         use_conv_final=FLAG, blocks_down=SIZE, blocks_up=SIZE, upsample_mode=_UPSAMPLING),
    },
    "monai.networks.nets.segresnet_ds": {
        "SegResNetDS": net(init_filters=SIZE, act=LAYER, norm=LAYER, blocks_down=SIZE, blocks_up=SIZE, dsdepth=SIZE,
                           upsample_mode=_UPSAMPLING, resolution=SIZE),
    },
    "monai.networks.nets.dynunet": {
        "DynUNet": net(kernel_size=SIZE, strides=SIZE, upsample_kernel_size=SIZE, filters=SIZE, dropout=SIZE,
                       norm_name=LAYER, act_name=LAYER, deep_supervision=FLAG, deep_supr_num=SIZE, res_block=FLAG,
                       trans_bias=FLAG),
    },
    "monai.networks.nets.swin_unetr": {
        "SwinUNETR": net(patch_size=SIZE, depths=SIZE, num_heads=SIZE, window_size=SIZE, qkv_bias=FLAG,
                         mlp_ratio=SIZE, feature_size=SIZE, norm_name=LAYER, drop_rate=SIZE, attn_drop_rate=SIZE,
                         dropout_path_rate=SIZE, normalize=FLAG, patch_norm=FLAG, use_checkpoint=FLAG,
                         downsample=words("merging", "mergingv2"), use_v2=FLAG),
    },
    "monai.networks.nets.unetr": {
        "UNETR": net(img_size=SIZE, feature_size=SIZE, hidden_size=SIZE, mlp_dim=SIZE, num_heads=SIZE,
                     proj_type=words("conv", "perceptron"), norm_name=LAYER, conv_block=FLAG, res_block=FLAG,
                     dropout_rate=SIZE, qkv_bias=FLAG, save_attn=FLAG),
    },
    "monai.networks.nets.vnet": {
        "VNet": net(act=LAYER, dropout_prob=SIZE, dropout_prob_down=SIZE, dropout_prob_up=SIZE, dropout_dim=SIZE,
                    bias=FLAG),
    },
    "monai.networks.nets.attentionunet": {
        "AttentionUnet": net(channels=SIZE, strides=SIZE, kernel_size=SIZE, up_kernel_size=SIZE, dropout=SIZE),
    },
    "monai.networks.nets.mednext": {
        "MedNeXt": net(init_filters=SIZE, encoder_expansion_ratio=SIZE, decoder_expansion_ratio=SIZE,
                       bottleneck_expansion_ratio=SIZE, kernel_size=SIZE, deep_supervision=FLAG,
                       use_residual_connection=FLAG, blocks_down=SIZE, blocks_bottleneck=SIZE, blocks_up=SIZE,
                       norm_type=words("group", "layer"), global_resp_norm=FLAG),
    },
    "monai.networks.nets.highresnet": {
        "HighResNet": net(norm_type=LAYER, acti_type=LAYER, dropout_prob=SIZE, bias=FLAG),
    },
    "monai.networks.nets.flexible_unet": {
        "FlexibleUNet": net(backbone=words(*(f"efficientnet-b{n}" for n in range(9)),
                                           *(f"resnet{n}" for n in (10, 18, 34, 50, 101, 152, 200))),
                            pretrained=FALSE, decoder_channels=SIZE, norm=LAYER, act=LAYER, dropout=SIZE,
                            decoder_bias=FLAG, upsample=_UPSAMPLING, interp_mode=words("nearest", "linear", "bilinear"),
                            is_pad=FLAG),
    },
    "monai.networks.nets.hovernet": {
        "HoVerNet": allowed("network", mode=words("fast", "original"), in_channels=SIZE, np_out_channels=SIZE,
                            out_classes=SIZE, act=LAYER, norm=LAYER, decoder_padding=FLAG, dropout_prob=SIZE,
                            adapt_standard_resnet=FLAG, freeze_encoder=FLAG),
    },
    "monai.networks.nets.generator": {
        "Generator": allowed("network", latent_shape=SIZE, start_shape=SIZE, channels=SIZE, strides=SIZE,
                             kernel_size=SIZE, num_res_units=SIZE, act=LAYER, norm=LAYER, dropout=SIZE, bias=FLAG),
    },
    "monai.networks.nets.senet": {
        "SEResNet50": allowed("network", layers=SIZE, groups=SIZE, reduction=SIZE, dropout_prob=SIZE,
                              inplanes=SIZE, downsample_kernel_size=SIZE, input_3x3=FLAG, pretrained=FALSE,
                              spatial_dims=SIZE, in_channels=SIZE, num_classes=SIZE),
    },
    "monai.networks.nets.densenet": {
        "DenseNet121": net(init_features=SIZE, growth_rate=SIZE, block_config=SIZE, pretrained=FALSE, bn_size=SIZE,
                           act=LAYER, norm=LAYER, dropout_prob=SIZE),
    },
}  # fmt: skip

_GRID = {"mode": INTERPOLATION, "align_corners": FLAG, "dtype": DTYPE, "lazy": FLAG}
_PAD = {"mode": PADDING, "method": words("symmetric", "end"), "lazy": FLAG, "constant_values": NUMBER, "value": NUMBER}

TRANSFORMS = {
    "monai.transforms.compose": {
        "Compose": allowed("transform", transforms=parts("transform"), map_items=FLAG, unpack_items=FLAG, lazy=FLAG),
    },
    "monai.transforms.utility.dictionary": {
        "EnsureTyped": step(data_type=words("tensor", "numpy"), dtype=DTYPE, device=DEVICE, wrap_sequence=FLAG, track_meta=FLAG),
        "ToTensord": step(dtype=DTYPE, device=DEVICE, wrap_sequence=FLAG, track_meta=FLAG),
        "ToNumpyd": step(dtype=DTYPE, wrap_sequence=FLAG),
        "EnsureChannelFirstd": step(strict_check=FLAG, channel_dim=either(NUMBER, words("no_channel"))),
        "AsChannelLastd": step(channel_dim=NUMBER),
        "CastToTyped": step(dtype=DTYPE),
        "SqueezeDimd": step(dim=NUMBER, update_meta=FLAG),
        "Transposed": step(indices=NUMBER),
        "RepeatChanneld": step(repeats=NUMBER),
        "Identityd": step(),
        "Lambdad": step(func=parts("function"), inv_func=parts("function"), track_meta=FLAG, overwrite=FLAG),
        "LabelToMaskd": step(select_labels=NUMBER, merge_channels=FLAG),
        "MapLabelValued": step(orig_labels=NUMBER, target_labels=NUMBER, dtype=DTYPE),
        "CopyItemsd": step(times=NUMBER, names=KEYS),
        "ConcatItemsd": step(name=KEYS, dim=NUMBER),
        "DeleteItemsd": allowed("transform", keys=KEYS, sep=KEYS),
        "SelectItemsd": step(),
        "FlattenSubKeysd": allowed("transform", keys=KEYS, sub_keys=KEYS, delete_keys=FLAG, prefix=KEYS),
    },
    "monai.transforms.meta_utility.dictionary": {"FromMetaTensord": step(data_type=words("tensor", "numpy"))},
    "monai.transforms.spatial.dictionary": {
        "Orientationd": step(axcodes=words("RAS", "LPS", "RAI", "LAS", "LPI", "RPI", "LAI", "RPS", "LSA", "PLI", "SRA", "IPL",
                                           "ASL", "SPL", "AIR", "ILP", "RSA", "PSR", "RA", "LP", "LA", "RP"),
                             as_closest_canonical=FLAG, lazy=FLAG),
        "Spacingd": step(pixdim=NUMBER, diagonal=FLAG, padding_mode=PADDING, scale_extent=FLAG, recompute_affine=FLAG,
                         min_pixdim=NUMBER, max_pixdim=NUMBER, ensure_same_shape=FLAG, **_GRID),
        "Resized": step(spatial_size=NUMBER, size_mode=words("all", "longest"), anti_aliasing=FLAG,
                        anti_aliasing_sigma=NUMBER, **_GRID),
        "Zoomd": step(zoom=NUMBER, padding_mode=PADDING, keep_size=FLAG, **_GRID),
        "Flipd": step(spatial_axis=NUMBER, lazy=FLAG),
        "Rotate90d": step(k=NUMBER, spatial_axes=NUMBER, lazy=FLAG),
    },
    "monai.transforms.intensity.dictionary": {
        "ScaleIntensityd": step(minv=NUMBER, maxv=NUMBER, factor=NUMBER, channel_wise=FLAG, dtype=DTYPE),
        "ScaleIntensityRanged": step(a_min=NUMBER, a_max=NUMBER, b_min=NUMBER, b_max=NUMBER, clip=FLAG, dtype=DTYPE),
        "ScaleIntensityRangePercentilesd": step(lower=NUMBER, upper=NUMBER, b_min=NUMBER, b_max=NUMBER, clip=FLAG,
                                                relative=FLAG, channel_wise=FLAG, dtype=DTYPE),
        "ClipIntensityPercentilesd": step(lower=NUMBER, upper=NUMBER, sharpness_factor=NUMBER, channel_wise=FLAG, dtype=DTYPE),
        "NormalizeIntensityd": step(subtrahend=NUMBER, divisor=NUMBER, nonzero=FLAG, channel_wise=FLAG, dtype=DTYPE),
        "ThresholdIntensityd": step(threshold=NUMBER, above=FLAG, cval=NUMBER),
        "ShiftIntensityd": step(offset=NUMBER, safe=FLAG),
        "AdjustContrastd": step(gamma=NUMBER, invert_image=FLAG, retain_stats=FLAG),
        "GaussianSmoothd": step(sigma=NUMBER, approx=words("erf", "sampled", "scalespace")),
        "MedianSmoothd": step(radius=NUMBER),
    },
    "monai.transforms.croppad.dictionary": {
        "CropForegroundd": step(source_key=KEYS, channel_indices=NUMBER, margin=NUMBER, allow_smaller=FLAG,
                                k_divisible=NUMBER, start_coord_key=KEYS, end_coord_key=KEYS, **_PAD),
        "SpatialPadd": step(spatial_size=NUMBER, **_PAD),
        "BorderPadd": step(spatial_border=NUMBER, **_PAD),
        "DivisiblePadd": step(k=NUMBER, **_PAD),
        "ResizeWithPadOrCropd": step(spatial_size=NUMBER, **_PAD),
        "CenterSpatialCropd": step(roi_size=NUMBER, lazy=FLAG),
        "SpatialCropd": step(roi_center=NUMBER, roi_size=NUMBER, roi_start=NUMBER, roi_end=NUMBER, lazy=FLAG),
    },
    "monai.transforms.post.dictionary": {
        "Activationsd": step(sigmoid=FLAG, softmax=FLAG, other=parts("function"), dim=NUMBER),
        "AsDiscreted": step(argmax=FLAG, to_onehot=NUMBER, threshold=NUMBER, rounding=words("torchrounding"), dim=NUMBER,
                            keepdim=FLAG, dtype=DTYPE),
        "Invertd": step(transform=parts("transform"), orig_keys=KEYS, meta_keys=KEYS, orig_meta_keys=KEYS,
                        meta_key_postfix=KEYS, nearest_interp=FLAG, to_tensor=FLAG, device=DEVICE,
                        post_func=parts("function")),
        "KeepLargestConnectedComponentd": step(applied_labels=NUMBER, is_onehot=FLAG, independent=FLAG, connectivity=NUMBER,
                                               num_components=NUMBER),
        "RemoveSmallObjectsd": step(min_size=NUMBER, connectivity=NUMBER, independent_channels=FLAG, by_measure=FLAG,
                                    pixdim=NUMBER),
        "FillHolesd": step(applied_labels=NUMBER, connectivity=NUMBER),
        "LabelFilterd": step(applied_labels=NUMBER),
        "SaveClassificationd": _file_step("meta_keys", "meta_key_postfix", "saver", "output_dir", "filename", "delimiter",
                                          "overwrite"),
    },
    "monai.transforms.io.dictionary": {
        "LoadImaged": _file_step("dtype", "meta_keys", "meta_key_postfix", "overwriting", "image_only",
                                 "ensure_channel_first", "simple_keys", "prune_meta_pattern", "prune_meta_sep", "converter"),
        "SaveImaged": _file_step("meta_keys", "meta_key_postfix", "output_dir", "output_postfix", "output_ext", "resample",
                                 "mode", "padding_mode", "scale", "dtype", "output_dtype", "squeeze_end_dims",
                                 "data_root_dir", "separate_folder", "print_log", "channel_dim", "output_format", "writer",
                                 "savepath_in_metadict"),
    },
    "monai.apps.nuclick.transforms": {
        "AddClickSignalsd": allowed("transform", image=KEYS, foreground=KEYS, bb_size=NUMBER, gaussian=FLAG, sigma=NUMBER,
                                    truncated=NUMBER, add_exclusion_map=FLAG),
    },
    "monai.apps.pathology.transforms.post.dictionary": {
        "HoVerNetInstanceMapPostProcessingd": allowed(
            "transform", nuclear_prediction_key=KEYS, hover_map_key=KEYS, instance_info_key=KEYS, instance_map_key=KEYS,
            activation=words("softmax", "sigmoid"), mask_threshold=NUMBER, min_object_size=NUMBER,
            sobel_kernel_size=NUMBER, marker_threshold=NUMBER, marker_radius=NUMBER, watershed_connectivity=NUMBER,
            min_num_points=NUMBER, contour_level=NUMBER, device=DEVICE),
        "HoVerNetNuclearTypePostProcessingd": allowed(
            "transform", type_prediction_key=KEYS, instance_info_key=KEYS, instance_map_key=KEYS, type_map_key=KEYS,
            activation=words("softmax", "sigmoid"), threshold=NUMBER, return_type_map=FLAG, device=DEVICE),
    },
}  # fmt: skip

_LOADER = ("dataset", "batch_size", "num_workers", "shuffle", "collate_fn", "pin_memory", "drop_last", "persistent_workers",
           "prefetch_factor", "sampler", "multiprocessing_context")  # fmt: skip
_ENGINE = ("device", "val_data_loader", "network", "inferer", "epoch_length", "non_blocking", "prepare_batch",
           "iteration_update", "postprocessing", "key_val_metric", "additional_metrics", "metric_cmp_fn", "val_handlers",
           "amp", "mode", "decollate", "amp_kwargs", "compile", "to_kwargs")  # fmt: skip

RUNS = {
    "torch": {"device": allowed("device", device=DEVICE)},
    "monai.data.dataset": {
        "Dataset": _unused("data", "transform"),
        "CacheDataset": _unused("data", "transform", "cache_num", "cache_rate", "num_workers", "progress"),
    },
    "monai.data.dataloader": {"DataLoader": _unused(*_LOADER)},
    "monai.data.thread_buffer": {"ThreadDataLoader": _unused(*_LOADER, "buffer_size", "buffer_timeout", "repeats")},
    "monai.engines.evaluator": {"SupervisedEvaluator": _unused(*_ENGINE)},
    "monai.handlers.checkpoint_loader": {
        "CheckpointLoader": _unused("load_path", "load_dict", "name", "map_location", "strict", "strict_shape", "weights_only"),
    },
    "monai.handlers.stats_handler": {
        "StatsHandler": _unused("iteration_log", "epoch_log", "output_transform", "tag_name", "name", "key_var_format",
                                "iteration_print_logger", "epoch_print_logger", "state_attributes"),
    },
    "monai.handlers.metrics_saver": {
        "MetricsSaver": _unused("save_dir", "metrics", "metric_details", "batch_transform", "summary_ops", "save_rank",
                                "delimiter", "output_type"),
    },
    "monai.handlers.mean_dice": {
        "MeanDice": _unused("include_background", "reduction", "num_classes", "output_transform", "save_details",
                            "return_with_label"),
    },
}  # fmt: skip

MONAI: dict[str, Target] = {
    f"{module}.{name}": target
    for group in (INFERERS, NETWORKS, TRANSFORMS, RUNS)
    for module, names in group.items()
    for name, target in names.items()
}
