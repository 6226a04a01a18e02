"""`medseg.load(bundle)`: a bundle as a function from an image to its label map, for notebooks and scripts.

segment = medseg.load("hippocampus_mr_mambavision")
label = segment(array, spacing=(1.0, 1.0, 1.0))     # numpy or torch in, the same kind out
label = segment(nibabel_image)                       # nibabel or SimpleITK in, the same kind out
path = segment("scan.nii.gz", "label.nii.gz")        # a file in, a file out
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from medseg.bundle.configs.deciding import takes_missing_channels
from medseg.bundle.load import Bundle, load_bundle
from medseg.cases.batch import Segmenter
from medseg.datasets.dataset import check_headers, read_case_image
from medseg.errors import DataError
from medseg.inference.settings import PredictOptions
from medseg.io import Case, Volume, find_inputs, write_label
from medseg.io.channels import check_order, told_by_name
from medseg.io.in_memory import affine_of, as_given, volume_of
from medseg.types import Affine, FilePath

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


class LoadedBundle:
    """An opened bundle with its networks ready; made by `medseg.load`, called once per image.

    Args:
        bundle: opened.
        options: how to predict.
    """

    def __init__(self, bundle: Bundle, options: PredictOptions) -> None:
        from medseg.bundle.predictor import make_segmenter  # torch is imported here

        self.bundle, self.options = bundle, options
        self._segmenter: Segmenter = make_segmenter(bundle, options)
        self._gaps = takes_missing_channels(bundle.config, bundle.plan)

    @property
    def labels(self) -> dict[int, str]:
        """Label value -> name."""
        return dict(self.bundle.labels)

    @property
    def channels(self) -> dict[int, str]:
        """Input channel -> modality, in the order in which the network takes them."""
        return dict(self.bundle.channels)

    @overload
    def __call__(
        self, image: object, output: FilePath, *, affine: Affine | None = None, spacing: Sequence[float] | None = None
    ) -> Path: ...
    @overload
    def __call__(
        self,
        image: torch.Tensor,
        output: None = None,
        *,
        affine: Affine | None = None,
        spacing: Sequence[float] | None = None,
    ) -> torch.Tensor: ...
    @overload
    def __call__(
        self,
        image: NDArray[np.generic] | FilePath | Sequence[FilePath],
        output: None = None,
        *,
        affine: Affine | None = None,
        spacing: Sequence[float] | None = None,
    ) -> NDArray[np.integer]: ...
    @overload
    def __call__(
        self,
        image: object,
        output: None = None,
        *,
        affine: Affine | None = None,
        spacing: Sequence[float] | None = None,
    ) -> object: ...
    def __call__(
        self,
        image: object,
        output: FilePath | None = None,
        *,
        affine: Affine | None = None,
        spacing: Sequence[float] | None = None,
    ) -> object:
        """The label map of one image, on the image's own grid.

        Args:
            image: an array or tensor (X, Y, Z) or (C, X, Y, Z); a nibabel or SimpleITK image, or a list of them, one per
                channel; a file or DICOM folder, or a list of files, one per channel.
            output: write the label map into this file, in the format of its suffix.
            affine: of an array, voxel index -> world mm, RAS+.
            spacing: of an array, mm along X, Y, Z, when its orientation is RAS+.

        Returns:
            With `output` its path. Else what came in: a tensor (X, Y, Z) on the CPU, a nibabel or SimpleITK image; an array
            (X, Y, Z) of uint8 or uint16 for arrays and files.

        Raises:
            DataError: an array without affine or spacing, another number of channels than the bundle's, NaN or infinity.
            UnreadableFileError, GeometryError, GridMismatchError, ResourceError: as `medseg predict`.
        """
        first = image[0] if isinstance(image, list | tuple) and image else image
        if isinstance(first, str | Path):
            volume = self._read(image)
        else:
            volume = volume_of(image, affine_of(affine, spacing))
        self._check(volume)
        label = self._segmenter.segment(self._segmenter.prepare(volume))
        if output is not None:
            write_label(output, label, like=volume.header)
            return Path(output)
        return as_given(label, first, volume)

    def __repr__(self) -> str:
        names = ", ".join(name for value, name in sorted(self.bundle.labels.items()) if value)
        return (
            f"<medseg bundle {self.bundle.name} {self.bundle.version}: {', '.join(self.channels.values())} -> {names}>"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows of it."""
        from medseg.evaluation.report.page import Section

        channels = [(f"channel {number}", name) for number, name in sorted(self.channels.items())]
        labels = [(f"label {value}", name) for value, name in sorted(self.labels.items())]
        return Section("").table([f"{self.bundle.name} {self.bundle.version}", ""], [*channels, *labels]).html()

    def _read(self, image: Any) -> Volume:
        """One case's files, found and checked as `medseg predict` does."""
        if isinstance(image, list | tuple):
            case = self._listed([Path(one) for one in image])
        else:
            cases = find_inputs([image], channels=self.channels, gaps=self._gaps)
            if len(cases) != 1:
                raise DataError(
                    f"{image}: holds {len(cases)} cases, expected one image; use medseg.predict for several"
                )
            case = cases[0]
        check_headers(case, channels=len(self.channels))
        return read_case_image(case, self.bundle.config.get("preprocessing_def::normalization") if case.missing else ())

    def _listed(self, files: list[Path]) -> Case:
        """Files in the order of the channels: by their names where all say one, else as given, which a name must not contradict."""
        order = told_by_name(files, self.channels) if len(files) > 1 or self._gaps else None
        if order is None:
            order = dict(enumerate(files))
            check_order("image", order, self.channels)
            return Case("image", tuple(files))
        missing = tuple(channel for channel in self.channels if channel not in order)
        if missing and not self._gaps:
            raise DataError(f"{files[0]}: no file is given for channel {self.channels[missing[0]]}; add it.")
        return Case("image", tuple(order.values()), missing=missing)

    def _check(self, volume: Volume) -> None:
        if volume.array.shape[0] != len(self.channels):
            wanted = ", ".join(self.channels.values())
            raise DataError(
                f"{volume.path}: has {volume.array.shape[0]} channels, {self.bundle.name} takes {len(self.channels)} ({wanted})"
            )


def load(bundle: FilePath, options: PredictOptions | None = None, *, trust: bool = False) -> LoadedBundle:
    """Open a bundle for predicting image by image.

    Args:
        bundle: folder, or name of a shipped or installed bundle.
        options: how to predict; the bundle's own settings by default.
        trust: let the bundle run code that is not on the allow-list.

    Raises:
        BundleError: no such bundle, or it is broken.
        UntrustedBundleError: it wants to run code and `trust` is False.
    """
    return LoadedBundle(load_bundle(str(bundle), trust=trust), options or PredictOptions())
