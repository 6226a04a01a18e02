"""A trained nnU-Net folder becomes a bundle whose labels are those of nnU-Net's own steps, restated here plainly."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.ndimage import gaussian_filter

from medseg.bundle.load import load_bundle
from medseg.commands.import_nnunet import import_nnunet
from medseg.commands.predict import predict_bundle
from medseg.errors import BundleError, ConfigError, UntrustedBundleError
from medseg.inference.settings import PredictOptions
from medseg.inference.windows.places import even_starts, importance_map
from medseg.io import Header, read_label, write_image
from medseg.networks.imported.nnunet import build_nnunet, own_names
from medseg.transforms import nnunet_preprocessing
from medseg.transforms.nnunet_preprocessing import NnunetPreprocessing, coarse_axis, resize_cubic

PLAIN = {
    "n_stages": 3, "features_per_stage": [4, 8, 8], "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]], "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    "n_conv_per_stage": [2, 2, 2], "n_conv_per_stage_decoder": [2, 1], "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "dropout_op": None, "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
}  # fmt: skip
RESIDUAL = {**{k: v for k, v in PLAIN.items() if k != "n_conv_per_stage"}, "n_blocks_per_stage": [1, 2, 1]}
ROI = (8, 12, 12)


def trained_folder(root: Path, kind: str = "PlainConvUNet", **changes) -> Path:
    """What nnU-Net leaves after training, with random weights and its doubled parameter names."""
    folder = root / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    (folder / "fold_0").mkdir(parents=True)
    arguments = {**(PLAIN if kind == "PlainConvUNet" else RESIDUAL), **changes}
    facts = {"mean": 20.0, "std": 150.0, "percentile_00_5": -300.0, "percentile_99_5": 320.0}
    configuration = {
        "patch_size": list(ROI), "batch_size": 2, "spacing": [2.0, 1.0, 1.0],
        "normalization_schemes": ["CTNormalization"], "use_mask_for_norm": [False],
        "architecture": {"network_class_name": f"some.module.{kind}", "arch_kwargs": arguments},
    }  # fmt: skip
    plans = {
        "dataset_name": "Dataset007_Test", "transpose_forward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {"0": facts}, "configurations": {"3d_fullres": configuration},
    }  # fmt: skip
    dataset = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1, "cyst": 2},
        "file_ending": ".nii.gz",
    }
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    torch.manual_seed(0)
    try:
        state = build_nnunet(kind, arguments, 1, 3).state_dict()
    except ConfigError:
        state = {}
    doubled = {f"decoder.encoder.{k.removeprefix('encoder.')}": v for k, v in state.items() if k.startswith("encoder.")}
    checkpoint = {
        "network_weights": {**state, **doubled},
        "inference_allowed_mirroring_axes": (0, 1, 2),
        "_best_ema": np.float64(0.5),
    }
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
    return folder


def nnunet_steps(image_zyx: np.ndarray, networks: list[torch.nn.Module], kind: type = np.float16) -> np.ndarray:
    """Normalize, equal steps, Gaussian cut at four sigma, blend, argmax; spacing fits, so nothing is resampled.

    nnU-Net keeps sums, weights and logits in float16; `kind=np.float32` is what it would do without that.
    """
    image = ((np.clip(image_zyx, -300, 320) - 20) / 150).astype(np.float32)
    delta = np.zeros(ROI)
    delta[tuple(n // 2 for n in ROI)] = 1
    weights = gaussian_filter(delta, [n / 8 for n in ROI], mode="constant")
    weights = (10 * weights / weights.max()).astype(np.float16).astype(np.float32)
    weights[weights == 0] = weights[weights > 0].min()
    steps = []
    for size, roi in zip(image.shape, ROI, strict=True):
        number = int(np.ceil((size - roi) / (roi / 2))) + 1
        steps.append([int(np.round((size - roi) / max(number - 1, 1) * i)) for i in range(number)])
    mean: np.ndarray | None = None
    for network in networks:
        total, count = np.zeros((3, *image.shape), kind), np.zeros(image.shape, kind)
        for start in itertools.product(*steps):
            box = tuple(slice(s, s + n) for s, n in zip(start, ROI, strict=True))
            with torch.no_grad():
                total[(slice(None), *box)] += network(torch.from_numpy(image[box])[None, None])[0].numpy() * weights
            count[box] += weights.astype(kind)
        mean = total / count if mean is None else mean + total / count
    assert mean is not None
    return (mean / kind(len(networks))).argmax(axis=0)


@pytest.mark.parametrize(("kind", "folds"), [("PlainConvUNet", 1), ("ResidualEncoderUNet", 2)])
def test_labels_are_those_of_nnunets_steps(tmp_path: Path, kind: str, folds: int) -> None:
    """Float16 sums and all; and without them where a float32 slab is asked for."""
    source = trained_folder(tmp_path, kind)
    for fold in range(1, folds):
        checkpoint = torch.load(source / "fold_0" / "checkpoint_final.pth", weights_only=False)
        for value in checkpoint["network_weights"].values():
            value *= 1.1
        (source / f"fold_{fold}").mkdir()
        torch.save(checkpoint, source / f"fold_{fold}" / "checkpoint_final.pth")
    layout = import_nnunet(source, tmp_path / "bundle")
    array = (gaussian_filter(np.random.default_rng(0).normal(size=(26, 30, 17)), 1.5) * 900 + 5).astype(np.float32)
    write_image(tmp_path / "in" / "a.nii.gz", array, Header.of_array(array.shape, np.diag([-1.0, -1.0, 2.0, 1.0])))
    networks = []
    for path in load_bundle(layout.folder).weight_files:
        networks.append(build_nnunet(kind, PLAIN if kind == "PlainConvUNet" else RESIDUAL, 1, 3).eval())
        networks[-1].load_state_dict(torch.load(path, weights_only=True))
    assert len(networks) == folds
    for slab, number in (("auto", np.float16), ("float32", np.float32)):
        options = PredictOptions(mirror=(), slab_type=slab, engine="eager")
        result = predict_bundle(layout.folder, tmp_path / "in", tmp_path / slab, options=options, preview=False)
        assert [case.status for case in result.cases] == ["done"], result.cases
        expected = nnunet_steps(array.transpose(2, 1, 0), networks, number).transpose(2, 1, 0)
        label = read_label(tmp_path / slab / "a.nii.gz").array
        assert len(np.unique(expected)) > 1
        assert (label == expected).mean() >= 0.9999


def test_parameter_names_are_nnunets() -> None:
    plain = set(build_nnunet("PlainConvUNet", PLAIN).state_dict())
    assert {"encoder.stages.1.0.convs.0.conv.weight", "decoder.stages.0.convs.1.norm.bias"} <= plain
    assert {"decoder.transpconvs.1.bias", "decoder.seg_layers.0.weight"} <= plain
    residual = set(build_nnunet("ResidualEncoderUNet", RESIDUAL).state_dict())
    assert {"encoder.stem.convs.0.conv.weight", "encoder.stages.1.blocks.0.skip.1.conv.weight"} <= residual
    assert "encoder.stages.0.blocks.0.conv2.norm.weight" in residual
    one = torch.zeros(1)
    kept = own_names({"_orig_mod.a.conv.weight": one, "a.all_modules.0.weight": one, "decoder.encoder.b": one})
    assert list(kept) == ["a.conv.weight"]


def test_gaussian_and_steps_are_nnunets() -> None:
    assert even_starts(110, 64, 0.5) == [0, 23, 46]
    assert even_starts(64, 64, 0.5) == [0]
    weights = importance_map((8, 12, 40), "nnunet")
    assert float(weights.max()) == 10.0
    assert np.unravel_index(int(weights.argmax()), weights.shape) == (4, 6, 20)
    assert float(weights.min()) > 0


def test_coarse_axes_follow_nnunets_rule() -> None:
    assert coarse_axis((5.0, 1.0, 1.0), (1.0, 1.0, 1.0)) == 0
    assert coarse_axis((1.0, 1.0, 1.0), (1.0, 1.0, 4.0)) == 2
    assert coarse_axis((2.0, 1.0, 1.0), (1.0, 1.0, 1.0)) is None
    assert coarse_axis((5.0, 5.0, 1.0), (1.0, 1.0, 1.0)) is None


def test_cubic_resize_keeps_ramps_and_range() -> None:
    ramp = np.broadcast_to(np.arange(20.0, dtype=np.float32)[:, None, None], (20, 6, 5))
    finer = resize_cubic(np.ascontiguousarray(ramp), (40, 6, 5), None)
    np.testing.assert_allclose(np.diff(finer[12:-12, 0, 0]), 0.5, atol=1e-3)
    assert finer.max() <= 19.0
    slices = resize_cubic(np.ascontiguousarray(ramp), (10, 9, 5), 0)
    np.testing.assert_array_equal(slices[:, 0, 0], np.arange(1, 20, 2))


@pytest.mark.parametrize("shapes", [((20, 31, 17), (33, 12, 17)), ((5, 9, 3), (20, 4, 7)), ((1, 8, 40), (3, 4, 12))])
def test_cubic_resize_is_scipys_zoom(shapes, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = shapes
    values = np.random.default_rng(0).normal(size=old).astype(np.float32)
    zoom = [b / a for a, b in zip(old, new, strict=True)]
    expected = ndimage.zoom(values.astype(np.float64), zoom, order=3, mode="nearest", grid_mode=True)
    expected = np.clip(expected, values.min(), values.max()).astype(np.float32)
    for piece in (1 << 20, 7):
        monkeypatch.setattr(nnunet_preprocessing, "_PIECE_VOXELS", piece)
        np.testing.assert_allclose(resize_cubic(values, new, None), expected, rtol=1e-6, atol=1e-6)


def test_box_and_axes_lead_back() -> None:
    image = np.zeros((1, 10, 12, 14), np.float32)
    image[0, 2:9, 3:8, 4:13] = np.random.default_rng(0).uniform(1, 2, (7, 5, 9))
    recipe = NnunetPreprocessing([1.0, 1.0, 1.0], ["ZScoreNormalization"], [True], [{}], [2, 0, 1])
    prepared = recipe.apply(image, np.eye(4))
    assert prepared.image.shape == (1, 7, 9, 5)
    assert abs(float(prepared.image.mean())) < 1e-5
    corner = prepared.affine @ [0, 0, 0, 1]
    np.testing.assert_allclose(corner[:3], [2, 3, 4])


def test_what_cannot_be_imported_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"plans\.json"):
        import_nnunet(tmp_path, tmp_path / "bundle")
    folder = trained_folder(tmp_path / "a", nonlin="torch.nn.GELU")
    with pytest.raises(ConfigError, match="GELU"):
        import_nnunet(folder, tmp_path / "bundle")
    folder = trained_folder(tmp_path / "b")
    with pytest.raises(BundleError, match="no trained fold 3"):
        import_nnunet(folder, tmp_path / "bundle", fold="3")
    with pytest.raises(BundleError, match="there are 3d_fullres"):
        import_nnunet(folder, tmp_path / "bundle", configuration="3d_lowres")
    plans = json.loads((folder / "plans.json").read_text())
    for key, value in (
        ("resampling_fn_data", "resample_torch_fornnunet"),
        ("resampling_fn_probabilities_kwargs", {"order": 0}),
        ("resampling_fn_data_kwargs", {"force_separate_z": False}),
    ):
        changed = json.loads(json.dumps(plans))
        changed["configurations"]["3d_fullres"][key] = value
        (folder / "plans.json").write_text(json.dumps(changed))
        with pytest.raises(BundleError, match="only nnU-Net's default"):
            import_nnunet(folder, tmp_path / "bundle")
    (folder / "plans.json").write_text(json.dumps(plans))
    torch.save({"network_weights": {}, "harm": Path}, folder / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(UntrustedBundleError, match="only plain tensors"):
        import_nnunet(folder, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
