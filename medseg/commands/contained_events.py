"""What the child that holds a stranger's bundle may tell its parent: data of a stranger, none of it run, all of it checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medseg import errors
from medseg.bundle.opening.inventory import escaped
from medseg.cases.batch import CaseResult
from medseg.errors import BundleError, MedsegError


def _progress_of(content: Any) -> tuple[str, int, int]:
    name, done, total = content
    return escaped(str(name)), int(done), int(total)


def _finished_of(content: Any) -> tuple[CaseResult, int, int]:
    fields, done, total = content
    known = {entry.name for entry in dataclasses.fields(CaseResult)}
    case = CaseResult(**{key: value for key, value in fields.items() if key in known})
    texts = (case.name, case.error, *case.outputs, *case.steps, *case.out_of_scope)
    rows = [entry for row in case.measures for entry in row.items()]  # each a table
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(key, str) for key, _ in rows):
        raise TypeError
    if case.status not in ("done", "skipped", "failed"):
        raise ValueError
    case.seconds, case.error = float(case.seconds), escaped(case.error)
    return case, int(done), int(total)


def _error_of(content: Any) -> MedsegError:
    """The child's error by its name; any but ours is the bundle's."""
    kind, text = content
    found = getattr(errors, str(kind), BundleError)
    line = escaped(" ".join(str(text).split()))
    return found(line) if isinstance(found, type) and issubclass(found, MedsegError) else BundleError(line)


def _shown_of(content: Any) -> object:
    from medseg.bundle.opening.listing import Shown

    lines = tuple(escaped(str(line)) for line in content["lines"])
    return Shown(Path(str(content["folder"])), str(content["digest"]), lines)


READ: dict[str, Callable[[Any], Any]] = {
    "memory": int,
    "ask": _shown_of,
    "progress": _progress_of,
    "finished": _finished_of,
    "end": int,
    "print": str,
    "error": _error_of,
}
