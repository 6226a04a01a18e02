"""Siemens' private image header (CSA): a table of named values inside one DICOM element, in two old binary forms."""

from __future__ import annotations

import struct
from typing import Any

GROUP, CREATOR, IMAGE_HEADER = 0x0029, "SIEMENS CSA HEADER", 0x10
NAMED = struct.Struct("<64si4siii")  # name, multiplicity, type, its number, items, a constant
MOST_FIELDS, MOST_ITEMS = 1024, 4096


def csa_fields(dataset: Any) -> dict[str, list[str]]:
    """Name -> values as words, of the image header; {} when a file has none, or one that is cut or of another kind.

    Args:
        dataset: a pydicom dataset that was read with its private elements.
    """
    try:
        content = dataset.private_block(GROUP, CREATOR)[IMAGE_HEADER].value
    except KeyError:
        return {}
    return parse_csa(bytes(content)) if isinstance(content, bytes | bytearray) else {}


def parse_csa(content: bytes) -> dict[str, list[str]]:
    """The table of one header. Words are stripped of blanks and zeros; what lies behind a cut is left out.

    The newer form begins with SV10 and gives each item's length as the second of four numbers; the older gives it as the first,
    with the number of items of the first field added.
    """
    newer = content.startswith(b"SV10")
    at = 8 if newer else 0
    fields: dict[str, list[str]] = {}
    try:
        (count,) = struct.unpack_from("<I", content, at)
        at += 8
        added = -1
        for _ in range(min(count, MOST_FIELDS)):
            name, _, _, _, items, _ = NAMED.unpack_from(content, at)
            at += NAMED.size
            added = items if added < 0 else added
            if not 0 <= items <= MOST_ITEMS:
                break
            words = []
            for _ in range(items):
                sizes = struct.unpack_from("<4i", content, at)
                at += 16
                length = sizes[1] if newer else sizes[0] - added
                if not 0 <= length <= len(content) - at:
                    return fields
                words.append(content[at : at + length].split(b"\0")[0].decode("latin-1").strip())
                at += (length + 3) // 4 * 4
            fields[name.split(b"\0")[0].decode("latin-1")] = words
    except struct.error:  # the table ends before it says it does
        pass
    return fields
