"""DICOM as scanners, archives and de-identification leave it: suffixes, values, mixtures, mosaics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from medseg.io.header import Header
from medseg.io.volume import read_header, write_label
from tests.corpus.entry import Entry
from tests.corpus.other_inputs import DICOM_AFFINE, legit, legit_series, series
from tests.io.dicom_maker import change, make_mosaic, make_series, voxels

MOSAIC_VOXELS = voxels((8, 6, 7))


def edited(
    edit: Callable[[pydicom.Dataset], Any], *, only: int | None = None, **settings: Any
) -> Callable[[Path], Path]:
    """A series whose slices (or one of them) were changed element by element."""

    def change_all(files: list[Path]) -> None:
        for path in files if only is None else [files[only]]:
            dataset = pydicom.dcmread(path)
            edit(dataset)
            dataset.save_as(path, enforce_file_format=True)

    return series(change_all, **settings)


def renamed(*names: str) -> Callable[[Path], Path]:
    return series(lambda files: [path.rename(path.with_name(name)) for path, name in zip(files, names, strict=True)])


def without_preamble(files: list[Path]) -> None:
    """As old archives wrote it: no mark, no file meta information, implicit types."""
    for path in files:
        dataset = pydicom.dcmread(path)
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        path.unlink()
        pydicom.dcmwrite(path.with_suffix(""), dataset, implicit_vr=True, little_endian=True, enforce_file_format=False)


def without_rescale(dataset: pydicom.Dataset) -> None:
    del dataset.RescaleSlope, dataset.RescaleIntercept


def table(dataset: pydicom.Dataset) -> None:
    item = pydicom.Dataset()
    item.add_new(0x00283002, "US", [240, 0, 16])
    item.add_new(0x00283006, "OW", (np.arange(240) * 3).astype("<u2").tobytes())
    without_rescale(dataset)
    dataset.ModalityLUTSequence, dataset.PixelRepresentation = [item], 0


def anonymised(dataset: pydicom.Dataset) -> None:
    dataset.PatientName = dataset.PatientID = ""
    for keyword in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber"):
        delattr(dataset, keyword)


def mosaic(*, bare: bool = False, changes: dict[str, Any] | None = None, **fields: Any) -> Callable[[Path], Path]:
    """A mosaic of seven slices; `bare` takes its private header away."""

    def make(folder: Path) -> Path:
        slices = make_series(folder / "single", MOSAIC_VOXELS, RescaleSlope=1, RescaleIntercept=0)
        path = make_mosaic(folder / "mosaic.IMA", slices, **fields)
        for one in slices:
            one.unlink()
        (folder / "single").rmdir()
        if bare:
            dataset = pydicom.dcmread(path)
            dataset.remove_private_tags()
            dataset.save_as(path)
        if changes:
            change(path, **changes)
        return path

    return make


def with_mask(files: list[Path]) -> None:
    header: Header = read_header(files[0].parent)
    write_label(files[0].with_name("mask.nii.gz"), np.ones(header.shape, np.uint8), header)


FROM_REPORTS: dict[str, Entry] = {
    "dicom .IMA, .MR, .dicom": legit_series(renamed("a.IMA", "b.MR", "c.dicom", "d.img", "e.DCM")),
    "dicom named by UID": legit_series(renamed(*(f"1.2.840.1.{number}" for number in range(5)))),
    "dicom without preamble": legit_series(series(without_preamble)),
    "dicom with a mask beside it": legit_series(series(with_mask)),
    "dicom de-identified": legit_series(edited(anonymised)),
    "dicom table of values": legit(edited(table), voxels() * 3.0, DICOM_AFFINE),
    "dicom no rescale": legit(edited(without_rescale), voxels(), DICOM_AFFINE),
    "dicom rescale lost in one": Entry(edited(without_rescale, only=2), "values without a rescale"),
    "dicom table in one": Entry(edited(table, only=2), "with a table"),
    "dicom slope 0": Entry(series(RescaleSlope=0), "RescaleSlope of 0"),
    "dicom palette": Entry(series(PhotometricInterpretation="PALETTE COLOR"), "holds colours"),
    "dicom two modalities": Entry(series(lambda files: change(files[1], Modality="PT")), "the modality PT"),
    "dicom two patients": Entry(series(lambda files: change(files[1], PatientID="OTHER")), "another patient"),
    "dicom mosaic": legit(mosaic(), MOSAIC_VOXELS, DICOM_AFFINE),
    "dicom mosaic from head to foot": legit(mosaic(downwards=True), MOSAIC_VOXELS, DICOM_AFFINE),
    "dicom mosaic, old header": legit(mosaic(older=True), MOSAIC_VOXELS, DICOM_AFFINE),
    "dicom mosaic without private header": Entry(mosaic(bare=True), "de-identification removes it"),
    "dicom mosaic of too few": Entry(mosaic(NumberOfImagesInMosaic=["5"]), "shows another at row"),
    "dicom mosaic of too many": Entry(mosaic(NumberOfImagesInMosaic=["17"]), "is not 5 tiles wide"),
    "dicom mosaic without direction": Entry(mosaic(SliceNormalVector=None), "no SliceNormalVector"),
    "dicom mosaic of frames": Entry(mosaic(changes={"NumberOfFrames": 2}), "frames"),
}  # fmt: skip
