"""Where `medseg plan` may write: nothing that somebody has made is replaced."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

from medseg.bundle.made_here import note_made
from medseg.bundle.opening.own_packages import Project
from medseg.bundle.write import edited_files, write_bundle
from medseg.datasets import Dataset
from medseg.errors import BundleError
from medseg.interruption import run_to_the_end
from medseg.io.atomic import is_temporary, remove_leftovers, temporary_beside, vanishing
from medseg.layout import Layout, is_bundle
from medseg.planning.plan import Plan

from .plan_apply import has_weights

log = logging.getLogger(__name__)


def check_place(output: Path, *, overwrite: bool) -> None:
    """Refuse a folder whose content a new bundle would replace.

    Args:
        output: where the bundle shall lie.
        overwrite: a bundle there will be set aside, so that only what is no bundle is refused.

    Raises:
        BundleError: a file, a folder with other content, or a bundle that is trained or was edited by hand.
    """
    if output.exists() and not output.is_dir():
        raise BundleError(f"{output} is a file; expected the folder of a bundle")
    content = _content(output)
    layout = Layout(output)
    if not content:
        return
    if not (is_bundle(output) or layout.plan.is_file()):
        raise BundleError(
            f"{output} is not empty and no bundle (it holds {content[0].relative_to(output)}); choose a new folder with --output"
        )
    if overwrite:
        return
    if has_weights(layout):
        raise BundleError(
            f"{output} holds trained weights already; plan into another folder, or set that one aside with --overwrite"
        )
    if layout.runs.exists():
        raise BundleError(
            f"{output}: a training of it has begun; plan into another folder, or set that one aside with --overwrite"
        )
    edited = edited_files(layout) if layout.plan.is_file() else None
    if edited or edited is None:
        what = f"{', '.join(edited)} changed since it was planned" if edited else "nobody knows whether it was edited"
        raise BundleError(
            f"{output}: {what}; `medseg plan --apply {output}` takes edits of plan.json over, --overwrite sets the bundle aside "
            "and plans anew"
        )


def put_bundle(
    output: Path,
    plan: Plan,
    dataset: Dataset | None,
    *,
    keep_old: bool,
    project: Project | None = None,
    code: bool = False,
) -> None:
    """Write the bundle beside its place and move it there; what was there is kept as `NAME.previous_1` or removed.

    Args:
        output: its place.
        plan, dataset: see `write_bundle`.
        keep_old: keep what was there.
        project: code of the user's own that goes into it.
        code: the user named code, in a project or as a component.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(output.parent)
    with vanishing(temporary_beside(output.resolve())) as fresh:
        write_bundle(fresh, plan, dataset)
        if project is not None:
            project.put(fresh)
        if code:
            note_made(fresh, code=True)
        run_to_the_end()
        if output.is_dir() and _content(output):
            if keep_old:
                _move(output, _aside(output))
                log.info("the bundle that was there is now %s", _latest(output))
            else:
                with vanishing(tempfile.mkdtemp(prefix=fresh.name, dir=output.resolve().parent)) as old:
                    _move(output, old)
        _move(fresh, output)


def _move(source: Path, target: Path) -> None:
    """Move every entry; plan.json first, by which a bundle is known that was half moved when the machine went down."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir(), key=lambda path: path.name != "plan.json"):
        if (target / path.name).is_dir() and not any((target / path.name).iterdir()):
            (target / path.name).rmdir()
        os.replace(path, target / path.name)


def _aside(output: Path) -> Path:
    number = 1
    while (aside := output.resolve().with_name(f"{output.resolve().name}.previous_{number}")).exists():
        number += 1
    return aside


def _latest(output: Path) -> str:
    aside = _aside(output)
    number = int(aside.suffix.removeprefix(".previous_")) - 1
    return f"{output.resolve().name}.previous_{number}"


def _content(folder: Path) -> list[Path]:
    """Files of a folder but for ours in the making."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.rglob("*") if path.is_file() and not is_temporary(path))
