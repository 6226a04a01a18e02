"""Every file of a bundle with size and SHA-256: what a person is shown, what is recorded, and what then runs.

Left out are the result folders at the top of a bundle, and nothing else: no code or data of them reaches a trusted
bundle, because a private copy of exactly these files is what runs (`private_copy`). Links are refused by name, for what
is behind them may change unseen; bytecode is hashed like any file and never copied, so it cannot run.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medseg.errors import BundleError, UntrustedBundleError
from medseg.layout import Layout

PIECE = 1 << 20
BYTECODE = (".pyc", ".pyo")
REPARSE_POINT = 0x400  # FILE_ATTRIBUTE_REPARSE_POINT: links and junctions of Windows


def told(name: str) -> str:
    r"""A file's name for a screen or a record: control, bidirectional and undecodable characters escaped, injectively.

    Example:
        >>> told("a\x1b[2Kb\\c")
        'a\\x1b[2Kb\\\\c'
    """
    return escaped(name.replace("\\", "\\\\"))


def escaped(text: str) -> str:
    """A text for a screen, its control and bidirectional characters written out."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


@dataclass(frozen=True)
class FileFacts:
    """Size in bytes and SHA-256 (hex) of one file."""

    size: int
    sha256: str


def bundle_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name inside the bundle (as `told`) and path of every file but results, sorted by name.

    Raises:
        UntrustedBundleError: a link, a junction, or what is no plain file.
    """
    layout = Layout(folder)
    results = {layout.runs.name, layout.schema.parent.name}
    found = []
    pending = [(folder, "")]
    while pending:
        place, prefix = pending.pop()
        for entry in os.scandir(place):
            facts = entry.stat(follow_symlinks=False)
            name = prefix + entry.name
            if stat.S_ISLNK(facts.st_mode) or getattr(facts, "st_file_attributes", 0) & REPARSE_POINT:
                raise UntrustedBundleError(
                    f"{folder}: refused, {told(name)} is a link; a trusted bundle holds its files itself. Replace the "
                    "link by what it names, look at it, then give --trust"
                )
            if stat.S_ISDIR(facts.st_mode):
                if prefix or entry.name not in results:
                    pending.append((Path(entry.path), f"{name}/"))
            elif stat.S_ISREG(facts.st_mode):
                found.append((told(name), Path(entry.path)))
            else:
                raise UntrustedBundleError(f"{folder}: refused, {told(name)} is no plain file")
    yield from sorted(found)


def _copied(source: Path, target: Path | None) -> FileFacts:
    """Hash a file in pieces, writing the very bytes that are hashed to `target`."""
    digest, size = hashlib.sha256(), 0
    descriptor = os.open(source, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as stream:
        sink = target.open("xb") if target is not None else None
        try:
            while piece := stream.read(PIECE):
                digest.update(piece)
                size += len(piece)
                if sink is not None:
                    sink.write(piece)
        finally:
            if sink is not None:
                sink.close()
    return FileFacts(size, digest.hexdigest())


@dataclass(frozen=True)
class Inventory:
    """The files of a bundle at one moment.

    Args:
        folder: the bundle, resolved.
        files: name (as `told`) -> facts.
        copy: the private folder that holds exactly these bytes, or None when they were only hashed.
    """

    folder: Path
    files: dict[str, FileFacts]
    copy: Path | None = None

    @property
    def hashes(self) -> dict[str, str]:
        """Name -> SHA-256, as trusted.json keeps it."""
        return {name: facts.sha256 for name, facts in self.files.items()}

    @property
    def digest(self) -> str:
        """One SHA-256 over all names and hashes: what names this very content."""
        lines = "".join(f"{facts.sha256}  {name}\n" for name, facts in sorted(self.files.items()))
        return hashlib.sha256(lines.encode()).hexdigest()


def take_inventory(folder: Path, *, private_copy: bool = False) -> Inventory:
    """Hash every file of a bundle; with `private_copy`, into a folder of this process that no one else writes to.

    The copy is removed when the process ends.

    Raises:
        UntrustedBundleError: a link or a device among the files.
        BundleError: a file cannot be read, or not copied.
    """
    root = folder.resolve()
    copy = private_folder(root.name) if private_copy else None
    files = {}
    try:
        for name, path in bundle_files(root):
            target = None
            if copy is not None and path.suffix.lower() not in BYTECODE:
                target = copy / path.relative_to(root)
                target.parent.mkdir(parents=True, exist_ok=True)
            files[name] = _copied(path, target)
    except OSError as error:
        raise BundleError(f"{folder}: {told(str(error.filename or ''))} cannot be read: {error.strerror}") from error
    return Inventory(root, files, copy)


def private_folder(name: str) -> Path:
    """A new folder that only this user may enter (0700), of the bundle's own name; gone at the end of the process."""
    place = tempfile.mkdtemp(prefix="medseg-trusted-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    (Path(place).resolve() / name).mkdir()
    return Path(place).resolve() / name
