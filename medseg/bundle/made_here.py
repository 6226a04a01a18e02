"""Which bundles this user's own commands wrote, by the content of their configurations; all others are a stranger's.

A stranger's bundle is opened in a process of its own (`medseg.commands.contained`). One that was edited by hand counts as
a stranger's too: it works the same, behind the same limits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medseg.config import read_json
from medseg.io.atomic import write_json
from medseg.layout import Layout

from .catalogue import packaged_folder
from .opening.trust import record_file

MOST = 1000  # contents that are remembered; the oldest go


def _record() -> Path:
    return record_file().with_name("made_here.json")


def content_digest(folder: Path) -> str:
    """SHA-256 over names and bytes of all configurations and of plan.json."""
    layout = Layout(folder)
    digest = hashlib.sha256()
    for path in sorted([*layout.configs.glob("*"), layout.plan]):
        if path.is_file():
            content = path.read_bytes()
            digest.update(f"{path.name}\n{len(content)}\n".encode("utf-8", "surrogateescape") + content)
    return digest.hexdigest()


def _known() -> list[str]:
    try:
        content = read_json(_record())
    except (OSError, ValueError):
        return []
    return [str(entry) for entry in content] if isinstance(content, list) else []


def note_made(folder: Path) -> None:
    """Record that a command of this user wrote the bundle as it is; a record that cannot be written is left out."""
    known, digest = _known(), content_digest(folder)
    if digest in known:
        return
    try:
        _record().parent.mkdir(parents=True, exist_ok=True)
        write_json(_record(), [*known, digest][-MOST:])
    except (OSError, ValueError):
        return


def is_ours(folder: Path) -> bool:
    """Whether the project shipped this bundle, or this user's commands wrote its configurations as they are."""
    if packaged_folder("bundles").resolve() in folder.resolve().parents:
        return True
    try:
        return content_digest(folder) in _known()
    except OSError:
        return False


@contextmanager
def stays_ours(folder: Path) -> Iterator[None]:
    """For commands that change a bundle: what was this user's before is so afterwards."""
    ours = is_ours(folder)
    try:
        yield
    finally:
        if ours:
            note_made(folder)
