"""Look at a volume and its label maps in a browser: read, check, thin out to what a browser takes, serve on this machine."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medseg.errors import DataError, printable
from medseg.evaluation.report.page import Section, anchor_of, page_text
from medseg.evaluation.report.slices import overlay
from medseg.evaluation.report.viewer.panel import served
from medseg.evaluation.report.viewer.volumes import Limits, Scan, thinned, viewer_case, voxel_counts
from medseg.io.geometry import grid_difference
from medseg.io.header import Volume
from medseg.io.resample import resample_to_grid
from medseg.io.volume import case_name, read_image, read_label
from medseg.server.app import PageServer
from medseg.types import FilePath

log = logging.getLogger(__name__)

MOST_VOXELS = 40_000_000  # image and labels take some 25 bytes a voxel of a browser: 1 GB
PICTURE_VOXELS = 5_000_000  # of the picture that stands there before the viewer, and without it
LONGEST = 1024  # voxels along an axis: what the graphics of any machine take (2048 is usual)


def open_view(
    scan: FilePath,
    label: FilePath | None = None,
    *,
    reference: FilePath | None = None,
    names: Mapping[int, str] | None = None,
    channel: int = 0,
    port: int = 0,
    most_voxels: int = MOST_VOXELS,
) -> PageServer:
    """A server, not yet serving, whose page shows the volume.

    Args:
        scan: any readable image: a file, or a folder with a DICOM series.
        label: its label map; on another grid it is brought to the scan's by nearest neighbour, which is said.
        reference: a second label map, to compare with.
        names: label value -> name.
        channel: of an image with several, counted from 0.
        port: 0 for any that is free.
        most_voxels: of the page; a larger volume is thinned out, which is said.

    Raises:
        DataError, UnreadableFileError, GeometryError, LabelError: what cannot be shown, and why.
        ResourceError: the port is taken.
    """
    paths = {kind: path for kind, path in (("prediction", label), ("reference", reference)) if path is not None}
    with ThreadPoolExecutor() as pool:  # reading is half of the time until there is something to see
        labels = {kind: pool.submit(_counted, path) for kind, path in paths.items()}
        volume = read_image(scan)
    notes: list[str] = []
    channels = len(volume.array)
    if not 0 <= channel < channels:
        raise DataError(f"{scan}: has {channels} channel(s), counted from 0; there is no channel {channel}.")
    if channels > 1:
        notes.append(f"Channel {channel} of {channels} (0 to {channels - 1}): another is chosen with --channel.")
    image = volume.array[channel]
    if float(image.min()) == float(image.max()):
        notes.append(f"Every voxel of the image is {float(image.flat[0]):g}.")
    maps = {kind: _on_grid_of(volume, *label.result(), notes) for kind, label in labels.items()}
    for note in notes:
        log.warning("%s", note)
    return _server(image, maps, volume, names or {}, notes, Limits(most_voxels, LONGEST, 0, False, np.int16), port)


class _Map(NamedTuple):
    """A label map (X, Y, Z) and its voxels per value."""

    array: NDArray[Any]
    counts: Mapping[int, int]


def _counted(path: FilePath) -> tuple[Volume, _Map]:
    label = read_label(path)
    return label, _Map(label.array, voxel_counts(label.array))


def _on_grid_of(volume: Volume, label: Volume, map_: _Map, notes: list[str]) -> _Map:
    difference = grid_difference(volume, label)
    if not difference:
        return map_
    name = printable(label.path.name)
    array = resample_to_grid(label, volume, "nearest").array
    notes.append(f"{name} lies on another grid ({difference}); it is shown on the scan's, by nearest neighbour.")
    if not array.any():
        notes.append(f"No labelled voxel of {name} lies inside the scan: is it of another scan?")
    return _Map(array, voxel_counts(array))


def _server(
    image: NDArray[Any],
    maps: Mapping[str, _Map],
    volume: Volume,
    names: Mapping[int, str],
    notes: list[str],
    limits: Limits,
    port: int,
) -> PageServer:
    title = case_name(Path(volume.path))
    anchor = anchor_of(title)
    arrays = {kind: map_.array for kind, map_ in maps.items()}
    scan = Scan(image, arrays.get("prediction"), arrays.get("reference"), volume.affine)
    counts = {kind: map_.counts for kind, map_ in maps.items()}
    with ThreadPoolExecutor(1) as pool:
        drawn = pool.submit(_picture, scan, names, title)
        case = viewer_case(title, anchor, scan, names, limits=limits, notes=notes, counts=counts)
        picture = drawn.result()
    section = Section("Planes").figure(picture, title, anchor=anchor)
    grid = " x ".join(map(str, volume.grid))
    spacing = " x ".join(f"{mm:.4g}" for mm in volume.spacing)
    facts = f"{grid} voxels of {spacing} mm, {volume.header.orientation}, {volume.header.format}"
    addresses = {kind: f"volume/{kind}" for kind in case.volumes}
    page = page_text(title, [section], subtitle=facts, panel=served(case, addresses))
    return PageServer(page, {addresses[kind]: content for kind, content in case.volumes.items()}, port=port)


def _picture(scan: Scan, names: Mapping[int, str], title: str) -> str:
    """What stands there before the viewer, and without it."""
    small = thinned(scan, PICTURE_VOXELS)
    maps = small.prediction, small.reference
    return overlay(small.image, *maps, small.affine, labels=names, zoom=False, name=title)
