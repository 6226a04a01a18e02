"""How much one file may ask for, decided before anything is allocated."""

from __future__ import annotations

import os
from pathlib import Path

from medseg.errors import ConfigError, ResourceError, UnreadableFileError
from medseg.free_memory import free_memory

# 512 x 512 x 5700: beyond any clinical scan, within what a workstation holds as float32 (6 GB)
MAX_VOXELS = 1_500_000_000
# A deflate stream cannot grow by more: 258 bytes from two bits, plus block overhead (zlib's technical notes)
DEFLATE_BOUND = 1032
# Memory is worth asking about only when a request is large against an idle process
_ASK_ABOVE_BYTES = 256 * 2**20


def voxel_limit(max_voxels: int | None = None) -> int:
    """The limit that holds: the argument, else MEDSEG_MAX_VOXELS, else `MAX_VOXELS`."""
    if max_voxels is not None:
        return max_voxels
    word = os.environ.get("MEDSEG_MAX_VOXELS", "")
    if not word:
        return MAX_VOXELS
    if not word.isdigit() or int(word) < 1:
        raise ConfigError(f"MEDSEG_MAX_VOXELS is {word!r}, expected a positive whole number of voxels.")
    return int(word)


def check_voxels(path: Path, voxels: int, max_voxels: int | None = None) -> None:
    """Refuse a file that declares more numbers than the limit. Raises UnreadableFileError."""
    limit = voxel_limit(max_voxels)
    if voxels > limit:
        raise UnreadableFileError(
            f"{path}: declares {voxels} voxels, more than the limit of {limit}; if the file is really that large, "
            "raise the limit with the environment variable MEDSEG_MAX_VOXELS."
        )


def check_compressed(path: Path, declared_bytes: int, compressed_bytes: int) -> None:
    """Refuse a size that deflate cannot hold in the given number of compressed bytes. Raises UnreadableFileError."""
    if declared_bytes > DEFLATE_BOUND * compressed_bytes:
        raise UnreadableFileError(
            f"{path}: declares {declared_bytes} bytes of voxels, but its {compressed_bytes} compressed bytes hold at most "
            f"{DEFLATE_BOUND * compressed_bytes}; the file is truncated or its header is wrong. Copy or export it again."
        )


def check_memory(path: Path, needed_bytes: int) -> None:
    """Refuse an array that this machine cannot hold now. Raises ResourceError with both numbers."""
    if needed_bytes < _ASK_ABOVE_BYTES:
        return
    free = free_memory()
    if needed_bytes > free:
        raise ResourceError(
            f"{path}: needs {needed_bytes / 2**30:.1f} GiB for its voxels, {free / 2**30:.1f} GiB of memory are free; "
            "close other programs, crop the volume or use a larger machine."
        )
