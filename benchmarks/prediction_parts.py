"""The parts around the network, for prediction.py: logits to the source grid (P5), blending windows, writing files (P8).

nnU-Net takes part where its environment is named. Each part fails when outputs disagree.
"""

from __future__ import annotations

import gzip
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contest import interleave

from medseg.io import Header, write_image, write_label
from medseg_kernels import resample_argmax


def smooth_logits(classes: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Logits whose label map has blobs of some 15 voxels: each class a smooth random field."""
    torch.manual_seed(0)
    coarse = torch.randn(classes, *(max(2, n // 15) for n in shape))
    fine = torch.nn.functional.interpolate(coarse[None], size=shape, mode="trilinear", align_corners=True)[0]
    return (4 * fine + 0.1 * torch.randn(classes, *shape)).contiguous()


def use_nnunet(environment: Path | None) -> None:
    """Let nnunetv2 be imported from a virtual environment of the same Python; what is installed here goes first."""
    if environment is not None:
        sys.path.extend(str(path) for path in environment.glob("lib/python*/site-packages"))


def nnunet_default(logits: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """What nnU-Net v2 does by default: resize the logits of all classes, order 1, then argmax."""
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg

    resized = resample_data_or_seg(logits, shape, is_seg=False, order=1, do_separate_z=False)
    return resized.argmax(0)


def to_source_grid(rounds: int, *, small: bool = False) -> list[dict[str, Any]]:
    """P5."""
    rows = []
    full = ((25, (96, 96, 96), (176, 176, 144)), (105, (64, 64, 80), (120, 120, 120)))
    for classes, source, target in ((5, (24, 24, 24), (44, 44, 36)),) if small else full:
        logits = smooth_logits(classes, source)
        results: dict[str, Any] = {}

        def interpolate_all(x: torch.Tensor = logits, to: tuple[int, ...] = target) -> torch.Tensor:
            return torch.nn.functional.interpolate(x[None], size=to, mode="trilinear")[0].argmax(0)

        contenders: dict[str, Callable[[], Any]] = {
            "fused": lambda x=logits, to=target: resample_argmax(x, to),
            "one class at a time (plain torch)": lambda x=logits, to=target: resample_argmax(
                x, to, backend="reference"
            ),
            "interpolate all, argmax": interpolate_all,
        }
        if importlib.util.find_spec("nnunetv2"):
            contenders["nnU-Net default"] = lambda x=logits, to=target: nnunet_default(x.numpy(), to)
        for name, run in contenders.items():
            results[name] = torch.as_tensor(np.asarray(run())).long()
        times = interleave(contenders, rounds=rounds, warm_up=0)
        for name in contenders:
            equal = float((results[name] == results["interpolate all, argmax"]).float().mean())
            if equal < 0.998:
                raise SystemExit(f"{name}: only {equal:.4%} of the labels are equal")
            factor = times[name]["median_s"] / times["fused"]["median_s"]
            rows.append({"classes": classes, "way": name, **times[name], "equal": equal, "fused_is_faster": factor})
    return rows


def blending(rounds: int) -> list[dict[str, Any]]:
    """One window of 96^3 added to a slab: ours against multiply, then add, as MONAI does."""
    from medseg_kernels import stitch_window

    rows = []
    for classes in (15, 105):
        window, importance = torch.randn(classes, 96, 96, 96), torch.rand(96, 96, 96)
        values, weight = torch.zeros(classes, 97, 160, 160), torch.zeros(97, 160, 160)
        half, whole = values.half(), torch.zeros(classes, 97, 160, 160)

        def monai(w: torch.Tensor = window, g: torch.Tensor = importance, v: torch.Tensor = whole) -> None:
            v[:, :96, 32:128, 32:128] += (w * g).to(v.dtype)

        contenders: dict[str, Callable[[], Any]] = {
            "stitch_window, float32": lambda v=values, u=weight, w=window, g=importance: stitch_window(
                v, u, w, g, (0, 32, 32)
            ),
            "stitch_window, float16": lambda v=half, u=weight, w=window, g=importance: stitch_window(
                v, u, w, g, (0, 32, 32)
            ),
            "multiply, then add": monai,
        }
        times = interleave(contenders, rounds=rounds)
        rows += [{"classes": classes, "way": name, **times[name]} for name in contenders]
    return rows


def writing(folder: Path, rounds: int, *, small: bool = False) -> list[dict[str, Any]]:
    """P8: a CT as .nii.gz."""
    import nibabel
    import SimpleITK as sitk

    rng = np.random.default_rng(0)
    width, depth = (96, 24) if small else (512, 160)
    coarse = rng.normal(size=(32, 32, 12)).astype(np.float32)
    grown = torch.nn.functional.interpolate(
        torch.from_numpy(coarse)[None, None], size=(width, width, depth), mode="trilinear"
    )
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, width), indexing="ij")
    hu = grown[0, 0].numpy() * 150 + rng.normal(0, 12, (width, width, depth))
    hu[(x**2 + y**2) > 0.7] = -1000
    hu = np.asfortranarray(hu.astype(np.int16))
    label = np.asfortranarray((hu > 60).astype(np.uint8))
    affine = np.diag([-0.8, -0.8, 1.5, 1.0])
    header = Header.of_array(hu.shape, affine)
    image = sitk.GetImageFromArray(np.ascontiguousarray(hu.T))
    contenders: dict[str, Callable[[], Any]] = {
        "medseg": lambda: write_image(folder / "medseg.nii.gz", hu, header),
        "nibabel": lambda: nibabel.save(nibabel.Nifti1Image(hu, affine), folder / "nibabel.nii.gz"),
        "SimpleITK": lambda: sitk.WriteImage(image, str(folder / "SimpleITK.nii.gz"), True),
        "medseg, labels": lambda: write_label(folder / "medseg_label.nii.gz", label, header),
        "nibabel, labels": lambda: nibabel.save(nibabel.Nifti1Image(label, affine), folder / "nibabel_label.nii.gz"),
    }
    times = interleave(contenders, rounds=rounds)
    files = {"medseg, labels": "medseg_label", "nibabel, labels": "nibabel_label"}
    rows = []
    for name in contenders:
        path = folder / f"{files.get(name, name)}.nii.gz"
        stored = nibabel.load(path)
        expected = label if "labels" in name else hu
        if not np.array_equal(np.asanyarray(stored.dataobj), expected):
            raise SystemExit(f"{name} wrote other voxels")
        with gzip.open(path) as stream:
            stream.read()  # the checksum holds
        base = times["medseg, labels" if "labels" in name else "medseg"]["median_s"]
        size = path.stat().st_size
        rows.append({"writer": name, **times[name], "bytes": size, "medseg_is_faster": times[name]["median_s"] / base})
    return rows
