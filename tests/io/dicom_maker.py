"""Small DICOM series for tests: straight, oblique, tilted, gapped, multi-frame."""

from __future__ import annotations

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
