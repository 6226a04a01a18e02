"""The last look at a file before it leaves: does it hold a name or a place that it must not?

Looked into: the text in UTF-8, Latin-1 and UTF-16, with the escapes of JSON, HTML and addresses undone; members of zips (also
.pt, .ts and .pt2 are zips) and gzip; the readable parts of tensors and other binary files.
"""

from __future__ import annotations

import contextlib
import gzip
import html
import io
import json
import pickletools
import re
import unicodedata
import urllib.parse
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

from medseg.errors import BundleError

from .secrets import WORD, Secrets, is_searched, normal

DEEPEST = 4  # archives within archives
TENSORS = re.compile(r"(?:^|/)(?:data|constants|weights|tensors)/[^/]+$")
READABLE = re.compile(rb"[\x20-\x7e]{5,}")
WIDE = {"utf-16-le": re.compile(rb"(?:[\x20-\x7e]\x00){5,}"), "utf-16-be": re.compile(rb"(?:\x00[\x20-\x7e]){5,}")}
PICKLE = re.compile(rb"\x80[\x02-\x05]")
SHORTEST_IN_BINARY, SHORTEST_IN_TENSORS = 5, 6  # letters; fewer stand in any large tensor by chance
LARGE = 1 << 20
ESCAPES = re.compile(r"\\(?:u\{?([0-9a-fA-F]{4})\}?|x([0-9a-fA-F]{2})|U([0-9a-fA-F]{8})|([/\\\"]))")
VOLUME = r"(?:_\d{4})?\.(?:nii|nrrd|nhdr|mha|mhd|dcm|npz|npy|seg|img|hdr)"


class Scan:
    """Looks for the secrets of one bundle in the files of it.

    Example:
        >>> Scan(Secrets({"/ward": None}, {"MUSTERMANN": "case_0001"})).find("a.txt", b"see \\\\/ward\\\\/1")
        "a.txt holds the folder '/ward'"
    """

    def __init__(self, secrets: Secrets) -> None:
        self.folders = {normal(folder): folder for folder in secrets.folders if len(folder) > 1}
        self.names: dict[str, list[tuple[str, str]]] = {}
        self.whole = {name for name in secrets.names if not is_searched(name)}
        for name in secrets.names:
            words = WORD.findall(normal(name))
            if is_searched(name) and words:
                self.names.setdefault(words[0], []).append((normal(name), name))
        self.long = [(normal(name), name) for name in secrets.names if is_searched(name)]
        foreign = [name for name in (*secrets.names, *secrets.folders) if not name.isascii() and len(name.encode()) > 4]
        self.bytes = [(form, name) for name in foreign for form in _encoded(name)]
        self.files = [re.compile(rf"(?<![\w.-]){re.escape(normal(name))}{VOLUME}\b") for name in self.whole]

    def find(self, name: str, content: bytes) -> str | None:
        """A sentence that says which part of the file holds which secret, or None."""
        for where, hit in self._hits(name, content, 0):
            return f"{where} holds {hit}"
        return None

    def refuse(self, name: str, content: bytes, remedy: str) -> None:
        """Raise for the first hit.

        Raises:
            BundleError: naming the file, what it holds, and the remedy.
        """
        found = self.find(name, content)
        if found:
            raise BundleError(f"{found}, which must not leave this machine; {remedy}")

    def _hits(self, name: str, content: bytes, depth: int) -> Iterator[tuple[str, str]]:
        yield from ((f"the file name {name}", hit) for hit in self._in_text(name))
        if depth < DEEPEST and content[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
            yield from self._in_zip(name, content, depth)
            return
        if depth < DEEPEST and content[:2] == b"\x1f\x8b":
            unpacked = _gunzipped(content)
            if unpacked is not None:
                yield from self._hits(f"{name} (unpacked)", unpacked, depth + 1)
                return
        text = _plain_text(name, content)
        if text is not None:
            yield from ((name, hit) for one in _spelled(text) for hit in self._in_text(one))
        else:
            yield from ((name, hit) for hit in self._in_binary(name, content))
        if name.endswith(".json"):
            yield from ((name, f"the case name {hit!r}") for hit in self._in_lists(content))

    def _in_zip(self, name: str, content: bytes, depth: int) -> Iterator[tuple[str, str]]:
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                yield from ((f"{name} (its comment)", hit) for hit in self._in_text(archive.comment.decode("latin-1")))
                for entry in archive.infolist():
                    for where, hit in self._hits(entry.filename, archive.read(entry), depth + 1):
                        yield f"{name} ({where})", hit
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error):
            yield from ((name, hit) for hit in self._in_binary(name, content))

    def _in_binary(self, name: str, content: bytes) -> Iterator[str]:
        """Here a length or a mark before and after a text may look like a letter of it: words have no clear ends."""
        yield from (f"{shown!r}" for form, shown in self.bytes if form in content)
        for text in _strings(name, content):
            yield from self._in_text(text)
        large = len(content) > LARGE or TENSORS.search(name) is not None
        least = SHORTEST_IN_TENSORS if large else SHORTEST_IN_BINARY
        for readable in _readable(content):
            for text in (readable,) if large else _spelled(readable):
                plain = normal(text)
                for folder, shown in self.folders.items():
                    if folder in plain and re.search(rf"{re.escape(folder)}(?![\w-])", plain):
                        yield f"the folder {shown!r}"
                for one, shown in self.long:
                    if len(one) >= least and one in plain:
                        yield f"the case name {shown!r}"
                if not large:
                    yield from self._in_text(text)

    def _in_text(self, text: str) -> Iterator[str]:
        plain = normal(text)
        for folder, shown in self.folders.items():
            if folder in plain and _stands_alone(folder, plain):
                yield f"the folder {shown!r}"
        if self.names:
            for found in WORD.finditer(plain):
                for name, shown in self.names.get(found.group(0), ()):
                    begin = found.start() - WORD.search(name).start()  # type: ignore[union-attr]
                    end = begin + len(name)
                    if plain.startswith(name, max(0, begin)) and not plain[end : end + 1].isalnum():
                        yield f"the case name {shown!r}"
        for pattern in self.files:
            if match := pattern.search(plain):
                yield f"the file of a case, {match.group(0)!r}"

    def _in_lists(self, content: bytes) -> Iterator[str]:
        """Short names and numbers count where a list holds nothing else: the cases of a fold."""
        try:
            nodes: list[Any] = [json.loads(content)]
        except (ValueError, RecursionError):
            return
        while nodes:
            node = nodes.pop()
            if isinstance(node, list) and node and all(isinstance(one, str) and one in self.whole for one in node):
                yield from node
            nodes += list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []


def _encoded(name: str) -> set[bytes]:
    """A name that is not plain ASCII as it may stand in a binary file."""
    forms = {name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)}
    codings = ("utf-8", "utf-16-le", "utf-16-be", "latin-1", "cp1252")
    return {found for form in forms for coding in codings if (found := _as_bytes(form, coding)) is not None}


def _as_bytes(text: str, coding: str) -> bytes | None:
    try:
        return text.encode(coding)
    except UnicodeEncodeError:  # such as Greek in Latin-1
        return None


def _stands_alone(folder: str, text: str) -> bool:
    return re.search(rf"(?<![\w.~}}-]){re.escape(folder)}(?![\w-])", text) is not None


def _gunzipped(content: bytes) -> bytes | None:
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error):
        return None


def _plain_text(name: str, content: bytes) -> str | None:
    """The whole file as text, or None where it is none."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", "replace")
    if TENSORS.search(name) or name.endswith(".safetensors") or b"\0" in content[:4096]:
        return None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _strings(name: str, content: bytes) -> Iterator[str]:
    """The strings of a binary file whose format says where they begin and end."""
    if name.endswith(".safetensors") and len(content) > 8:
        yield from _spelled(content[8 : 8 + int.from_bytes(content[:8], "little")].decode("utf-8", "replace"))
    if PICKLE.match(content):
        found: list[str] = []
        with contextlib.suppress(ValueError, IndexError, UnicodeDecodeError, OverflowError):
            for _, value, _ in pickletools.genops(content):
                found += [value] if isinstance(value, str) else []
        yield from _spelled("\n".join(found))


def _readable(content: bytes) -> Iterator[str]:
    """The readable parts of a binary file, one per line; ASCII alone, since any other byte is as likely in a tensor."""
    yield b"\n".join(READABLE.findall(content)).decode("ascii")
    for coding, pattern in WIDE.items():
        runs = pattern.findall(content)
        if runs:
            yield "\n".join(run.decode(coding) for run in runs)


def _spelled(text: str) -> Iterator[str]:
    """The text, and again with the escapes of JSON, HTML and addresses undone, where it has any."""
    yield text
    once = text
    for _ in range(3):  # JSON in JSON
        again = ESCAPES.sub(_unescaped, once)
        if again == once:
            break
        once = again
        yield once
    if "&" in text:
        yield html.unescape(text)
    if "%" in text:
        yield urllib.parse.unquote(text)


def _unescaped(found: re.Match[str]) -> str:
    number = found.group(1) or found.group(2) or found.group(3)
    if number is None:
        return found.group(4)
    return chr(int(number, 16)) if int(number, 16) < 0x110000 else ""
