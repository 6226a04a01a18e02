"""Files of a bundle that change together, see `medseg.selection.unfinished`; what was this user's own stays so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medseg.io.locks import alone_in
from medseg.layout import Layout
from medseg.selection.unfinished import exchange, finish, noted, text_of

from .made_here import brings_own_code, is_ours, note_made


def write_together(layout: Layout, files: Mapping[Path, Any], weights: Iterable[Path] = ()) -> None:
    """Exchange files of a bundle, all or none; the arguments and errors are those of `exchange`."""
    weights = list(weights)
    content = noted(layout, files, weights)
    with alone_in(layout.files_lock):
        finish(layout)
        if is_ours(layout.folder):
            coming = {layout.folder / name: text_of(value) for name, value in content["files"].items()}
            note_made(layout.folder, coming, code=brings_own_code(layout.folder))
        exchange(layout, files, weights)
