"""Unpack a zip that a stranger made: every entry is judged by its header before one byte is written.

Refused: absolute paths, `..`, drive letters, backslashes, links, devices, encrypted entries, two entries of one name
(also in another case), too many entries, and entries that grow more than 200 times or beyond the size limit.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from medseg.errors import BundleError, UntrustedBundleError
from medseg.io.whole_folders import temporary_folder

MAX_ENTRIES = 10_000
MAX_RATIO = 200  # of unpacked to packed bytes; real bundles stay below 20
MAX_BYTES = 8 << 30
MAX_NAME = 1000  # characters of a name
MAX_SUMS = 4 << 20
PIECE = 1 << 20


def _has_bytes(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _key(name: str) -> str:
    """What a file system that ignores case, and forms of one letter, takes for the same name."""
    return unicodedata.normalize("NFKC", name.rstrip("/")).casefold()


def _judge_name(name: str, archive: Path) -> None:
    if not name.strip("/") or not name.isprintable() or len(name) > MAX_NAME or not _has_bytes(name):
        raise UntrustedBundleError(
            f"{archive}: refused, the entry {name[:80]!r} is no name: empty, with control characters, or endless"
        )
    path = PurePosixPath(name)
    if path.is_absolute() or "\\" in name or re.match(r"^[A-Za-z]:", name):
        raise UntrustedBundleError(f"{archive}: refused, the entry {name!r} has an absolute or foreign path")
    if ".." in path.parts:
        raise UntrustedBundleError(f"{archive}: refused, the entry {name!r} climbs out of the folder")


def _judge_kind(entry: zipfile.ZipInfo, archive: Path) -> None:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "a link" if kind == stat.S_IFLNK else "no plain file"
        raise UntrustedBundleError(f"{archive}: refused, the entry {entry.filename!r} is {what}")
    if entry.flag_bits & 0x1:
        raise UntrustedBundleError(f"{archive}: refused, the entry {entry.filename!r} is encrypted")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UntrustedBundleError(f"{archive}: refused, the entry {entry.filename!r} uses a rare compression")


def judge(entries: list[zipfile.ZipInfo], archive: Path) -> None:
    """Refuse an archive by its table of contents.

    Raises:
        UntrustedBundleError: names the first entry that is not acceptable.
    """
    if len(entries) > MAX_ENTRIES:
        raise UntrustedBundleError(f"{archive}: refused, {len(entries)} entries, more than {MAX_ENTRIES}")
    packed = max(1, archive.stat().st_size)
    total = 0
    seen: set[str] = set()
    for entry in entries:
        _judge_name(entry.filename, archive)
        _judge_kind(entry, archive)
        key = _key(entry.filename)
        if key in seen:
            raise UntrustedBundleError(f"{archive}: refused, two entries are named {entry.filename!r}")
        seen.add(key)
        total += entry.file_size
        if entry.file_size > MAX_RATIO * max(1, entry.compress_size) or total > MAX_RATIO * packed:
            raise UntrustedBundleError(
                f"{archive}: refused, the entry {entry.filename!r} would grow to {entry.file_size} bytes (a bomb)"
            )
    _judge_places(entries, archive)
    if total > MAX_BYTES:
        raise UntrustedBundleError(f"{archive}: refused, {total} bytes unpacked, more than {MAX_BYTES}")


def _judge_places(entries: list[zipfile.ZipInfo], archive: Path) -> None:
    """No file stands where another entry needs a folder."""
    files = {_key(entry.filename) for entry in entries if not entry.is_dir()}
    for entry in entries:
        parts = PurePosixPath(entry.filename).parts
        for depth in range(1, len(parts)):
            if _key("/".join(parts[:depth])) in files:
                raise UntrustedBundleError(
                    f"{archive}: refused, the entry {entry.filename!r} lies below another entry that is a file"
                )


def _pieces(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, file: Path) -> Iterator[bytes]:
    """Content of an entry, at most as long as its header says; the CRC is checked at the end."""
    left = entry.file_size
    try:
        with archive.open(entry) as stream:
            while piece := stream.read(PIECE):
                left -= len(piece)
                if left < 0:
                    raise UntrustedBundleError(f"{file}: refused, {entry.filename!r} is longer than its header says")
                yield piece
    except UntrustedBundleError:
        raise
    except Exception as error:  # BadZipFile, zlib.error, EOFError, struct.error, RuntimeError (a password) ...
        what = " ".join(str(error).split())[:160] or type(error).__name__
        raise BundleError(f"{file}: {entry.filename!r} cannot be unpacked: {what}; download it again") from error


def read_sums(archive: zipfile.ZipFile, root: str, file: Path) -> dict[str, str]:
    """Path inside the bundle -> expected SHA-256, from the archive's SHA256SUMS; empty when it has none."""
    try:
        entry = archive.getinfo(f"{root}SHA256SUMS")
    except KeyError:
        return {}
    if entry.file_size > MAX_SUMS:
        raise UntrustedBundleError(f"{file}: refused, its SHA256SUMS has {entry.file_size} bytes, more than {MAX_SUMS}")
    lines = b"".join(_pieces(archive, entry, file)).decode("utf-8", errors="replace").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines) if name}


def verify_sums(archive: zipfile.ZipFile, root: str, file: Path) -> bool:
    """Compare every entry with SHA256SUMS, without unpacking.

    Returns:
        False when the archive has no checksums.

    Raises:
        BundleError: a file differs, is missing, or is not listed.
    """
    expected = read_sums(archive, root, file)
    if not expected:
        return False
    entries = {
        entry.filename.removeprefix(root): entry
        for entry in archive.infolist()
        if not entry.is_dir() and entry.filename != f"{root}SHA256SUMS"
    }
    for name in sorted({*expected, *entries}):
        if name not in entries:
            raise BundleError(f"{file}: {name} is listed in SHA256SUMS and missing")
        if name not in expected:
            raise BundleError(f"{file}: {name} is not listed in SHA256SUMS")
        digest = hashlib.sha256()
        for piece in _pieces(archive, entries[name], file):
            digest.update(piece)
        if digest.hexdigest() != expected[name]:
            raise BundleError(f"{file}: {name} does not have the SHA-256 that SHA256SUMS gives; download it again")
    return True


def bundle_prefix(archive: zipfile.ZipFile, file: Path) -> str:
    """The folder inside the archive that is the bundle, with its slash, or "" when the bundle is the whole archive.

    Raises:
        BundleError: no configs/metadata.json, or several.
    """
    found = [name for name in archive.namelist() if re.fullmatch(r"(?:[^/]+/)?configs/metadata\.json", name)]
    if len(found) != 1:
        raise BundleError(f"{file}: holds {len(found)} bundles (configs/metadata.json), expected one")
    return found[0].removesuffix("configs/metadata.json")


@contextmanager
def unpacked(file: Path, parent: Path) -> Iterator[tuple[Path, bool]]:
    """Judge, verify and unpack an archive into a temporary folder below `parent`, removed at the end.

    Yields:
        The bundle's folder, and whether it had checksums (which then held).

    Raises:
        UntrustedBundleError, BundleError: see the functions above; nothing was written.
    """
    try:
        archive = zipfile.ZipFile(file)
    except Exception as error:  # a mutated table of contents raises anything: struct.error, NotImplementedError ...
        what = " ".join(str(error).split())[:160] or type(error).__name__
        raise BundleError(f"{file}: is no readable zip: {what}; download it again") from error
    with archive:
        judge(archive.infolist(), file)
        root = bundle_prefix(archive, file)
        has_sums = verify_sums(archive, root, file)
        with temporary_folder(parent) as place:
            for entry in archive.infolist():
                if entry.is_dir() or not entry.filename.startswith(root):
                    continue
                target = place / entry.filename.removeprefix(root)
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as stream:
                    for piece in _pieces(archive, entry, file):
                        stream.write(piece)
                    stream.flush()
                    os.fsync(stream.fileno())
            yield place, has_sums
