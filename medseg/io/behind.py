"""What a volume is made of on the disk, and the one hash that stands for it.

A path names a volume; its voxels may lie in other files: a pair (.hdr/.img), a header with detached voxels (.mhd, .nhdr), or
a folder of DICOM slices. Whoever asks whether a volume is still the same asks here, so that none of those files is forgotten.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from medseg.errors import DataError
from medseg.types import FilePath

from .datalist import Case
from .formats.dicom import dicom_files
from .formats.stream import open_file
from .volume import voxel_files

Read = TypeVar("Read")
TRIES = 3


def files_behind(path: FilePath) -> tuple[Path, ...]:
    """Every file that a volume's voxels or geometry come from, the named one first; of a folder, its DICOM slices.

    A damaged header names no further files here: the reader says what is wrong with it.

    Raises:
        UnreadableFileError: a folder that is missing, or without a DICOM file.

    Example:
        >>> files_behind("scan.nii.gz")
        (PosixPath('scan.nii.gz'),)
    """
    path = Path(path)
    if path.is_dir():
        return tuple(dicom_files(path))
    return tuple(dict.fromkeys((path, *voxel_files(path))))


def case_files(case: Case) -> tuple[Path, ...]:
    """The files behind all volumes of a case, its label map included."""
    volumes = [*case.images, *([case.label] if case.label else [])]
    return tuple(file for volume in volumes for file in files_behind(volume))


def content_digest(path: Path) -> str:
    """SHA-256 of one file's bytes."""
    digest = hashlib.sha256()
    with open_file(path) as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def volume_digest(path: FilePath) -> str:
    """SHA-256 of a volume: of the bytes of its only file, or of the hashes of its files, whatever their names."""
    digests = [content_digest(file) for file in files_behind(path)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def case_digest(case: Case) -> str:
    """One hash of a case's images: their contents, their order, and which channels it lacks."""
    facts = [*(volume_digest(path) for path in case.images), *(f"no channel {channel}" for channel in case.missing)]
    return facts[0] if len(facts) == 1 else hashlib.sha256("\n".join(facts).encode()).hexdigest()


def read_unchanged(paths: Sequence[Path], read: Callable[[], Read]) -> Read:
    """What `read` returns, all of whose bytes belong to one state of the volumes: read again when a file was exchanged meanwhile.

    Args:
        paths: the volumes that `read` reads, and whose hash it may take.
        read: called again up to three times.

    Raises:
        DataError: the files kept changing; the rest as `read`.
    """
    for _ in range(TRIES):
        before = _state(paths)
        found = read()
        if _state(paths) == before:
            return found
    raise DataError(f"{paths[0]}: was written while it was read, {TRIES} times; try again when its copying has ended.")


def stamp_of(found: os.stat_result) -> list[int]:
    """Identity, size and times of a file: as long as they stay, so do its bytes. Nobody can set the last one."""
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _state(paths: Sequence[Path]) -> list[tuple[str, list[int]]]:
    state = []
    for file in (file for path in paths for file in files_behind(path)):
        with open_file(file) as stream:
            state.append((str(file), stamp_of(os.fstat(stream.fileno()))))
    return state
