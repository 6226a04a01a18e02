"""Files of a bundle that a killed command was changing together: what it had decided is finished, see `together`."""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any

from medseg.config import read_json
from medseg.errors import BundleError
from medseg.io.atomic import write_bytes
from medseg.io.locks import alone_in
from medseg.layout import Layout

STAGED = ".chosen"
_WEIGHTS = re.compile(r"models/((?!\.)[^/\\]+/fold_\d+/)?model\.pt")


def staged(path: Path) -> Path:
    """Where the new content of a weight file waits."""
    return path.with_name(path.name + STAGED)


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
    for name, value in content["files"].items():
        write_bytes(layout.folder / name, text_of(value))
    layout.unfinished.unlink(missing_ok=True)


def text_of(value: Any) -> bytes:
    """A JSON file's bytes, as `write_json` writes it."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def check_content(layout: Layout, content: Any) -> None:
    """Refuse anything but configurations of a bundle and weights of its other members and of all as one. Raises ValueError."""
    allowed = [
        layout.train,
        layout.inference,
        layout.evaluate,
        layout.metadata,
        layout.plan,
        layout.cross_validation_record,
    ]
    names = {path.relative_to(layout.folder).as_posix() for path in allowed}
    if not isinstance(content, dict) or set(content) != {"files", "weights"} or not isinstance(content["files"], dict):
        raise ValueError(f"{layout.unfinished}: expected files and weights")
    if wrong := sorted(content["files"].keys() - names):
        raise ValueError(f"{layout.unfinished}: {wrong[0]!r} is no configuration of a bundle")
    for name in content["weights"]:
        if not isinstance(name, str) or not _WEIGHTS.fullmatch(name):
            raise ValueError(f"{layout.unfinished}: {name!r} is no weight file of another bundle")
