"""Names of files: readable ones from any text or bytes, and never one for two things."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Mapping
from typing import TypeVar

Key = TypeVar("Key")
LONGEST = 120  # bytes; a file name may have 255, and suffixes follow
# what Windows takes for a device, with any suffix
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}


def readable_name(name: str) -> str:
    """A file name whose bytes are no UTF-8, read as Windows-1252 or Latin-1, as old exports wrote them; any other as it is.

    Example:
        >>> readable_name("M\\udcfcller")
        'Müller'
    """
    try:
        name.encode()
        return name
    except UnicodeEncodeError:
        stored = name.encode("utf-8", "surrogateescape") if _only_escapes(name) else name.encode("utf-8", "replace")
    try:
        return stored.decode("cp1252")
    except UnicodeDecodeError:
        return stored.decode("latin-1")


def _only_escapes(name: str) -> bool:
    return all(not 0xD800 <= ord(letter) <= 0xDFFF or 0xDC80 <= ord(letter) <= 0xDCFF for letter in name)


def file_name(text: str) -> str:
    """A text, such as a label's name, as one file name: letters, digits, `-`, `.` and `_` of it.

    Different texts may give one name: see `distinct_file_names`.

    Example:
        >>> file_name("left kidney / cyst")
        'left_kidney_cyst'
    """
    kept = "".join(letter if letter.isalnum() or letter in "-." else " " for letter in readable_name(text))
    name = "_".join(kept.split()).rstrip(".")
    while len(name.encode()) > LONGEST:
        name = name[:-1]
    if name.partition(".")[0].casefold() in DEVICES or name.startswith("."):
        name = f"_{name}"
    return name or "label"


def same_file(name: str | os.PathLike[str]) -> str:
    """What stands for all names that some disk takes for one: Windows and macOS know no difference of case or accents' form.

    Example:
        >>> same_file("Tumour.nii") == same_file("tumour.nii")
        True
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", os.fspath(name)).casefold())


def distinct_file_names(texts: Mapping[Key, str]) -> dict[Key, str]:
    """One file name per entry, each its own on every disk; where two texts would share one, each carries its key.

    Args:
        texts: such as label value -> name.

    Example:
        >>> distinct_file_names({1: "T1", 2: "T1+", 3: "flair"})
        {1: 'T1_1', 2: 'T1_2', 3: 'flair'}
    """
    found = {key: file_name(text) for key, text in texts.items()}
    while True:
        counts = Counter(same_file(name) for name in found.values())
        if all(count == 1 for count in counts.values()):
            return found
        found = {key: f"{name}_{key}" if counts[same_file(name)] > 1 else name for key, name in found.items()}
