"""Which bundles this user's own commands wrote, by the content of their configurations and code; all others are a stranger's.

A stranger's bundle is opened in a process of its own (`medseg.commands.contained`). One that was edited by hand counts as
a stranger's too: it works the same, behind the same limits.

A bundle may bring code without being asked about only if a command of this user put that very code there: that is recorded
apart, and no other command turns a bundle into such a one.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from medseg.config import read_json
from medseg.errors import UntrustedBundleError
from medseg.io.atomic import write_json
from medseg.io.locks import alone_in
from medseg.layout import Layout
from medseg.planning.plan import Plan

from .catalogue import packaged_folder
from .opening.inventory import Inventory, take_inventory
from .opening.own_packages import code_files
from .opening.trust import record_file

MOST = 1000  # contents that are remembered; the oldest go


def _record(code: bool = False) -> Path:
    return record_file().with_name("own_code.json" if code else "made_here.json")


def configurations_digest(folder: Path, coming: Mapping[Path, bytes] | None = None) -> str:
    """SHA-256 over names and bytes of all configurations, of plan.json and of code, some of them as they are about to be."""
    layout = Layout(folder)
    new = coming or {}
    digest = hashlib.sha256()
    for path in sorted({*layout.configs.glob("*"), layout.plan, *new}):
        if path.parent in (layout.configs, layout.folder) and (path in new or path.is_file()):
            content = new[path] if path in new else path.read_bytes()
            digest.update(f"{path.name}\n{len(content)}\n".encode("utf-8", "surrogateescape") + content)
    for path in code_files(folder):
        content = path.read_bytes()
        name = path.relative_to(folder).as_posix()
        digest.update(f"{name}\n{len(content)}\n".encode("utf-8", "surrogateescape") + content)
    return digest.hexdigest()


def _known(code: bool = False) -> list[str]:
    try:
        content = read_json(_record(code))
    except (OSError, ValueError):
        return []
    return [str(entry) for entry in content] if isinstance(content, list) else []


def note_made(folder: Path, coming: Mapping[Path, bytes] | None = None, *, code: bool = False) -> None:
    """Record that a command of this user wrote the bundle as it is; a record that cannot be written is left out.

    Args:
        folder: the bundle.
        coming: files that it is about to write.
        code: it also put the code there that the bundle brings, because the user named that.
    """
    digest = configurations_digest(folder, coming)
    for of_code in (False, True) if code else (False,):
        record = _record(of_code)
        if digest not in _known(of_code):
            with contextlib.suppress(OSError, ValueError), alone_in(record.with_suffix(".lock")):
                write_json(record, [*_known(of_code), digest][-MOST:])


def is_ours(folder: Path) -> bool:
    """Whether the project shipped this bundle, or this user's commands wrote its configurations as they are."""
    if packaged_folder("bundles").resolve() in folder.resolve().parents:
        return True
    try:
        return configurations_digest(folder) in _known()
    except OSError:
        return False


def brings_own_code(folder: Path) -> bool:
    """Whether a command of this user put the code there that the bundle brings, and nothing of it changed since."""
    try:
        return configurations_digest(folder) in _known(code=True)
    except OSError:
        return False


def own_code(folder: Path) -> Inventory | None:
    """A private copy of a bundle that `brings_own_code`; None for any other, and when it changes while it is copied."""
    if not brings_own_code(folder):
        return None
    inventory = take_inventory(folder, private_copy=True)
    return inventory if inventory.copy is not None and brings_own_code(inventory.copy) else None


def refuse_planned_code(plan: Plan, layout: Layout) -> None:
    """A plan.json may name code only where the user's own command wrote it.

    Raises:
        UntrustedBundleError: it names a project or a component, and is a stranger's or was edited.
    """
    if plan.code and not brings_own_code(layout.folder):
        raise UntrustedBundleError(
            f"{layout.plan}: refused, it names code ({plan.code!r}) that no command of yours put there as it is. Nothing was "
            "run. Read the bundle, then give --trust to take it as it is"
        )


@contextmanager
def stays_ours(folder: Path, *, code: bool = False) -> Iterator[None]:
    """For commands that change a bundle: what was this user's before is so afterwards.

    Args:
        folder: the bundle.
        code: the command puts code there that the user named; that of a stranger's bundle stays a stranger's.
    """
    ours = is_ours(folder)
    code = ours and (code or brings_own_code(folder))
    try:
        yield
    finally:
        if ours:
            note_made(folder, code=code)
