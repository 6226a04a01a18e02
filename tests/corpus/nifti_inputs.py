"""NIfTI-1, NIfTI-2 and .hdr/.img: the families of reliability's corpus, made byte by byte."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medseg.io.formats.nifti_fields import HEADER_1
from tests.corpus.entry import AFFINE, SHAPE, Entry, voxels

GOOD_NAME = "scan.nii"
Bytes = Callable[[bytes], bytes]


def good_bytes(
    array: np.ndarray | None = None, affine: np.ndarray | None = AFFINE, kind: Any = nib.Nifti1Image
) -> bytes:
    """A sound NIfTI file, uncompressed."""
    array = voxels() if array is None else array
    return kind(array, affine, dtype=array.dtype).to_bytes()


def patched(**fields: Any) -> Bytes:
    """Set fields of a NIfTI-1 header."""

    def change(content: bytes) -> bytes:
        header = np.frombuffer(bytearray(content[:348]), dtype=HEADER_1)
        for name, value in fields.items():
            header[name] = value
        return header.tobytes() + content[348:]

    return change


def plain(change: Bytes, name: str = GOOD_NAME, **good: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(change(good_bytes(**good)))
        return folder / name

    return make


def packed(change: Bytes, before: Bytes = lambda content: content) -> Callable[[Path], Path]:
    """Change the compressed bytes (and before that, the plain ones)."""

    def make(folder: Path) -> Path:
        path = folder / "scan.nii.gz"
        path.write_bytes(change(gzip.compress(before(good_bytes()), 6, mtime=0)))
        return path

    return make


def flip(position: int) -> Bytes:
    return lambda content: content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]


def with_voxel(value: float, dtype: str = "f4") -> np.ndarray:
    array = voxels(dtype)
    array[2, 3, 4] = value
    return array


def endless(content: bytes) -> bytes:
    """A gzip stream that goes on for 300 MB of zeros behind the declared voxels."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    pieces = [packer.compress(content)] + [packer.compress(bytes(1 << 20)) for _ in range(300)]
    return b"".join([*pieces, packer.flush()])


def bomb(folder: Path) -> Path:
    path = folder / "scan.nii.gz"
    path.write_bytes(endless(good_bytes()))
    return path


def declared_bomb(folder: Path) -> Path:
    """0.3 MB that declare 300 MB of voxels more than the deflate bound lets them hold."""
    path = folder / "scan.nii.gz"
    path.write_bytes(gzip.compress(patched(dim=[3, 1000, 1000, 1000, 1, 1, 1, 1])(good_bytes())[:352] + bytes(1 << 20)))
    return path


def eight_gibibytes_over_eight_mebibytes(folder: Path) -> Path:
    path = folder / GOOD_NAME
    header = patched(dim=[3, 1024, 1024, 1024, 1, 1, 1, 1], datatype=64, bitpix=64)(good_bytes())[:352]
    with open(path, "wb") as file:
        file.write(header)
        file.truncate(8 << 20)
    return path


def pair(suffixes: tuple[str, str], *, keep: int | None = None, give: int = 0) -> Callable[[Path], Path]:
    """A .hdr/.img pair; `keep` bytes of the second file, 0 for none of it at all."""

    def make(folder: Path) -> Path:
        nib.save(nib.Nifti1Pair(voxels(), AFFINE), folder / f"scan{suffixes[1]}")
        second = folder / f"scan{suffixes[1]}"
        if keep == 0:
            second.unlink()
        elif keep is not None:
            second.write_bytes(second.read_bytes()[:keep])
        return folder / f"scan{suffixes[give]}"

    return make


def same(content: bytes) -> bytes:
    return content


NO_TRANSFORM = {"qform_code": 0, "sform_code": 0}
SHEAR = AFFINE + np.array([[0, 0, 0.9, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])

BROKEN: dict[str, Entry] = {
    "empty": Entry(plain(lambda _: b""), r"is empty \(0 bytes\)"),
    "text": Entry(plain(lambda _: b"this is not an image\n" * 40), "is not a NIfTI file"),
    "random bytes": Entry(plain(lambda _: np.random.default_rng(0).bytes(2000)), "is not a NIfTI file"),
    "header cut": Entry(plain(lambda content: content[:100]), "truncated inside its header"),
    "header only": Entry(plain(lambda content: content[:352]), "declares 480 bytes of voxels, the file holds 0"),
    "voxels cut": Entry(plain(lambda content: content[:-7]), "declares 480 bytes of voxels, the file holds 473"),
    "gzip cut": Entry(packed(lambda content: content[: len(content) // 2]), "compressed data end before"),
    "gzip without its end": Entry(packed(lambda content: content[:-4]), "compressed data end before"),
    "gzip head only": Entry(packed(lambda content: content[:10]), "too short for a gzip stream"),
    "gzip flipped byte": Entry(packed(flip(300)), "compressed data are damaged|declares|truncated|more data"),
    "gzip wrong checksum": Entry(packed(flip(-8 + 0)), "damaged"),
    "gzip wrong length": Entry(packed(flip(-4)), "damaged"),
    "gzip trailing garbage": Entry(packed(lambda content: content + b"garbage"), "not part of it"),
    "gzip twice": Entry(packed(lambda content: gzip.compress(content)), "is not a NIfTI file"),
    "gzip of plain cut": Entry(packed(same, before=lambda content: content[:-9]), "truncated"),
    "gzip bomb behind the voxels": Entry(bomb, "more data follow after the voxels"),
    "gzip bomb declared": Entry(declared_bomb, "compressed bytes hold at most"),
    "bad magic": Entry(plain(patched(magic=b"n+9")), "not its mark"),
    "analyze": Entry(plain(patched(magic=b"")), "Analyze 7.5"),
    "header length": Entry(plain(patched(sizeof_hdr=0)), "is not a NIfTI file"),
    "no axes": Entry(plain(patched(dim=[0, 8, 6, 5, 1, 1, 1, 1])), "declares 0 axes"),
    "nine axes": Entry(plain(patched(dim=[9, 8, 6, 5, 1, 1, 1, 1])), "declares 9 axes"),
    "zero-length axis": Entry(plain(patched(dim=[3, 8, 0, 5, 1, 1, 1, 1])), "an axis without voxels"),
    "negative axis": Entry(plain(patched(dim=[3, 8, -6, 5, 1, 1, 1, 1])), "an axis without voxels"),
    "32767 cubed": Entry(plain(patched(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1])), "more than the limit"),
    "8 GiB over 8 MiB": Entry(
        eight_gibibytes_over_eight_mebibytes, "declares 8589934592 bytes of voxels, the file holds"
    ),
    "one slice too many": Entry(plain(patched(dim=[3, 8, 6, 6, 1, 1, 1, 1])), "truncated or its header is wrong"),
    "one slice too few": Entry(plain(patched(dim=[3, 8, 6, 4, 1, 1, 1, 1])), "more data follow"),
    "voxels past the end": Entry(plain(patched(vox_offset=100000)), "the file holds 0"),
    "voxels before the start": Entry(plain(patched(vox_offset=-16)), "voxels begin at byte -16"),
    "voxels nowhere": Entry(plain(patched(vox_offset=np.nan)), "voxels begin at byte nan"),
    "voxels inside the header": Entry(plain(patched(vox_offset=100)), "inside its header"),
    "no datatype": Entry(plain(patched(datatype=0)), "holds no type"),
    "unknown datatype": Entry(plain(patched(datatype=999)), "datatype 999 does not exist"),
    "bits contradict": Entry(plain(patched(bitpix=32)), "contradicts itself"),
    "RGB": Entry(plain(patched(datatype=128, bitpix=24)), "RGB colours"),
    "complex": Entry(plain(patched(datatype=32, bitpix=64)), "complex numbers"),
    "128-bit floats": Entry(plain(patched(datatype=1536, bitpix=128)), "128-bit floats"),
    "NaN voxel": Entry(plain(same, array=with_voxel(np.nan)), "holds nan at voxel number 218"),
    "infinite voxel": Entry(plain(same, array=with_voxel(-np.inf)), "holds -inf"),
    "beyond float32": Entry(plain(same, array=with_voxel(1e300, "f8")), "holds inf"),
    "infinite slope": Entry(plain(patched(scl_slope=np.inf)), "are no scaling"),
    "NaN intercept": Entry(plain(patched(scl_slope=2, scl_inter=np.nan)), "are no scaling"),
    "singular sform": Entry(plain(patched(srow=np.zeros((3, 4)))), "singular"),
    "parallel axes": Entry(plain(patched(srow=np.ones((3, 4)))), "singular"),
    "NaN sform": Entry(plain(patched(srow=np.full((3, 4), np.nan))), "NaN or infinite entries"),
    "absurd spacing": Entry(plain(patched(srow=np.eye(3, 4) * 1e9)), "absurd"),
    "sheared sform": Entry(plain(same, affine=SHEAR), r"sheared: .* degrees away"),
    "impossible quaternion": Entry(plain(patched(sform_code=0, qform_code=1, quaternion=[1, 1, 1])), "no rotation"),
    "qform with pixdim 0": Entry(
        plain(patched(sform_code=0, qform_code=1, pixdim=[1, 0, 1, 1, 0, 0, 0, 0])), "no rotation with positive spacing"
    ),
    "no transform, pixdim 0": Entry(plain(patched(**NO_TRANSFORM, pixdim=np.zeros(8))), "is no spacing in mm"),
    "no transform, pixdim NaN": Entry(plain(patched(**NO_TRANSFORM, pixdim=np.full(8, np.nan))), "is no spacing in mm"),
    "no transform, pixdim negative": Entry(
        plain(patched(**NO_TRANSFORM, pixdim=[1, -1, 1, 1, 0, 0, 0, 0])), "is no spacing in mm"
    ),
    "unknown unit": Entry(plain(patched(xyzt_units=5)), "spatial unit 5 does not exist"),
    "five axes": Entry(plain(same, array=voxels("i2", (4, 3, 2, 2, 3))), r"expected \(X, Y, Z\) or"),
    "header without voxels": Entry(pair((".hdr", ".img"), keep=0), "scan.img is not beside it"),
    "voxels without header": Entry(
        lambda folder: (
            pair((".hdr", ".img"), give=1)(folder).with_name("scan.hdr").rename(folder / "x") and folder / "scan.img"
        ),
        r"scan\.hdr: no such file",
    ),
    "pair cut": Entry(pair((".hdr", ".img"), keep=100), "the file holds 100"),
    "missing file": Entry(lambda folder: folder / "no.nii.gz", "no such file"),
    "a folder named like a file": Entry(
        lambda folder: _folder(folder / "scan.nii.gz"), "holds no DICOM file|is a folder"
    ),
}


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def good() -> tuple[np.ndarray, np.ndarray]:
    return voxels()[None], AFFINE.astype(np.float32)


def legit(
    make: Callable[[Path], Path], array: np.ndarray | None = None, affine: Any = AFFINE, warning: str = ""
) -> Entry:
    """An input that must give these voxels and this affine (None: not compared)."""

    def expected() -> tuple[np.ndarray, np.ndarray | None]:
        values = voxels() if array is None else array
        return (values[None] if values.ndim == 3 else values), None if affine is None else np.asarray(affine)

    return Entry(make, None, expected=expected, warning=warning)


def _big_endian(kind: Any, header: Any) -> bytes:
    image_header = header(endianness=">")
    image_header.set_data_dtype(">i2")
    return kind(voxels(), AFFINE, image_header).to_bytes()


def _with_extension() -> bytes:
    image = nib.Nifti1Image(voxels(), AFFINE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"forty-two" * 9))
    return image.to_bytes()


def _turned(code_q: int, code_s: int) -> bytes:
    image = nib.Nifti1Image(voxels(), None)
    image.set_qform(np.diag([-1, 1, 2, 1]), code=code_q)
    image.set_sform(np.diag([3, 1, 2, 1]), code=code_s)
    return image.to_bytes()


def _two_members(content: bytes) -> bytes:
    return gzip.compress(content[:500]) + gzip.compress(content[500:])


MICROMETRES = np.diag([0.001, 0.001, 0.001, 1.0]) @ AFFINE
GUESS = np.diag([-2.0, 3.0, 4.0, 1.0])
GUESS[:3, 3] = [7.0, -7.5, -8.0]

LEGITIMATE: dict[str, Entry] = {
    "plain": legit(plain(same)),
    "gzip": legit(packed(same)),
    "big-endian": legit(plain(lambda _: _big_endian(nib.Nifti1Image, nib.Nifti1Header))),
    "NIfTI-2": legit(plain(same, kind=nib.Nifti2Image)),
    "NIfTI-2 big-endian": legit(plain(lambda _: _big_endian(nib.Nifti2Image, nib.Nifti2Header))),
    "pair": legit(pair((".hdr", ".img"))),
    "pair by its voxels": legit(pair((".hdr", ".img"), give=1)),
    "pair gzip": legit(pair((".hdr.gz", ".img.gz"))),
    "one slice": legit(plain(same, array=voxels("i2", (8, 6, 1))), voxels("i2", (8, 6, 1))),
    "two axes": legit(plain(same, array=voxels("i2", (8, 6))), voxels("i2", (8, 6))[:, :, None]),
    "one voxel": legit(plain(same, array=voxels("i2", (1, 1, 1))), voxels("i2", (1, 1, 1))),
    "needle": legit(plain(same, array=voxels("i2", (1, 1, 3001))), voxels("i2", (1, 1, 3001))),
    "prime sizes": legit(plain(same, array=voxels("u1", (13, 11, 7))), voxels("u1", (13, 11, 7))),
    "float64": legit(plain(same, array=voxels("f8") / 8), voxels("f4") / 8),
    "uint64": legit(plain(same, array=voxels("u8")), voxels("f4")),
    "scaled": legit(plain(patched(scl_slope=0.5, scl_inter=-3)), voxels("f4") * 0.5 - 3),
    "slope 0 with intercept 5": legit(plain(patched(scl_slope=0, scl_inter=5)), warning="scl_inter 5 is not applied"),
    "four axes as channels": legit(
        plain(same, array=voxels("i2", (8, 6, 5, 2))), np.moveaxis(voxels("i2", (8, 6, 5, 2)), -1, 0)
    ),
    "unicode name": legit(plain(same, name="Kopf üß 脳.nii")),
    "spaces and dots": legit(plain(same, name="my scan. v1.2.nii")),
    "upper-case suffix": legit(plain(same, name="SCAN.NII")),
    "plain under a gzip name": legit(plain(same, name="scan.nii.gz")),
    "gzip under a plain name": legit(plain(gzip.compress)),
    "two gzip members": legit(plain(_two_members, name="scan.nii.gz")),
    "zeros behind gzip": legit(packed(lambda content: content + bytes(100))),
    "zeros behind the voxels": legit(plain(lambda content: content + bytes(512))),
    "extension": legit(plain(lambda _: _with_extension())),
    "offset left empty": legit(plain(patched(vox_offset=0))),
    "left-handed": legit(plain(same, affine=np.diag([-1.0, 1, 1, 1])), affine=np.diag([-1.0, 1, 1, 1])),
    "qform only": legit(plain(lambda _: _turned(1, 0)), affine=np.diag([-1.0, 1, 2, 1])),
    "sform only": legit(plain(lambda _: _turned(0, 2)), affine=np.diag([3.0, 1, 2, 1])),
    "qform against sform": legit(
        plain(lambda _: _turned(1, 2)), affine=np.diag([3.0, 1, 2, 1]), warning="qform and sform disagree"
    ),
    "no transform": legit(
        plain(patched(**NO_TRANSFORM, pixdim=[1, 2, 3, 4, 0, 0, 0, 0])),
        affine=GUESS,
        warning="left and right are a guess",
    ),
    "micrometres": legit(plain(patched(xyzt_units=3)), affine=MICROMETRES, warning="micrometres"),
    "sform with pixdim 0": legit(plain(patched(pixdim=np.zeros(8)))),
}
assert voxels().shape == SHAPE


def label_entry(
    array: np.ndarray, error: str | None = None, expected: np.ndarray | None = None, warning: str = ""
) -> Entry:
    wanted = (lambda: (expected if expected is not None else array, None)) if error is None else None
    return Entry(plain(same, array=array, name="label.nii"), error, "label", wanted, warning)


LABELS: dict[str, Entry] = {
    "fractions": label_entry(voxels("f4") / 7, "expected whole label numbers"),
    "probabilities": label_entry(np.random.default_rng(0).random(SHAPE).astype("f4"), "probability map"),
    "NaN label": label_entry(with_voxel(np.nan), "holds the value nan"),
    "label beyond 32 bits": label_entry(with_voxel(1e15, "f8"), "expected at most 32 bits"),
    "one-hot": label_entry(voxels("u1", (8, 6, 5, 3)), "has 3 channels"),
    "scaled to fractions": Entry(plain(patched(scl_slope=0.3)), "expected whole label numbers", "label"),
    "nearly whole": label_entry((voxels("f4") * 0.999995).astype("f4"), expected=voxels(), warning="were rounded"),
    "whole floats": label_entry(voxels("f8"), expected=voxels()),
    "negative labels": label_entry(voxels() - 50),
    "uint16 65535": label_entry(voxels("u2") * 600),
    "int64": label_entry(voxels("i8")),
    "fourth axis of one": label_entry(voxels("i2", (8, 6, 5, 1)), expected=voxels("i2", (8, 6, 5, 1))[..., 0]),
    "empty map": label_entry(np.zeros(SHAPE, "u1")),
}
