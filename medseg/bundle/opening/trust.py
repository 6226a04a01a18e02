"""Which bundles this user has trusted, by the hash of every file; a bundle that changed since then is asked for again."""

from __future__ import annotations

import os
from pathlib import Path

from medseg.config import read_json
from medseg.errors import UntrustedBundleError
from medseg.io.atomic import write_json

from .inventory import Inventory, take_inventory


def record_file() -> Path:
    """Where decisions are kept: $MEDSEG_TRUSTED, else the user's data folder."""
    explicit = os.environ.get("MEDSEG_TRUSTED")
    if explicit:
        return Path(explicit).expanduser()
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "medseg" / "trusted.json"


def _read() -> dict[str, dict[str, str]]:
    try:
        content = read_json(record_file())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def remember(inventory: Inventory) -> None:
    """Record that the user trusts this bundle as these files are."""
    path = record_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**_read(), str(inventory.folder): inventory.hashes})


def was_trusted(folder: Path) -> bool:
    """Whether some content of this folder was trusted before."""
    return isinstance(_read().get(str(folder.resolve())), dict)


def changes(inventory: Inventory) -> list[str]:
    """Names of the files that were changed, added or removed since this bundle was trusted; all when it never was."""
    trusted = _read().get(str(inventory.folder))
    before = trusted if isinstance(trusted, dict) else {}
    now = inventory.hashes
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))


def trusted_copy(folder: Path) -> Inventory | None:
    """A private copy of the bundle when the user trusted this very content before; None when it never was trusted.

    Raises:
        UntrustedBundleError: it was trusted, and a file was changed, added, linked or removed since; the message names it.
    """
    if not was_trusted(folder):
        return None
    inventory = take_inventory(folder, private_copy=True)
    changed = changes(inventory)
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise UntrustedBundleError(
            f"{folder}: was trusted, but {changed[0]}{more} changed since; look at it, then give --trust again"
        )
    return inventory
