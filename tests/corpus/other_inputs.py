"""NRRD, MetaImage, MGH and DICOM: broken and odd."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from tests.corpus.entry import Entry, voxels
from tests.io.dicom_maker import change, make_multiframe, make_series
from tests.io.dicom_maker import voxels as dicom_voxels

Change = Callable[[bytes], bytes]


def by_itk(name: str, edit: Change = lambda content: content, *, compress: bool = True) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        image = sitk.GetImageFromArray(np.ascontiguousarray(voxels().T))
        image.SetSpacing((1.5, 1.5, 3.0))
        sitk.WriteImage(image, str(folder / name), useCompression=compress)
        (folder / name).write_bytes(edit((folder / name).read_bytes()))
        return folder / name

    return make


def mgh(name: str, edit: Change = lambda content: content) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        nib.save(nib.MGHImage(voxels(), np.diag([1.5, 1.5, 3.0, 1.0])), folder / name)
        (folder / name).write_bytes(edit((folder / name).read_bytes()))
        return folder / name

    return make


def swap(old: str, new: str) -> Change:
    def edit(content: bytes) -> bytes:
        assert old.encode() in content
        return content.replace(old.encode(), new.encode(), 1)

    return edit


def cut(share: float) -> Change:
    return lambda content: content[: int(len(content) * share)]


def flip(position: int) -> Change:
    return lambda content: content[:position] + bytes([content[position] ^ 0xFF]) + content[position:][1:]


def series(edit: Callable[[list[Path]], Any] = lambda files: None, **settings: Any) -> Callable[[Path], Path]:
    """A folder with five slices, changed by `edit`, which gets the files in slice order."""

    def make(folder: Path) -> Path:
        edit(make_series(folder / "series", **settings))
        return folder / "series"

    return make


def second_series(files: list[Path]) -> None:
    make_series(files[0].parent, prefix="other")


def one_more(files: list[Path]) -> None:
    (files[0].parent / "readme.txt").write_text("scanner notes")
    (files[0].parent / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")


def without_suffix(files: list[Path]) -> None:
    for number, path in enumerate(files):
        path.rename(path.with_name(f"IM{number}"))


def multiframe_without_places(folder: Path) -> Path:
    path = make_multiframe(folder / "frames.dcm")
    change(path, PerFrameFunctionalGroupsSequence=None)
    return path


ITK_AFFINE = np.diag([-1.5, -1.5, 3.0, 1.0])
DICOM_AFFINE = np.array([[-0.7, 0, 0, 10], [0, -0.8, 0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1.0]])


def legit(make: Callable[[Path], Path], array: np.ndarray | None = None, affine: np.ndarray = ITK_AFFINE) -> Entry:
    return Entry(make, expected=lambda: ((voxels() if array is None else array)[None], affine))


def legit_series(make: Callable[[Path], Path]) -> Entry:
    return legit(make, dicom_voxels() * 2.0 - 1000, DICOM_AFFINE)


ITK: dict[str, Entry] = {
    "nrrd": legit(by_itk("scan.nrrd")),
    "nrrd raw": legit(by_itk("scan.nrrd", compress=False)),
    "nrrd detached": legit(by_itk("scan.nhdr")),
    "nrrd without space": Entry(
        by_itk("scan.nrrd", swap("space: left-posterior-superior\n", "space dimension: 3\n")),
        expected=lambda: (voxels()[None], ITK_AFFINE),
        warning="does not name its world axes",
    ),
    "nrrd empty": Entry(by_itk("scan.nrrd", lambda _: b""), r"is empty \(0 bytes\)"),
    "nrrd magic": Entry(by_itk("scan.nrrd", swap("NRRD", "NERD")), "is not an NRRD file"),
    "nrrd cut": Entry(by_itk("scan.nrrd", cut(0.8)), "end before|damaged"),
    "nrrd raw cut": Entry(by_itk("scan.nrrd", cut(0.8), compress=False), "truncated or its header is wrong"),
    "nrrd flipped": Entry(by_itk("scan.nrrd", flip(-30)), "damaged"),
    "nrrd wrong checksum": Entry(by_itk("scan.nrrd", flip(-6)), "damaged"),
    "nrrd sizes": Entry(by_itk("scan.nrrd", swap("sizes: 8 6 5", "sizes: 8 6 -5")), "axis without voxels"),
    "nrrd huge": Entry(by_itk("scan.nrrd", swap("sizes: 8 6 5", "sizes: 8000 6000 5000")), "more than the limit"),
    "nrrd singular": Entry(by_itk("scan.nrrd", swap("(1.5,0,0)", "(0,0,0)")), "singular"),
    "nrrd sheared": Entry(by_itk("scan.nrrd", swap("(0,1.5,0)", "(1,1.5,0)")), "sheared"),
    "nrrd block type": Entry(by_itk("scan.nrrd", swap("type: short", "type: block")), "'block' are not supported"),
    "nrrd elsewhere": Entry(
        by_itk("scan.nhdr", swap("data file: scan.raw.gz", "data file: /etc/hostname")), "names a voxel file elsewhere"
    ),
    "nrrd list of files": Entry(
        by_itk("scan.nhdr", swap("data file: scan.raw.gz", "data file: LIST\nscan.raw.gz\nother.raw.gz")),
        "over several files",
    ),
    "nrrd pattern of files": Entry(
        by_itk("scan.nhdr", swap("data file: scan.raw.gz", "data file: s%03d.raw 1 5 1 2")), "over several files"
    ),
    "nrrd voxels lost": Entry(by_itk("scan.nhdr", swap("scan.raw.gz", "lost.raw.gz")), "lost.raw.gz: no such file"),
    "nrrd as nifti": Entry(by_itk("scan.nii", lambda _: b"NRRD0004\ntype: short\n\n"), "is not a NIfTI file"),
    "metaimage": legit(by_itk("scan.mha")),
    "metaimage raw": legit(by_itk("scan.mha", compress=False)),
    "metaimage detached": legit(by_itk("scan.mhd")),
    "metaimage list of files": Entry(
        by_itk("scan.mhd", swap("ElementDataFile = scan.zraw", "ElementDataFile = LIST\ns1.raw\ns2.raw")),
        "over several files",
    ),
    "metaimage voxels lost": Entry(by_itk("scan.mhd", swap("scan.zraw", "lost.zraw")), "lost.zraw: no such file"),
    "metaimage cut": Entry(by_itk("scan.mha", cut(0.9)), "end before"),
    "metaimage raw cut": Entry(by_itk("scan.mha", cut(0.9), compress=False), "truncated or its header is wrong"),
    "metaimage flipped": Entry(by_itk("scan.mha", flip(-20)), "damaged"),
    "metaimage sizes": Entry(
        by_itk("scan.mha", swap("DimSize = 8 6 5", "DimSize = 8 6 x")), "expected 3 whole numbers"
    ),
    "metaimage zero": Entry(by_itk("scan.mha", swap("DimSize = 8 6 5", "DimSize = 0 6 5")), "axis without voxels"),
    "metaimage type": Entry(by_itk("scan.mha", swap("MET_SHORT", "MET_STRING")), "'MET_STRING' are not supported"),
    "metaimage NaN": Entry(by_itk("scan.mha", swap("Offset = 0", "Offset = nan")), "'Offset' is"),
    "mgh": legit(mgh("scan.mgh"), affine=np.diag([1.5, 1.5, 3.0, 1.0])),
    "mgz": legit(mgh("scan.mgz"), affine=np.diag([1.5, 1.5, 3.0, 1.0])),
    "mgh with tags": legit(
        mgh("scan.mgh", lambda content: content + b"\0\0\0\x03history" * 50), affine=np.diag([1.5, 1.5, 3.0, 1])
    ),
    "mgh cut": Entry(mgh("scan.mgh", cut(0.7)), "truncated"),
    "mgz cut": Entry(mgh("scan.mgz", cut(0.7)), "end before"),
    "mgz wrong checksum": Entry(mgh("scan.mgz", flip(-8)), "damaged"),
    "mgh version": Entry(mgh("scan.mgh", flip(3)), "is not an MGH file"),
    "mgh negative": Entry(mgh("scan.mgh", flip(4)), "axis without voxels|more than the limit|the file holds"),
}

DICOM: dict[str, Entry] = {
    "dicom series": legit_series(series()),
    "dicom with other files": legit_series(series(one_more)),
    "dicom without suffix": legit_series(series(without_suffix)),
    "dicom multi-frame": legit(lambda folder: make_multiframe(folder / "frames.dcm"), dicom_voxels(), DICOM_AFFINE),
    "dicom one slice": legit(
        lambda folder: make_series(folder, dicom_voxels((8, 6, 1)))[0],
        dicom_voxels((8, 6, 1)) * 2.0 - 1000,
        DICOM_AFFINE,
    ),
    "dicom missing slice": Entry(series(lambda files: files[2].unlink()), "1 slice is missing between"),
    "dicom two missing slices": Entry(
        series(lambda files: [files[k].unlink() for k in (3, 4)], array=dicom_voxels((8, 6, 9))), "2 slices are missing"
    ),
    "dicom uneven": Entry(
        series(lambda files: change(files[4], ImagePositionPatient=[-10.0, 20, 41])), "slices are .* mm apart"
    ),
    "dicom mixed series": Entry(series(second_series), "holds 2 series"),
    "dicom doubled": Entry(
        series(lambda files: shutil.copy(files[1], files[1].with_name("z.dcm"))), "at the same position"
    ),
    "dicom tilted": Entry(series(step=np.array([0.0, 0.6, 2.5])), "gantry was tilted by 13.5 degrees"),
    "dicom localizer": Entry(
        series(lambda files: change(files[3], ImageOrientationPatient=[0, 1, 0, 0, 0, 1])), "another orientation"
    ),
    "dicom other size": Entry(series(lambda files: change(files[3], Rows=5, PixelData=bytes(80))), r"has 8x5 voxels"),
    "dicom colours": Entry(series(lambda files: change(files[3], SamplesPerPixel=3)), "holds colours"),
    "dicom without position": Entry(
        series(lambda files: change(files[3], ImagePositionPatient=None)), "no usable ImagePositionPatient"
    ),
    "dicom without voxels": Entry(series(lambda files: change(files[3], PixelData=None)), "has no voxels"),
    "dicom cut": Entry(series(lambda files: files[3].write_bytes(files[3].read_bytes()[:-40])), "damaged or truncated"),
    "dicom garbage": Entry(series(lambda files: files[3].write_bytes(b"no DICOM" * 99)), "is not a"),
    "dicom empty file": Entry(series(lambda files: files[3].write_bytes(b"")), "is empty"),
    "dicom huge": Entry(series(lambda files: change(files[3], Rows=60000, Columns=60000)), "declares 7200000000 bytes"),
    "dicom frames without places": Entry(multiframe_without_places, "does not say where each lies"),
    "dicom report only": Entry(series(Modality="SR"), "hold no image"),
    "dicom empty folder": Entry(lambda folder: _empty(folder / "series"), "holds no DICOM file"),
}


def _empty(folder: Path) -> Path:
    folder.mkdir()
    return folder
