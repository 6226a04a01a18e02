"""Stand-ins for functions that a bundle may name but must not get as they are."""

from __future__ import annotations

import datetime
import io
from pathlib import Path
from typing import Any

from .grammar import GrammarError

MAX_TEXT = 1 << 28  # bytes of a text file that an expression may read


def load_tensors(path: Any, *_ignored: Any, **_also_ignored: Any) -> dict[str, Any]:
    """What an untrusted bundle gets for `torch.load`: tensors only, on the CPU, whatever arguments it gave."""
    from ..weights import read_state_dict

    return read_state_dict(Path(str(path)))


def open_text(path: Any, mode: str = "r", **_ignored: Any) -> io.StringIO:
    """What it gets for `open`: the text of a file, read at once; never a file that could be written.

    Raises:
        GrammarError: any mode but reading text, or a very large file.
    """
    if mode not in ("r", "rt"):
        raise GrammarError(f"opens a file with mode {mode!r}")
    file = Path(str(path))
    if file.stat().st_size > MAX_TEXT:
        raise GrammarError(f"reads a text of more than {MAX_TEXT} bytes")
    return io.StringIO(file.read_text(encoding="utf-8"))


def now() -> datetime.datetime:
    """`datetime.now()`."""
    return datetime.datetime.now()


def first_argument(value: Any, *_ignored: Any, **_also_ignored: Any) -> Any:
    """For wrappers that only make something faster: the thing itself."""
    return value


def nothing(*_ignored: Any, **_also_ignored: Any) -> None:
    """For calls whose effect is not wanted (changing the import path, making folders ahead of time)."""
