"""Small DICOM series for tests: straight, oblique, tilted, gapped, multi-frame, mosaic."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid

STRAIGHT = (np.array([1.0, 0, 0]), np.array([0.0, 1, 0]))


def voxels(shape: tuple[int, int, int] = (8, 6, 5)) -> NDArray[np.int16]:
    """(X, Y, Z) int16, every voxel different."""
    return np.arange(np.prod(shape), dtype=np.int16).reshape(shape)


def make_series(
    folder: Path,
    array: NDArray[Any] | None = None,
    *,
    directions: tuple[NDArray[np.float64], NDArray[np.float64]] = STRAIGHT,
    step: NDArray[np.float64] | None = None,
    spacing: tuple[float, float] = (0.8, 0.7),
    series: str = "",
    prefix: str = "slice",
    study: str = "",
    **changes: Any,
) -> list[Path]:
    """Write (X, Y, Z) as one CT file per slice, in shuffled name order; returns the files in slice order."""
    folder.mkdir(parents=True, exist_ok=True)
    array = voxels() if array is None else array
    row, column = directions
    step = 2.5 * np.cross(row, column) if step is None else step
    series, study, frame = series or generate_uid(), study or generate_uid(), generate_uid()
    files = []
    for index in range(array.shape[2]):
        path = folder / f"{prefix}_{(index * 7 + 3) % 97:02d}.dcm"
        dataset = _dataset(path, CTImageStorage)
        dataset.SeriesInstanceUID, dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = series, study, frame
        dataset.InstanceNumber = index + 1
        dataset.ImagePositionPatient = [float(value) for value in np.array([-10.0, 20.0, 30.0]) + index * step]
        dataset.ImageOrientationPatient = [float(value) for value in (*row, *column)]
        dataset.PixelSpacing = list(spacing)
        dataset.SliceThickness = 2.5
        dataset.RescaleSlope, dataset.RescaleIntercept = 2, -1000
        _pixels(dataset, array[:, :, index].T)
        for name, value in changes.items():
            setattr(dataset, name, value)
        dataset.save_as(path, enforce_file_format=True)
        files.append(path)
    return files


def make_multiframe(path: Path, array: NDArray[Any] | None = None) -> Path:
    """Write (X, Y, Z) as one enhanced MR file whose frames are stored from top to bottom."""
    array = voxels() if array is None else array
    dataset = _dataset(path, EnhancedMRImageStorage)
    dataset.Modality = "MR"
    dataset.SeriesInstanceUID = generate_uid()
    dataset.NumberOfFrames = array.shape[2]
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.8, 0.7], 2.5
    orientation.ImageOrientationPatient = [1.0, 0, 0, 0, 1.0, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([orientation])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for index in reversed(range(array.shape[2])):
        position, group = Dataset(), Dataset()
        position.ImagePositionPatient = [-10.0, 20.0, 30.0 + 2.5 * index]
        group.PlanePositionSequence = Sequence([position])
        frames.append(group)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    _pixels(dataset, array.transpose(2, 1, 0)[::-1])
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def make_mosaic(path: Path, slices: list[Path], *, downwards: bool = False, older: bool = False, **fields: Any) -> Path:
    """Lay the slices of a written series out as one Siemens mosaic, as the scanner does.

    Args:
        path: file to write.
        slices: in slice order.
        downwards: begin with the last one.
        older: write the first form of the private header.
        fields: entries of the private header in place of the right ones; None leaves one out.
    """
    planes = [pydicom.dcmread(one) for one in (slices[::-1] if downwards else slices)]
    first, count = planes[0], len(planes)
    across = int(np.ceil(np.sqrt(count)))
    rows, columns = first.Rows, first.Columns
    picture = np.zeros((across * rows, across * columns), dtype=np.int16)
    for index, plane in enumerate(planes):
        down, right = index // across * rows, index % across * columns
        picture[down : down + rows, right : right + columns] = plane.pixel_array
    dataset = _dataset(path, first.SOPClassUID)
    for element in first:
        if element.tag.group >= 0x18:
            dataset[element.tag] = element
    _pixels(dataset, picture)
    cosines, spacing = np.array(first.ImageOrientationPatient), first.PixelSpacing
    # the corner of a plane as large as the picture, whose middle is the first slice's
    middle = (
        np.array(first.ImagePositionPatient)
        + (cosines[:3] * spacing[1] * (columns - 1) + cosines[3:] * spacing[0] * (rows - 1)) / 2
    )
    corner = (
        middle
        - (cosines[:3] * spacing[1] * (picture.shape[1] - 1) + cosines[3:] * spacing[0] * (picture.shape[0] - 1)) / 2
    )
    step = np.array(planes[1].ImagePositionPatient) - np.array(first.ImagePositionPatient)
    dataset.Modality, dataset.ImageType = "MR", ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    dataset.ImagePositionPatient = [float(f"{value:.10g}") for value in corner]
    dataset.SpacingBetweenSlices = float(np.linalg.norm(step))
    said = {
        "AcquisitionMatrixText": [f"{columns}p*{rows}"],
        "NumberOfImagesInMosaic": [f"{count}"],
        "SliceNormalVector": [f"{value:.8f}" for value in step / np.linalg.norm(step)],
        "ProtocolSliceNumber": ["0"],
    } | fields
    block = dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "OB", _csa({name: words for name, words in said.items() if words is not None}, older=older))
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def _csa(fields: dict[str, list[str]], *, older: bool) -> bytes:
    """Siemens' private table of values; six items a field, most of them empty, as scanners write it."""
    content = (b"" if older else b"SV10\x04\x03\x02\x01") + struct.pack("<II", len(fields), 77)
    for name, words in fields.items():
        kind = {"AcquisitionMatrixText": b"SH", "SliceNormalVector": b"FD"}.get(name, b"US")
        content += struct.pack("<64si4siii", name.encode(), len(words), kind, 4, 6, 77)
        for word in [*words, *[""] * (6 - len(words))]:
            data = word.encode() + b"\0" if word else b""
            content += struct.pack("<4i", len(data) + (6 if older else 0), len(data), 77, len(data))
            content += data + b"\0" * (-len(data) % 4)
    return content


def change(path: Path, **values: Any) -> None:
    """Set attributes of a written file."""
    dataset = pydicom.dcmread(path)
    for name, value in values.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)


def _dataset(path: Path, kind: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.PatientName, dataset.PatientID = "CT", "Canary^Name", "CANARY-ID"
    dataset.StudyID, dataset.StudyDate, dataset.StudyTime, dataset.AccessionNumber = "1", "20200101", "120000", ""
    dataset.PatientBirthDate, dataset.PatientSex, dataset.ReferringPhysicianName = "19700101", "O", ""
    dataset.SeriesNumber, dataset.StudyInstanceUID = 1, generate_uid()
    return dataset


def _pixels(dataset: FileDataset, frames: NDArray[Any]) -> None:
    dataset.Rows, dataset.Columns = frames.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    dataset.PixelData = np.ascontiguousarray(frames.astype("<i2")).tobytes()
