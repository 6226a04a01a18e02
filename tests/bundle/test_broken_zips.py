"""Broken and hostile zips: one line that names the file, nothing left behind, never another exception."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest

from medseg.commands.install import install_bundle
from medseg.errors import MedsegError, UntrustedBundleError

META = json.dumps({"name": "tiny", "version": "0.1.0"})


def zipped(entries: dict[str, bytes | str], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, content in {"x/configs/metadata.json": META, **entries}.items():
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=kind)
    return buffer.getvalue()


def refused(content: bytes, place: Path) -> MedsegError:
    file = place / "some.zip"
    file.write_bytes(content)
    with pytest.raises(MedsegError) as caught:
        install_bundle(str(file))
    message = str(caught.value)
    assert message.startswith(f"{file}: "), message
    assert "\n" not in message
    assert len(message) < len(str(file)) + 1400
    assert not [path for path in (place / "installed").iterdir() if not path.name.startswith(".packed")]
    return caught.value


@pytest.mark.parametrize(
    "entries",
    [
        {"x/a\nb": "1"},
        {"x/\x1b[31mred": "1"},
        {"x/" + "n" * 2000: "1"},
        {"x/Readme": "1", "x/README": "2"},
        {"x/\u00e9": "1", "x/e\u0301": "2"},
        {"x/models": "1", "x/models/model.pt": "2"},
        {"x/MODELS": "1", "x/models/model.pt": "2"},
        {"/x": "1"},
        {"C:x": "1"},
        {"x/../y": "1"},
        {"x/a\\b": "1"},
        {"x/big": b"\0" * (4 << 20)},
        {f"x/{number}": "" for number in range(10_001)},
        {"y/configs/metadata.json": META},
    ],
    ids=lambda entries: repr(next(iter(entries)))[:30],
)
def test_a_hostile_name_or_size_is_refused(entries: dict[str, bytes | str], tmp_path: Path) -> None:
    refused(zipped(entries), tmp_path)


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_rare_compression_is_refused(kind: int, tmp_path: Path) -> None:
    assert isinstance(refused(zipped({}, kind), tmp_path), UntrustedBundleError)


def test_an_encrypted_entry_is_refused(tmp_path: Path) -> None:
    content = bytearray(zipped({"x/a": "1"}))
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    assert "encrypted" in str(refused(bytes(content), tmp_path))


def test_a_zip_cut_anywhere_is_one_line(tmp_path: Path) -> None:
    content = zipped({"x/LICENSE": "words " * 50})
    for length in range(0, len(content), 23):
        refused(content[:length], tmp_path)


def test_a_flipped_byte_is_one_line_or_harmless(tmp_path: Path) -> None:
    content = zipped({"x/LICENSE": "words " * 50})
    start = content.index(b"PK\x03\x04", 4)
    for place in range(start + 41, start + 47):  # the compressed text
        refused(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :], tmp_path)
