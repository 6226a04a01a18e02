"""Which bundles this user has trusted, by the hash of every file; a bundle that changed since then is asked for again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from medseg.config import read_json
from medseg.errors import UntrustedBundleError
from medseg.io.atomic import write_json

from ..weights import sha256_of

# Results, not part of what was trusted.
SKIPPED_FOLDERS = frozenset({"runs", "eval", "__pycache__"})


def record_file() -> Path:
    """Where decisions are kept: $MEDSEG_TRUSTED, else the user's data folder."""
    explicit = os.environ.get("MEDSEG_TRUSTED")
    if explicit:
        return Path(explicit).expanduser()
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "medseg" / "trusted.json"


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a bundle but its results, by path inside it; links are hashed as their target text."""
    hashes: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if SKIPPED_FOLDERS & set(name.parts):
            continue
        if path.is_symlink():
            hashes[name.as_posix()] = "link:" + hashlib.sha256(os.readlink(path).encode()).hexdigest()
        elif path.is_file():
            hashes[name.as_posix()] = sha256_of(path)
    return hashes


def _read() -> dict[str, dict[str, str]]:
    try:
        content = read_json(record_file())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def remember(folder: Path) -> None:
    """Record that the user trusts this bundle as it is now."""
    path = record_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**_read(), str(folder.resolve()): file_hashes(folder)})


def is_trusted(folder: Path) -> bool:
    """True when the user trusted this very content before.

    Raises:
        UntrustedBundleError: it was trusted, and a file was changed, added or removed since; the message names it.
    """
    trusted = _read().get(str(folder.resolve()))
    if trusted is None:
        return False
    now = file_hashes(folder)
    changed = sorted(name for name in {*trusted, *now} if trusted.get(name) != now.get(name))
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise UntrustedBundleError(
            f"{folder}: was trusted, but {changed[0]}{more} changed since; look at it, then give --trust again"
        )
    return True
