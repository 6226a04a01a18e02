"""Our own components: their arguments. What only MONAI's commands run (lists of files, metrics) is left undone by medseg."""

from __future__ import annotations

from .kinds import (
    ANYTHING,
    COUNT,
    DATA,
    DEVICE,
    FLAG,
    KEYS,
    NAME,
    NOTHING,
    NUMBER,
    SIZE,
    TEXT,
    either,
    parts,
    setting,
    words,
)
from .target import Target, allowed, undone

_SOURCE = {
    "data": DATA, "dataset_dir": TEXT, "bundle_root": setting("bundle_root"), "fold": NUMBER, "ignore_label": NUMBER,
    "missing_channels": words("error", "zero"),
}  # fmt: skip

# What `**trainer_settings` of make_trainer may be; Lightning's loggers, profilers, plugins and folders are not among them.
_LIGHTNING = {
    **dict.fromkeys(
        ("accumulate_grad_batches", "limit_train_batches", "limit_val_batches", "log_every_n_steps", "max_steps", "min_epochs",
         "num_sanity_val_steps", "overfit_batches"), NUMBER,
    ),
    "num_nodes": COUNT,
    **dict.fromkeys(
        ("benchmark", "detect_anomaly", "deterministic", "enable_checkpointing", "enable_model_summary", "enable_progress_bar",
         "fast_dev_run", "sync_batchnorm", "use_distributed_sampler"), FLAG,
    ),
}  # fmt: skip

# Lightning's words that start no other package
_STRATEGY = words("auto", "ddp", "fsdp2", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false", "fsdp")
_PRECISION = words(
    "auto", "16-mixed", "bf16-mixed", "32-true", "64-true", "16-true", "bf16-true", "16", "bf16", "32", "64"
)

TRAINING: dict[str, Target] = {
    "FusionDataset": allowed(
        "dataset", preprocessing=parts("preprocessing"), labels=DATA, roi_size=NUMBER, samples_per_epoch=NUMBER,
        augmentation=DATA, seed=NUMBER, **_SOURCE,
    ),
    "FusionValidation": allowed(
        "dataset", preprocessing=parts("preprocessing"), labels=DATA, roi_size=NUMBER, **_SOURCE
    ),
    "SegmentationData": allowed(
        "data", train_dataset=parts("dataset"), validation_dataset=parts("dataset"), batch_size=SIZE, num_workers=COUNT,
        augmentation_device=words("auto", "cpu", "device"),
    ),
    "SegmentationModule": allowed(
        "module", network=parts("network"), labels=DATA, inferer=parts("inferer"), regions=DATA, loss=either(NAME, DATA),
        optimizer=NAME, learning_rate=NUMBER, weight_decay=NUMBER, schedule=NAME, warmup_steps=NUMBER,
        deep_supervision=NUMBER, micro_batch_size=NUMBER, seed=NUMBER,
    ),
    "DiffusionModule": allowed(
        "module", network=parts("network"), labels=DATA, roi_size=NUMBER, label_dropout=NUMBER, optimizer=NAME,
        learning_rate=NUMBER, weight_decay=NUMBER, schedule=NAME, warmup_steps=NUMBER, seed=NUMBER,
    ),
    "TrainingDataset": allowed(
        "dataset", preprocessing=parts("preprocessing"), labels=DATA, roi_size=NUMBER, samples_per_epoch=NUMBER,
        augmentation=DATA, sampling=DATA, synthetic_dir=TEXT, synthetic_ratio=NUMBER, seed=NUMBER, **_SOURCE,
    ),
    "ValidationDataset": allowed("dataset", preprocessing=parts("preprocessing"), labels=DATA, **_SOURCE),
    "make_trainer": allowed(
        "trainer", max_epochs=NUMBER, bundle_root=setting("bundle_root"), fold=NUMBER,
        device=either(DEVICE, words("auto", "mps")), devices=either(COUNT, words("auto")), strategy=_STRATEGY, precision=_PRECISION,
        val_interval=NUMBER, gradient_clip=NUMBER, ema_decay=NUMBER, early_stop=NUMBER, train_handlers=NOTHING,
        experiment=TEXT, tracking=FLAG, tracking_uri=TEXT, parent_run=NAME, **_LIGHTNING,
    ),
    "run_fit": allowed(
        "result", trainer=parts("trainer"), module=parts("module"), data=parts("data"), bundle_root=setting("bundle_root"),
        fold=NUMBER, resume=FLAG, budget_s=NUMBER, pretrained=setting("pretrained"), partial=DATA,
    ),
    "seed_all": allowed("result", seed=NUMBER),
}  # fmt: skip

# The fields of NetworkSpec that `**options` of build_network may replace.
_OPTIONS = {
    "norm": NAME, "activation": NAME, "token_norm": NAME, "token_norm_eps": NUMBER, "drop_path": NUMBER,
    "layer_scale": NUMBER, "decoder": NAME, "decoder_options": DATA, "layer_options": DATA,
}  # fmt: skip

PREDICTION: dict[str, Target] = {
    "NnunetPreprocessing": allowed(
        "preprocessing", spacing=NUMBER, normalization=DATA, masked=FLAG, intensities=DATA, transpose=NUMBER
    ),
    "Preprocessing": allowed("preprocessing", spacing=NUMBER, normalization=DATA, orientation=NAME, crop_to_nonzero=FLAG),
    "PostprocessLabeld": allowed("transform", keys=KEYS, steps=DATA, allow_missing_keys=FLAG),
    "Preprocessd": allowed("transform", keys=KEYS, preprocessing=parts("preprocessing"), allow_missing_keys=FLAG),
    "RestoreLabeld": allowed(
        "transform", keys=KEYS, image_key=KEYS, labels=NUMBER, allow_missing_keys=FLAG, regions=FLAG, accumulation=NAME
    ),
    "SlidingWindowInferer": allowed(
        "inferer", roi_size=NUMBER, sw_batch_size=NUMBER, overlap=NUMBER, mode=NAME,
        sigma_scale=NUMBER, padding_mode=words("constant", "reflect", "replicate", "circular"), cval=NUMBER,
        sw_device=DEVICE, device=DEVICE, progress=FLAG, cache_roi_weight_map=FLAG, cpu_thresh=NUMBER, buffer_steps=NUMBER,
        buffer_dim=NUMBER, with_coord=FLAG, placement=NAME, accumulation=NAME, mirror_axes=NUMBER,
    ),
    "build_diffit": allowed(
        "network", sigma_data=NUMBER, bound=NUMBER, multiples=SIZE, spatial_dims=SIZE, image_channels=SIZE, classes=SIZE,
        width=SIZE, cells=SIZE, window=SIZE, head_width=SIZE, patch=SIZE, label_in_attention=FLAG, checkpointing=FLAG,
    ),
    "build_network": allowed(
        "network", preset=NAME, spatial_dims=SIZE, in_channels=SIZE, out_channels=SIZE, size=NAME, mixer=NAME,
        strides=SIZE, roi_size=SIZE, deep_supervision=FLAG, padding=NAME, condition_width=SIZE, checkpointing=FLAG,
        published=NAME, **_OPTIONS,
    ),
    "build_split_network": allowed(
        "network", sites=DATA, sent=DATA, preset=NAME, spatial_dims=SIZE, in_channels=SIZE, out_channels=SIZE, size=NAME,
        mixer=NAME, strides=SIZE, roi_size=SIZE, deep_supervision=FLAG, padding=NAME, checkpointing=FLAG, **_OPTIONS,
    ),
    "build_nnunet": allowed("network", network_class=NAME, arguments=DATA, in_channels=SIZE, out_channels=SIZE),
    "build_segresnet_ds": allowed(
        "network", spatial_dims=SIZE, in_channels=SIZE, out_channels=SIZE, init_filters=SIZE, norm=NAME,
        blocks_down=SIZE, blocks_up=SIZE, dsdepth=SIZE,
    ),
    "AveragedNetwork": allowed("network", networks=parts("network")),
    "averaged_network": allowed("network", bundle_root=setting("bundle_root"), device=DEVICE, fold=NUMBER),
    "VolumeReader": allowed("reader", allow_shear=FLAG),
    "choose_device": allowed("device", name=either(words("auto", "mps"), DEVICE)),
}  # fmt: skip

UNDONE: dict[str, Target] = {
    "case_names": Target("unused", done=False, callable=True),
    "find_bundle_root": undone("unused", name=NAME),
    "list_images": undone("unused", folder=ANYTHING),
    "list_labelled": undone("unused", folder=ANYTHING, bundle_root=ANYTHING, fold=ANYTHING),
}

# By the frozen names of medseg.components.
OWN = {**TRAINING, **PREDICTION, **UNDONE}
