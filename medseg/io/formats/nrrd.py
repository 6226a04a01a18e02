"""NRRD in and out: text header, raw or gzip voxels, attached or detached; world axes turned into RAS+.

Source: "Definition of NRRD File Format", teem.sourceforge.net/nrrd/format.html (formats NRRD0001 to NRRD0005).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import DataError, GeometryError, UnreadableFileError
from medseg.types import Affine

from ..atomic import atomic_path
from ..geometry import check_affine
from ..header import Header
from .nifti_write import gzip_writer, write_first_axis_fastest
from .stream import Encoding, file_size
from .text_header import file_beside, lines_of, named_files, numbers, three_axes
from .voxels import Payload

_TYPES = {
    "i1": "signed char|int8|int8_t",
    "u1": "uchar|unsigned char|uint8|uint8_t",
    "i2": "short|short int|signed short|signed short int|int16|int16_t",
    "u2": "ushort|unsigned short|unsigned short int|uint16|uint16_t",
    "i4": "int|signed int|int32|int32_t",
    "u4": "uint|unsigned int|uint32|uint32_t",
    "i8": "longlong|long long|long long int|signed long long|signed long long int|int64|int64_t",
    "u8": "ulonglong|unsigned long long|unsigned long long int|uint64|uint64_t",
    "f4": "float",
    "f8": "double",
}
TYPES = {name: np.dtype(code) for code, names in _TYPES.items() for name in names.split("|")}
# signs that turn the named world axes into right, anterior, superior
SPACES = {
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
}
UNITS = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001}


def describe(path: Path, *, allow_shear: bool = False) -> tuple[Header, Payload]:
    """What an NRRD file holds and where, from its header.

    Raises:
        UnreadableFileError: missing, not NRRD, or a header that contradicts itself.
        DataError: an encoding or axes that are not supported.
        GeometryError: no usable affine.
    """
    fields, body = _fields(path)
    dimension = _whole(path, fields, "dimension")
    sizes = [int(value) for value in numbers(path, "sizes", _need(path, fields, "sizes"), count=dimension, whole=True)]
    if min(sizes) < 1:
        raise UnreadableFileError(
            f"{path}: declares the shape {tuple(sizes)}; an axis without voxels. Export it again."
        )
    warnings: list[str] = []
    directions, channel_axis = _directions(path, fields, dimension, warnings)
    affine = _affine(path, fields, directions, warnings)
    check_affine(affine, path, allow_shear=allow_shear)
    payload = _payload(path, fields, body, sizes, channel_axis)
    channels = 1 if channel_axis is None else sizes[channel_axis]
    x, y, z = three_axes([size for axis, size in enumerate(sizes) if axis != channel_axis])
    header = Header(
        path,
        (x, y, z),
        affine,
        payload.dtype.newbyteorder("="),
        channels=channels,
        format="nrrd",
        warnings=tuple(warnings),
    )
    return header, payload


def voxel_files(path: Path) -> list[Path]:
    """The files that `data file` names, those of a LIST and of a pattern included; none when the voxels follow the header."""
    return named_files(path, "data file")


def write(path: Path, array: NDArray[Any], like: Header) -> None:
    """Write (X, Y, Z) or (C, X, Y, Z), gzip, in LPS; the affine is written with all its digits.

    Raises:
        ResourceError: the file cannot be written.
    """
    lps = np.diag([-1.0, -1.0, 1.0]) @ like.affine[:3]
    vectors = [f"({','.join(repr(float(value) + 0.0) for value in lps[:, axis])})" for axis in range(4)]
    channels = array.shape[0] if array.ndim == 4 else 1
    more = channels > 1
    dtype = array.dtype.newbyteorder("=")
    name = next(names.split("|")[-1] for code, names in _TYPES.items() if np.dtype(code) == dtype)
    lines = [
        "NRRD0004",
        f"type: {name}",
        f"dimension: {3 + more}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(str(extent) for extent in (*array.shape[-3:], *([channels] if more else [])))}",
        f"space directions: {' '.join(vectors[:3])}{' none' if more else ''}",
        f"kinds: domain domain domain{' vector' if more else ''}",
        "endian: little",
        "encoding: gzip",
        f"space origin: {vectors[3]}",
    ]
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(("\n".join(lines) + "\n\n").encode("ascii"))
        with gzip_writer(file, array.nbytes) as stream:
            write_first_axis_fastest(stream, array.astype(dtype.newbyteorder("<"), copy=False))


def _fields(path: Path) -> tuple[dict[str, str], int]:
    lines, body = lines_of(path, end=b"")
    if not lines or not re.fullmatch(r"NRRD000[1-5]", lines[0]):
        raise UnreadableFileError(f"{path}: is not an NRRD file; check the name, or export it again as NRRD.")
    fields: dict[str, str] = {}
    for line in lines[1:]:
        if line.startswith("#") or ":=" in line.split(": ", 1)[0]:
            continue  # comments and free key/value pairs say nothing about voxels
        key, colon, value = line.partition(":")
        if re.fullmatch(r"data ?file:\s*LIST.*", line, re.IGNORECASE):
            fields["datafile"] = (
                "LIST"  # names of files follow, to the header's end; refused where the file is looked for
            )
            break
        if not colon:
            raise UnreadableFileError(
                f"{path}: the header line {line[:60]!r} is not 'field: value'; the header is damaged."
            )
        key = key.strip().lower().replace(" ", "")
        if key in fields:
            raise UnreadableFileError(f"{path}: the header gives {key!r} twice; the header is damaged.")
        fields[key] = value.strip()
    return fields, body


def _need(path: Path, fields: dict[str, str], key: str) -> str:
    if key not in fields:
        raise UnreadableFileError(f"{path}: the header has no {key!r}; the header is damaged. Export the file again.")
    return fields[key]


def _whole(path: Path, fields: dict[str, str], key: str) -> int:
    value = int(numbers(path, key, _need(path, fields, key), count=1, whole=True)[0])
    if not 1 <= value <= 4:
        raise DataError(f"{path}: has {value} axes, expected 2 to 4 (X, Y, Z and channels).")
    return value


def _directions(
    path: Path, fields: dict[str, str], dimension: int, warnings: list[str]
) -> tuple[NDArray[np.float64], int | None]:
    """World directions, one row per spatial axis, and which axis holds channels."""
    if "spacedirections" in fields:
        words = re.findall(r"\([^)]*\)|none", fields["spacedirections"].lower())
        if len(words) != dimension:
            raise UnreadableFileError(f"{path}: 'space directions' has {len(words)} entries for {dimension} axes.")
        without = [axis for axis, word in enumerate(words) if word == "none"]
        rows = [numbers(path, "space directions", word.strip("()"), count=3) for word in words if word != "none"]
    else:
        spacings = numbers(
            path, "spacings", fields.get("spacings", " ".join(["1"] * dimension)), count=dimension, finite=False
        )
        without = [3] if dimension == 4 else []
        known = [1.0 if np.isnan(value) else value for axis, value in enumerate(spacings) if axis not in without]
        rows = [np.eye(3)[axis] * value for axis, value in enumerate(known)]
        missing = "spacing nor orientation" if "spacings" not in fields else "orientation"
        warnings.append(f"the header has no {missing}; left and right are a guess (as ITK reads it)")
    if len(without) > 1 or len(rows) not in (2, 3):
        raise DataError(
            f"{path}: has {len(rows)} spatial and {len(without)} other axes, expected X, Y, Z and at most one more."
        )
    if len(rows) == 2:
        normal = np.cross(rows[0], rows[1])
        rows.append(normal / max(float(np.linalg.norm(normal)), 1e-30))
    return np.array(rows), without[0] if without else None


def _affine(path: Path, fields: dict[str, str], directions: NDArray[np.float64], warnings: list[str]) -> Affine:
    space = fields.get("space", "").lower()
    if space in SPACES:
        signs = SPACES[space]
    elif space == "" or space.startswith("scanner-xyz"):
        signs = SPACES["lps"]
        if "spacedirections" in fields:
            warnings.append("the header does not name its world axes; they are taken as left-posterior-superior")
    else:
        raise GeometryError(f"{path}: the space {fields['space']!r} is not supported; expected {', '.join(SPACES)}.")
    words = set(re.findall(r'"([^"]*)"', fields.get("spaceunits", ""))) - {"", "???", "none"}
    if len(words) > 1 or not words <= set(UNITS):
        raise GeometryError(f"{path}: lengths are in {sorted(words)}, expected one of {', '.join(UNITS)}.")
    unit = UNITS[words.pop()] if words else 1.0
    if unit != 1.0:
        warnings.append("lengths are not stored in mm and were converted")
    origin = numbers(path, "space origin", fields.get("spaceorigin", "(0,0,0)").strip("()"), count=3)
    affine = np.eye(4)
    affine[:3, :3] = np.array(signs)[:, None] * directions.T * unit
    affine[:3, 3] = np.array(signs) * origin * unit
    return affine


def _payload(path: Path, fields: dict[str, str], body: int, sizes: list[int], channel_axis: int | None) -> Payload:
    word = _need(path, fields, "type").lower()
    if word not in TYPES:
        raise DataError(f"{path}: voxels of type {word!r} are not supported; expected one number per voxel.")
    dtype = TYPES[word]
    if dtype.itemsize > 1:
        endian = _need(path, fields, "endian").lower()
        if endian not in ("little", "big"):
            raise UnreadableFileError(
                f"{path}: endian is {endian!r}, expected 'little' or 'big'; the header is damaged."
            )
        dtype = dtype.newbyteorder("<" if endian == "little" else ">")
    encodings: dict[str, Encoding] = {"raw": "raw", "gzip": "gzip", "gz": "gzip"}
    word = _need(path, fields, "encoding").lower()
    if word not in encodings:
        raise DataError(
            f"{path}: the encoding {word!r} is not supported, expected raw or gzip; save it again with gzip."
        )
    encoding = encodings[word]
    data, start = path, body
    detached = fields.get("datafile")
    if detached is not None:
        data, start = file_beside(path, detached), 0
    lines = int(numbers(path, "line skip", fields.get("lineskip", "0"), count=1, whole=True)[0])
    skip = int(numbers(path, "byte skip", fields.get("byteskip", "0"), count=1, whole=True)[0])
    if lines or skip < -1 or (skip == -1 and encoding != "raw"):
        raise DataError(f"{path}: line skip {lines} and byte skip {skip} are not supported; save the file again.")
    if skip == -1:
        needed = int(np.prod([int(size) for size in sizes], dtype=object)) * dtype.itemsize
        start, skip = max(file_size(data) - needed, start), 0
    return Payload(data, encoding, start, skip, dtype, tuple(sizes), channel_axis)
