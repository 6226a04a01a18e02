"""What stands where a bundle names something that medseg does itself: reading images, writing labels, loading weights, running."""

from __future__ import annotations

from typing import Any


class SaveImagePart:
    """In the place of a transform that reads or writes files: gives its data on as they are.

    Its name begins as those of the steps that `MonaiSegmenter` leaves out.
    """

    def __call__(self, data: Any, lazy: Any = None) -> Any:
        return data


class Unused:
    """In the place of a loader, an engine or a handler."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __repr__(self) -> str:
        return f"<{self.target}, which medseg does itself>"


def stand_in(role: str, target: str) -> Any:
    """What is used in the place of a target that is left undone."""
    return SaveImagePart() if role == "transform" else Unused(target)
