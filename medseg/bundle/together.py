"""Several files of a bundle that change together: after a kill at any moment all of them are the old ones or the new ones.

What is to be written is first written whole under one name; from then on it counts. Whoever opens the bundle next finishes
what a killed command began.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medseg.io.atomic import write_json
from medseg.io.locks import alone_in
from medseg.layout import Layout

from .made_here import brings_own_code, is_ours, note_made
from .unfinished import check_content, finish, text_of


def write_together(layout: Layout, files: Mapping[Path, Any], weights: Iterable[Path] = ()) -> None:
    """Exchange files of a bundle, all or none.

    Args:
        layout: of the bundle.
        files: path of a configuration -> its new content, JSON-ready; in the order in which they are exchanged.
        weights: weight files whose new content lies beside them as `staged(path)`.

    Raises:
        ValueError: a path that is not one of these.
        ResourceError: the bundle cannot be written; nothing is changed then.
    """
    names = {path.relative_to(layout.folder).as_posix(): content for path, content in files.items()}
    moved = [path.relative_to(layout.folder).as_posix() for path in weights]
    content = {"files": names, "weights": moved}
    check_content(layout, content)
    with alone_in(layout.files_lock):
        finish(layout)
        if is_ours(layout.folder):
            coming = {layout.folder / name: text_of(value) for name, value in names.items()}
            note_made(layout.folder, coming, code=brings_own_code(layout.folder))
        write_json(layout.unfinished, content)
        finish(layout)
