"""`medseg predict` and `python -m monai.bundle run` on one small volume: the labels have to be the same."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.inference.settings import PredictOptions
from medseg.io.header import Header
from medseg.io.volume import read_image, write_image

from ..load import Bundle

# of the voxels: where two logits are equal to rounding, the order of a sum decides
TIES = 1e-4


def two_paths_differ(bundle: Bundle) -> list[str]:
    """One fault when the parts that MONAI runs give other labels than our predictor; nothing of the bundle is written.

    The volume is noise of random smoothness, a window and a half long, so that windows overlap; half of it is bright.
    """
    needed = ("preprocessing_def", "preprocessing", "inferer", "postprocessing", "network")
    if any(key not in bundle.config for key in needed):
        return []
    with tempfile.TemporaryDirectory() as place:
        files = _write_volume(bundle, Path(place))
        ours, theirs = _by_predictor(bundle, files), _by_parts(bundle, files)
    if ours.shape != theirs.shape:
        return [f"medseg predict gives labels of shape {ours.shape}, MONAI's run of inference.json {theirs.shape}"]
    different = int((ours != theirs).sum())
    if different > TIES * ours.size:
        return [
            f"medseg predict and MONAI's run of inference.json differ in {different} of {ours.size} voxels of a test volume"
        ]
    return []


def _write_volume(bundle: Bundle, folder: Path) -> list[str]:
    from scipy.ndimage import gaussian_filter

    spacing = [float(step or 1.0) for step in (getattr(bundle.preprocessing, "spacing", None) or (1.0, 1.0, 1.0))]
    extents = [*bundle.roi_size, 3][:3]
    longest = int(np.argmin(extents))
    shape = [min(extent, 128) + (extent // 2 if axis == longest else 0) for axis, extent in enumerate(extents)]
    random = np.random.default_rng(0)
    affine = np.diag([*spacing, 1.0])
    files = []
    for channel in range(len(bundle.channels)):
        array = 300.0 * gaussian_filter(random.normal(size=shape), 1.5) + random.normal(size=shape)
        array[tuple(slice(n // 4, n - n // 4) for n in shape)] += 150.0
        path = folder / f"volume_{channel}.nii.gz"
        write_image(path, array.astype(np.float32), Header.of_array(tuple(shape), affine))
        files.append(str(path))
    return files


def _by_predictor(bundle: Bundle, files: list[str]) -> NDArray[np.integer]:
    from ..predictor import make_segmenter

    segmenter = make_segmenter(bundle, PredictOptions(device="cpu", engine="eager", precision="fp32"))
    return segmenter.segment(segmenter.prepare(read_image(files)))


def _by_parts(bundle: Bundle, files: list[str]) -> NDArray[np.integer]:
    """What SupervisedEvaluator does with the parts of inference.json, its writing left out."""
    import torch

    from ..weights import load_into, read_state_dict

    config = bundle.config
    network: Any = config.build("network")
    handlers = config.raw.get("handlers", [])
    if any(
        str(entry.get("_target_", "")).endswith("CheckpointLoader") for entry in handlers if isinstance(entry, dict)
    ):
        path = Path(str(config.get("checkpoint")))
        load_into(network, read_state_dict(path), path)
    network = network.eval().cpu()
    data = config.build("preprocessing")({"image": files if len(files) > 1 else files[0]})
    with torch.inference_mode():
        data["pred"] = config.build("inferer")(data["image"][None].cpu(), network)[0]
    for number, entry in enumerate(config.raw["postprocessing"]["transforms"]):
        if not str(entry.get("_target_", "")).endswith("SaveImaged"):
            data = config.build(f"postprocessing::transforms::{number}")(data)
    return np.asarray(torch.as_tensor(data["pred"])[0].cpu()).astype(np.int32)
