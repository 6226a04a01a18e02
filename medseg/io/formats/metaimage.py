"""MetaImage in (.mha, or .mhd with its voxels beside it; raw or zlib) and out (.mha); LPS turned into RAS+.

Source: MetaIO's "MetaImage" documentation (itk.org/Wiki/ITK/MetaIO); ITK's reader is the twin in the tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import DataError, UnreadableFileError
from medseg.types import Affine

from ..atomic import atomic_path
from ..geometry import check_affine
from ..header import Header
from .buffers import as_bytes
from .stream import file_size
from .text_header import file_beside, lines_of, named_files, numbers, three_axes
from .voxels import Payload

TYPES: dict[str, np.dtype[Any]] = {
    "MET_CHAR": np.dtype("i1"),
    "MET_UCHAR": np.dtype("u1"),
    "MET_SHORT": np.dtype("i2"),
    "MET_USHORT": np.dtype("u2"),
    "MET_INT": np.dtype("i4"),
    "MET_UINT": np.dtype("u4"),
    "MET_LONG": np.dtype("i4"),  # MetaIO: 4 bytes on every platform
    "MET_ULONG": np.dtype("u4"),
    "MET_LONG_LONG": np.dtype("i8"),
    "MET_ULONG_LONG": np.dtype("u8"),
    "MET_FLOAT": np.dtype("f4"),
    "MET_DOUBLE": np.dtype("f8"),
}


def describe(path: Path, *, allow_shear: bool = False) -> tuple[Header, Payload]:
    """What a MetaImage holds and where, from its header.

    Raises:
        UnreadableFileError: missing, not MetaImage, or a header that contradicts itself.
        DataError: voxels that are not numbers, or more than three axes.
        GeometryError: no usable affine.
    """
    fields, body = _fields(path)
    axes = int(numbers(path, "NDims", _need(path, fields, "NDims"), count=1, whole=True)[0])
    if axes not in (2, 3):
        raise DataError(f"{path}: has {axes} axes, expected 2 or 3; split it into volumes first.")
    sizes = [int(value) for value in numbers(path, "DimSize", _need(path, fields, "DimSize"), count=axes, whole=True)]
    channels = int(numbers(path, "channels", fields.get("ElementNumberOfChannels", "1"), count=1, whole=True)[0])
    if min(*sizes, channels) < 1:
        raise UnreadableFileError(
            f"{path}: declares the shape {tuple(sizes)}; an axis without voxels. Export it again."
        )
    warnings: list[str] = []
    affine = _affine(path, fields, axes, warnings)
    check_affine(affine, path, allow_shear=allow_shear)
    payload = _payload(path, fields, body, sizes, channels)
    header = Header(
        path,
        three_axes(sizes),
        affine,
        payload.dtype.newbyteorder("="),
        channels=channels,
        format="metaimage",
        warnings=tuple(warnings),
    )
    return header, payload


def voxel_files(path: Path) -> list[Path]:
    """The files that `ElementDataFile` names, those of a LIST and of a pattern included; none when it is LOCAL."""
    return named_files(path, "ElementDataFile")


def write(path: Path, array: NDArray[Any], like: Header) -> None:
    """Write (X, Y, Z) or (C, X, Y, Z) as .mha, zlib by isal, in LPS; the affine is written with all its digits.

    Raises:
        ResourceError: the file cannot be written.
    """
    lps = np.diag([-1.0, -1.0, 1.0]) @ like.affine[:3]
    spacing = np.linalg.norm(lps[:, :3], axis=0)
    rows = (lps[:, :3] / spacing).T  # one row per voxel axis
    dtype = array.dtype.newbyteorder("=")
    channels = array.shape[0] if array.ndim == 4 else 1
    packed = _packed(array, dtype)
    lines = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = True",
        f"CompressedDataSize = {len(packed)}",
        f"TransformMatrix = {_text(rows.ravel())}",
        f"Offset = {_text(lps[:, 3])}",
        "CenterOfRotation = 0 0 0",
        f"ElementSpacing = {_text(spacing)}",
        f"DimSize = {' '.join(str(extent) for extent in array.shape[-3:])}",
        *([f"ElementNumberOfChannels = {channels}"] if channels > 1 else []),
        f"ElementType = {next(name for name, known in TYPES.items() if known == dtype)}",
        "ElementDataFile = LOCAL",
    ]
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(("\n".join(lines) + "\n").encode("ascii"))
        file.write(packed)


def _packed(array: NDArray[Any], dtype: np.dtype[Any]) -> bytes:
    from isal import isal_zlib

    ordered = array.astype(dtype.newbyteorder("<"), copy=False)
    # channels are the fastest axis in this format
    numbers = ordered.transpose(3, 2, 1, 0) if array.ndim == 4 else ordered.transpose(2, 1, 0)
    return bytes(isal_zlib.compress(as_bytes(np.ascontiguousarray(numbers)), level=1))


def _text(values: NDArray[np.float64]) -> str:
    return " ".join(repr(float(value) + 0.0) for value in values)


def _fields(path: Path) -> tuple[dict[str, str], int]:
    lines, body = lines_of(path, end=b"ElementDataFile")
    fields: dict[str, str] = {}
    for line in lines:
        key, equals, value = line.partition("=")
        if not equals and line.strip():
            raise UnreadableFileError(f"{path}: is not a MetaImage file: the line {line[:60]!r} is not 'Key = value'.")
        fields[key.strip()] = value.strip()
    if "ElementDataFile" not in fields or fields.get("ObjectType", "Image").lower() != "image":
        raise UnreadableFileError(f"{path}: is not a complete MetaImage header; copy or export the file again.")
    return fields, body


def _need(path: Path, fields: dict[str, str], key: str) -> str:
    if key not in fields:
        raise UnreadableFileError(f"{path}: the header has no {key!r}; the header is damaged. Export the file again.")
    return fields[key]


def _affine(path: Path, fields: dict[str, str], axes: int, warnings: list[str]) -> Affine:
    spacing_text = fields.get("ElementSpacing", fields.get("ElementSize"))
    if spacing_text is None:
        warnings.append("the header has no spacing; 1 mm is assumed")
    spacing = numbers(path, "ElementSpacing", spacing_text or " ".join(["1"] * axes), count=axes)
    origin_text = next(
        (fields[key] for key in ("Offset", "Position", "Origin") if key in fields), " ".join(["0"] * axes)
    )
    origin = numbers(path, "Offset", origin_text, count=axes)
    identity = " ".join(str(value) for value in np.eye(axes).ravel())
    matrix_text = next((fields[key] for key in ("TransformMatrix", "Rotation", "Orientation") if key in fields), None)
    if matrix_text is None:
        warnings.append("the header has no orientation; left and right are a guess (as ITK reads it)")
    # one row per voxel axis: its direction in the world
    directions = numbers(path, "TransformMatrix", matrix_text or identity, count=axes * axes).reshape(axes, axes).T
    lps = np.eye(4)
    lps[:axes, :axes] = directions * spacing
    lps[:axes, 3] = origin
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps


def _payload(path: Path, fields: dict[str, str], body: int, sizes: list[int], channels: int) -> Payload:
    word = _need(path, fields, "ElementType")
    if word not in TYPES:
        raise DataError(f"{path}: voxels of type {word!r} are not supported; expected one number per voxel.")
    if not _flag(path, fields, ("BinaryData",), default=True):
        raise DataError(f"{path}: stores its voxels as text; save it again as binary data.")
    big = _flag(path, fields, ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"), default=False)
    dtype = TYPES[word].newbyteorder(">" if big else "<")
    for key, neutral in (("ElementToIntensityFunctionSlope", 1.0), ("ElementToIntensityFunctionOffset", 0.0)):
        if key in fields and float(numbers(path, key, fields[key], count=1)[0]) != neutral:
            raise DataError(f"{path}: scales its voxels by {key}, which ITK ignores; save it again without scaling.")
    compressed = _flag(path, fields, ("CompressedData",), default=False)
    name = fields["ElementDataFile"]
    data, start = (path, body) if name.upper() == "LOCAL" else (file_beside(path, name), 0)
    shape = (channels, *sizes) if channels > 1 else tuple(sizes)
    header_size = int(numbers(path, "HeaderSize", fields.get("HeaderSize", "0"), count=1, whole=True)[0])
    if header_size == -1 and not compressed:
        needed = int(np.prod([int(extent) for extent in shape], dtype=object)) * dtype.itemsize
        start = max(file_size(data) - needed, start)
    elif header_size > 0:
        start += header_size
    elif header_size < 0:
        raise UnreadableFileError(f"{path}: HeaderSize is {header_size}; the header is damaged.")
    return Payload(data, "zlib" if compressed else "raw", start, 0, dtype, shape, 0 if channels > 1 else None)


def _flag(path: Path, fields: dict[str, str], keys: tuple[str, ...], *, default: bool) -> bool:
    word = next((fields[key].lower() for key in keys if key in fields), str(default).lower())
    if word not in ("true", "false", "1", "0"):
        raise UnreadableFileError(f"{path}: {keys[0]} is {word!r}, expected True or False; the header is damaged.")
    return word in ("true", "1")
