"""Bytes of a file, plain or compressed, read in bounded pieces and verified to the last one.

Peers return zeros for a truncated file and wrong voxels for a flipped byte; here the checksum and the length at the
end of a gzip or zlib stream are always reached and checked, and a stream that goes on after the voxels is refused.
"""

from __future__ import annotations

import io
import os
import zlib
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal

from medseg.errors import UnreadableFileError

Encoding = Literal["raw", "gzip", "zlib"]
GZIP_MAGIC = b"\x1f\x8b"
# Some writers pad the end with zeros up to a block; more than one block, or anything else, is not padding
PADDING = 4096
PIECE = 1 << 20


class VerifiedStream:
    """Sequential reader over one file that ends with `finish()`.

    Args:
        path: the file.
        encoding: how bytes from `start` on are stored.
        start: byte at which the (compressed) stream begins.

    Raises (all methods):
        UnreadableFileError: missing, unreadable, truncated, wrong checksum or length, or data after the end.
    """

    def __init__(self, path: Path, encoding: Encoding = "raw", start: int = 0) -> None:
        self.path = path
        self.encoding = encoding
        self.position = 0
        self._file = open_file(path)
        try:
            self._file.seek(start)
            self._reader: BinaryIO | _ZlibReader = self._decoder(start)
        except BaseException:
            self._file.close()
            raise

    def _decoder(self, start: int) -> BinaryIO | _ZlibReader:
        if self.encoding == "raw":
            return self._file
        if self.encoding == "gzip":
            if os.fstat(self._file.fileno()).st_size - start < 18:
                raise UnreadableFileError(f"{self.path}: too short for a gzip stream; the file is empty or truncated.")
            from isal import igzip

            return igzip.IGzipFile(fileobj=self._file, mode="rb")
        return _ZlibReader(self._file)

    def __enter__(self) -> VerifiedStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self, count: int) -> bytes:
        """Up to `count` bytes; fewer only at the end."""
        pieces = []
        while count > 0:
            piece = self._read(min(count, PIECE))
            if not piece:
                break
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def read_into(self, target: memoryview, *, expected: int) -> None:
        """Fill `target` (bytes) completely; `expected` is the whole payload's size, for the message."""
        filled = 0
        while filled < len(target):
            if self.encoding == "raw":
                count = self._file.readinto(target[filled : filled + 8 * PIECE])  # type: ignore[attr-defined]
                self.position += count
            else:
                piece = self._read(min(len(target) - filled, PIECE))
                count = len(piece)
                target[filled : filled + count] = piece
            if not count:
                raise UnreadableFileError(
                    f"{self.path}: truncated: the header declares {expected} bytes of voxels and the data end early; "
                    "copy or export the file again."
                )
            filled += count

    def skip(self, count: int) -> None:
        """Move forward; a stream that is shorter is truncated."""
        if self.encoding == "raw":
            self._file.seek(count, os.SEEK_CUR)
            self.position += count
            return
        while count > 0:
            piece = self._read(min(count, PIECE))
            if not piece:
                raise UnreadableFileError(f"{self.path}: truncated before the voxels begin; copy or export it again.")
            count -= len(piece)

    def finish(self, *, trailer: int = 0) -> None:
        """Read to the end, which checks checksum and length.

        Only a little zero padding may follow the voxels, unless the format keeps up to `trailer` bytes there.
        """
        while trailer > 0:
            piece = self._read(min(trailer, PIECE))
            if not piece:
                return
            trailer -= len(piece)
        rest = self.read(PADDING + 1)
        if len(rest) > PADDING or rest.strip(b"\0"):
            raise UnreadableFileError(
                f"{self.path}: more data follow after the voxels that the header declares; header and data do not "
                "belong together. Export the file again."
            )

    def _read(self, count: int) -> bytes:
        try:
            piece = self._reader.read(count)
        except EOFError:
            raise UnreadableFileError(
                f"{self.path}: truncated, or followed by bytes that are not part of it: the compressed data end before "
                "their end mark. Copy or export the file again."
            ) from None
        except (OSError, zlib.error, _isal_error()) as error:
            raise UnreadableFileError(
                f"{self.path}: the compressed data are damaged ({_one_line(error)}); copy or export the file again."
            ) from None
        self.position += len(piece)
        return piece


class _ZlibReader(io.RawIOBase):
    """zlib's stream (MetaImage) with bounded output per call; its Adler-32 is checked by zlib at the end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = zlib.decompressobj()

    def read(self, count: int = -1) -> bytes:
        while not self._decoder.eof:
            source = self._decoder.unconsumed_tail or self._file.read(PIECE)
            if not source:
                raise EOFError
            piece = self._decoder.decompress(source, count)
            if piece:
                return piece
        if self._decoder.unused_data.strip(b"\0") or self._file.read(PADDING + 1).strip(b"\0"):
            raise EOFError
        return b""


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading. Raises UnreadableFileError saying which of the usual causes it is."""
    try:
        if path.is_dir():
            raise UnreadableFileError(f"{path}: is a folder, expected a file.")
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise UnreadableFileError(f"{path}: is a pipe or a device, expected a file; write it to a file first.")
        return open(path, "rb")
    except FileNotFoundError:
        raise UnreadableFileError(f"{path}: no such file; check the path.") from None
    except OSError as error:
        raise UnreadableFileError(f"{path}: cannot be opened: {error.strerror or error}.") from None
    except ValueError as error:  # a null byte in the name
        raise UnreadableFileError(f"{str(path)!r}: cannot be opened: {error}.") from None


def file_size(path: Path) -> int:
    """Bytes in a file. Raises UnreadableFileError when it is missing."""
    with open_file(path) as file:
        return os.fstat(file.fileno()).st_size


def is_gzip(path: Path) -> bool:
    """Whether the content, not the name, is gzip."""
    with open_file(path) as file:
        return file.read(2) == GZIP_MAGIC


def _isal_error() -> type[Exception]:
    from isal import isal_zlib

    error: type[Exception] = isal_zlib.error  # type: ignore[assignment]
    return error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
