"""Several files of a bundle that change together: after a kill at any moment all of them are the old ones or the new ones.

What is to be written is first written whole under one name; from then on it counts. Whoever opens the bundle next finishes
what a killed command began.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medseg.config import read_json
from medseg.errors import BundleError
from medseg.io.atomic import remove_leftovers, write_bytes, write_json
from medseg.io.locks import alone_in
from medseg.layout import Layout

STAGED = ".chosen"
_WEIGHTS = re.compile(r"models/(?:(?!\.)[^/\\]+/fold_\d+/)?model\.pt")
# Folders of a bundle in which files wait for their exchange or are being written when a command is killed.
_PLACES = ("", "configs", "docs", "models", "models/*", "models/*/*", "runs")


def staged(path: Path) -> Path:
    """Where the new content of a weight file, or of the report, waits."""
    return path.with_name(path.name + STAGED)


def noted(layout: Layout, files: Mapping[Path, Any], weights: Iterable[Path]) -> dict[str, Any]:
    """What is written down before an exchange; the arguments are those of `exchange`. Raises ValueError as it does."""
    names = {path.relative_to(layout.folder).as_posix(): content for path, content in files.items()}
    content = {"files": names, "weights": [path.relative_to(layout.folder).as_posix() for path in weights]}
    check_content(layout, content)
    return content


def exchange(layout: Layout, files: Mapping[Path, Any], weights: Iterable[Path] = ()) -> None:
    """Exchange files of a bundle, all or none.

    Args:
        layout: of the bundle.
        files: path of a configuration -> its new content, JSON-ready, the model card's as text; in the order in which they
            are exchanged.
        weights: weight files, or the report of cross-validation, whose new content lies beside them as `staged(path)`.

    Raises:
        ValueError: a path that is not one of these.
        ResourceError: the bundle cannot be written; nothing is changed then.
    """
    content = noted(layout, files, weights)
    with alone_in(layout.files_lock):
        finish(layout)
        write_json(layout.unfinished, content)
        finish(layout)


def make_ready(layout: Layout) -> None:
    """Finish what a killed command noted and remove what it had not noted yet; under the files' lock, before anything is staged."""
    finish(layout)
    for folder in _places(layout):
        remove_leftovers(folder)
        for path in folder.glob(f"*{STAGED}"):
            path.unlink(missing_ok=True)


def _places(layout: Layout) -> list[Path]:
    root = layout.folder.resolve()
    found = [folder for place in _PLACES for folder in (root.glob(place) if place else [root]) if folder.is_dir()]
    return [folder for folder in found if folder.resolve().is_relative_to(root)]  # no link that leads out of the bundle


def finish_interrupted(folder: Path) -> None:
    """Finish what a killed command began; nothing is done where nothing was begun.

    Raises:
        BundleError: the bundle cannot be written, or what was begun is no work of ours.
    """
    layout = Layout(folder)
    if not layout.unfinished.is_file():
        return
    try:
        with alone_in(layout.files_lock):
            finish(layout)
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{layout.unfinished}: a command was killed while it changed the bundle, and its work cannot be finished "
            f"({error}); make the folder writable, or delete that file and choose again with `medseg cv`."
        ) from error


def finish(layout: Layout) -> None:
    """Exchange what is noted, then forget the note; to be called under the files' lock."""
    try:
        content = read_json(layout.unfinished)
    except FileNotFoundError:
        return
    check_content(layout, content)
    for name in content["weights"]:
        path = layout.folder / name
        with contextlib.suppress(FileNotFoundError):  # exchanged before the kill
            os.replace(staged(path), path)
        if path == layout.weights:
            layout.safetensors.unlink(missing_ok=True)  # it held the networks of before
    for name, value in content["files"].items():
        write_bytes(layout.folder / name, text_of(value))
    for folder in _places(layout):  # a file in the making beside configurations makes the bundle another's
        remove_leftovers(folder)
    layout.unfinished.unlink(missing_ok=True)


def text_of(value: object) -> bytes:
    """A file's bytes: a text as it is, anything else as `write_json` writes it."""
    if isinstance(value, str):
        return value.encode("utf-8")
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def check_content(layout: Layout, content: object) -> None:
    """Refuse anything but configurations of a bundle and weights of its other members. Raises ValueError."""
    allowed = [
        layout.train,
        layout.inference,
        layout.evaluate,
        layout.metadata,
        layout.plan,
        layout.cross_validation_record,
        layout.trust,
        layout.readme,
    ]
    names = {path.relative_to(layout.folder).as_posix() for path in allowed}
    report = layout.cross_validation_report.relative_to(layout.folder).as_posix()
    if not isinstance(content, dict) or set(content) != {"files", "weights"} or not isinstance(content["files"], dict):
        raise ValueError(f"{layout.unfinished}: expected files and weights")
    if wrong := sorted(content["files"].keys() - names):
        raise ValueError(f"{layout.unfinished}: {wrong[0]!r} is no configuration of a bundle")
    for name in content["weights"]:
        if name != report and (not isinstance(name, str) or not _WEIGHTS.fullmatch(name)):
            raise ValueError(f"{layout.unfinished}: {name!r} is no weight file of another bundle")
