"""Bundles that medseg did not write: their own MONAI transforms around our window engine.

The model zoo's inference.json brings `preprocessing` and `postprocessing` for files; here the image is loaded already and the
label is written by us, so loading and saving steps are left out, and an `Invertd` is added where the bundle has none, since
a label belongs on the grid of its image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer as MonaiSlidingWindowInferer
from monai.transforms import Compose, Invertd, LoadImaged, SaveImaged
from numpy.typing import NDArray

from medseg.errors import BundleError, DataError
from medseg.io import Volume
from medseg.transforms.classes import label_dtype

from .windows.sliding_window import SlidingWindowInferer

# Steps that belong to files, not to volumes: by name, since bundles bring sub-classes and third-party ones.
LEFT_OUT = ("LoadImage", "SaveImage", "CopyItems", "DeleteItems")


class MonaiSegmenter:
    """Segments volumes with the transforms, inferer and network of any bundle in the model zoo's layout.

    Args:
        network: logits from windows, with its weights.
        preprocessing: the bundle's `Compose` for `image`.
        postprocessing: the bundle's `Compose` for `pred`.
        inferer: the bundle's; MONAI's sliding window is replaced by ours.
        device: where it runs.
        label_values: label of each class, for a bundle whose postprocessing leaves several channels.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        preprocessing: Compose,
        postprocessing: Compose | None,
        inferer: Callable[..., Any],
        *,
        device: torch.device,
        label_values: Sequence[int] | None = None,
    ) -> None:
        self.network = network.to(device).eval()
        self.device = device
        self.inferer = _ours(inferer)
        self.before = preprocessing
        self.before.transforms = tuple(step for step in preprocessing.transforms if not _left_out(step))
        after = [] if postprocessing is None else [s for s in postprocessing.transforms if not _left_out(s)]
        if not any(isinstance(step, Invertd) for step in after):
            after.insert(0, Invertd("pred", self.before, orig_keys="image", nearest_interp=False, to_tensor=True))
        self.after = after
        self.label_values = None if label_values is None else np.asarray(list(label_values))
        self.steps: list[str] = []

    def prepare(self, volume: Volume) -> dict[str, Any]:
        """The image through the bundle's preprocessing, with the record of its inverse."""
        array = torch.from_numpy(np.ascontiguousarray(volume.array))
        meta = {"original_channel_dim": 0, "spatial_shape": np.asarray(volume.array.shape[1:])}
        meta["filename_or_obj"] = "image"
        image = MetaTensor(array, affine=torch.from_numpy(volume.affine), meta=meta)
        image.meta["original_affine"] = volume.affine.copy()
        data = dict(self.before({"image": image}))
        return {"data": data, "shape": tuple(volume.array.shape[1:])}

    def segment(
        self, prepared: dict[str, Any], progress: Callable[[int, int], None] | None = None
    ) -> NDArray[np.integer]:
        """The label map on the source grid.

        Raises:
            BundleError: the bundle's steps do not lead to one label per voxel of the image.
        """
        data = prepared["data"]
        image = data["image"]
        with torch.inference_mode():
            logits = self.inferer(torch.as_tensor(image)[None].to(self.device), self.network)
        logits = logits if isinstance(logits, torch.Tensor) else next(iter(_values(logits)))
        if not bool(torch.isfinite(logits).all()):
            raise DataError("the network returned NaN or infinite logits; the weights or the image are damaged")
        data["pred"] = MetaTensor(logits[0].as_subclass(torch.Tensor).cpu(), meta=dict(image.meta))
        data["pred"].applied_operations = list(image.applied_operations)
        for step in self.after:
            data = step(data)
        label = self._one_label(np.asarray(torch.as_tensor(data["pred"]).cpu()))
        if label.shape != prepared["shape"]:
            raise BundleError(
                f"the bundle's postprocessing leaves a map of shape {label.shape} for an image of {prepared['shape']}"
            )
        if progress is not None:
            progress(1, 1)
        return label

    def _one_label(self, pred: NDArray[Any]) -> NDArray[np.integer]:
        if pred.shape[0] == 1:
            values = np.rint(pred[0])
            return values.astype(label_dtype(int(values.max(initial=0))))
        classes = pred.shape[0]
        if np.isin(pred, (0, 1)).all():
            if (pred.sum(axis=0) > 1).any():
                raise BundleError(
                    "the bundle's labels overlap, so one label per voxel cannot hold them; run the bundle with "
                    "`python -m monai.bundle run`"
                )
            if self.label_values is None or len(self.label_values) != classes:
                label = np.where(pred.any(axis=0), pred.argmax(axis=0) + 1, 0)
                return label.astype(label_dtype(classes))
        label = pred.argmax(axis=0)
        if self.label_values is not None and len(self.label_values) == classes:
            label = self.label_values[label]
        return label.astype(label_dtype(int(label.max(initial=0))))

    def describe(self) -> dict[str, Any]:
        """JSON-ready facts for the record."""
        return {
            "transforms": "the bundle's own",
            "preprocessing": [type(step).__name__ for step in self.before.transforms],
            "postprocessing": [type(step).__name__ for step in self.after],
            "inferer": type(self.inferer).__name__,
            "device": str(self.device),
        }


def _values(output: object) -> Any:
    return output.values() if isinstance(output, dict) else output


def _left_out(step: object) -> bool:
    return isinstance(step, LoadImaged | SaveImaged) or type(step).__name__.startswith(LEFT_OUT)


def _ours(inferer: Any) -> Callable[..., Any]:
    """Our sliding window with the settings of MONAI's; anything else as it is."""
    if type(inferer) is not MonaiSlidingWindowInferer:
        return inferer
    return SlidingWindowInferer(
        inferer.roi_size,
        inferer.sw_batch_size,
        inferer.overlap,
        str(getattr(inferer.mode, "value", inferer.mode)),
        inferer.sigma_scale,
        str(getattr(inferer.padding_mode, "value", inferer.padding_mode)),
        inferer.cval,
        inferer.sw_device,
        inferer.device,
    )
