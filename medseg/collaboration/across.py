"""Prediction across sites: windows are blended at the label site, their features come from where the images are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from medseg.bundle.load import load_bundle
from medseg.bundle.predictor import predictor_around
from medseg.io.volume import read_image, write_label

from .cut import from_wire
from .exchange import ask
from .label_site import LabelSite


class AcrossSites(nn.Module):
    """The label site's network for windows whose last three channels are their voxels' coordinates, counted from 1.

    The coordinates tell where a window lies, so that the other sites can cut the same one; zeros stand outside the volume.

    Args:
        label: the label site, its half loaded.
        others: the other sites' parties.
        case: the patient.
    """

    def __init__(self, label: LabelSite, others: Mapping[str, Any], case: str) -> None:
        super().__init__()
        self.label, self.others, self.case = label, others, case

    def forward(self, windows: Tensor) -> Tensor:
        image, coordinates = windows[:, :-3], windows[:, -3:]
        starts = [[_start(item[axis], axis) for axis in range(3)] for item in coordinates]
        size = [int(extent) for extent in windows.shape[2:]]
        received = {
            name: from_wire(ask(name, f"patient {self.case!r}", other.window, self.case, starts, size))
            for name, other in self.others.items()
        }
        network = self.label.network
        return network.head(network.decoder(self.label.joined(image.contiguous(), received))[0])


def _start(coordinate: Tensor, axis: int) -> int:
    """First voxel of a window along an axis; negative where it begins outside."""
    line = coordinate.amax(dim=[other for other in range(3) if other != axis])
    inside = int((line > 0).nonzero()[0])
    return int(line[inside]) - 1 - inside


def predict_across(
    label: LabelSite, others: Mapping[str, Any], cases: Sequence[str], output: Path, *, allow_missing: bool = False
) -> list[Path]:
    """Write a label map per patient, on the grid of the label site's image; returns the files.

    Raises:
        DataError: a site lacks a patient, or fails; it is named.
    """
    label.load()
    label.network.eval()
    references = label.references(cases)
    for name, other in others.items():
        ask(name, "load", other.load)
        ask(name, "geometry", other.geometry, references, allow_missing)
    folder = label.half.folder
    assert folder is not None
    bundle = load_bundle(folder)
    output.mkdir(parents=True, exist_ok=True)
    written = []
    for case in cases:
        volume = read_image(label.cases[case].images)
        prepared = label.place.preprocessing.apply(volume.array, volume.affine)
        axes = np.meshgrid(*(np.arange(1, n + 1, dtype=np.float32) for n in prepared.image.shape[1:]), indexing="ij")
        placed = dataclasses.replace(prepared, image=np.concatenate([prepared.image, np.stack(axes)]))
        predictor = predictor_around(bundle, AcrossSites(label, others, case), label.place.preprocessing)
        path = output / f"{case}.nii.gz"
        write_label(path, predictor.segment(placed), volume)
        written.append(path)
    return written
