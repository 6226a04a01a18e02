"""Which bundles this user's own commands wrote, by the content of their configurations; all others are a stranger's.

A stranger's bundle is opened in a process of its own (`medseg.commands.contained`). One that was edited by hand counts as
a stranger's too: it works the same, behind the same limits.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from medseg.config import read_json
from medseg.io.atomic import write_json
from medseg.io.locks import alone_in
from medseg.layout import Layout

from .catalogue import packaged_folder
from .opening.trust import record_file

MOST = 1000  # contents that are remembered; the oldest go


def _record() -> Path:
    return record_file().with_name("made_here.json")


def configurations_digest(folder: Path, coming: Mapping[Path, bytes] | None = None) -> str:
    """SHA-256 over names and bytes of all configurations and of plan.json, some of them as they are about to be."""
    layout = Layout(folder)
    new = coming or {}
    digest = hashlib.sha256()
    for path in sorted({*layout.configs.glob("*"), layout.plan, *new}):
        if path.parent in (layout.configs, layout.folder) and (path in new or path.is_file()):
            content = new[path] if path in new else path.read_bytes()
            digest.update(f"{path.name}\n{len(content)}\n".encode("utf-8", "surrogateescape") + content)
    return digest.hexdigest()


def _known() -> list[str]:
    try:
        content = read_json(_record())
    except (OSError, ValueError):
        return []
    return [str(entry) for entry in content] if isinstance(content, list) else []


def note_made(folder: Path, coming: Mapping[Path, bytes] | None = None) -> None:
    """Record that a command of this user wrote the bundle as it is; a record that cannot be written is left out.

    Args:
        folder: the bundle.
        coming: files that it is about to write.
    """
    digest = configurations_digest(folder, coming)
    if digest in _known():
        return
    with contextlib.suppress(OSError, ValueError), alone_in(_record().with_suffix(".lock")):
        write_json(_record(), [*_known(), digest][-MOST:])


def is_ours(folder: Path) -> bool:
    """Whether the project shipped this bundle, or this user's commands wrote its configurations as they are."""
    if packaged_folder("bundles").resolve() in folder.resolve().parents:
        return True
    try:
        return configurations_digest(folder) in _known()
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
