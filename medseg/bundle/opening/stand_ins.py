"""What stands where a bundle names something that medseg does itself: reading images, writing labels, loading weights, running."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class SaveImagePart:
    """In the place of a transform that writes files: gives its data on as they are.

    Its name begins as those of the steps that `MonaiSegmenter` leaves out.
    """

    def __call__(self, data: object, lazy: object = None) -> object:
        return data


class Unused:
    """In the place of a loader, an engine or a handler."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __repr__(self) -> str:
        return f"<{self.target}, which medseg does itself>"


def _load_image(arguments: Mapping[str, Any]) -> object:
    """MONAI's `LoadImaged`, reading through our own door whatever reader and conversion the bundle names."""
    from monai.transforms import LoadImaged

    reader = arguments.get("reader")
    if reader is None or isinstance(reader, (str, list)):
        from medseg.io.monai_reader import VolumeReader

        reader = VolumeReader()
    return LoadImaged(arguments["keys"], reader=reader, allow_missing_keys=bool(arguments.get("allow_missing_keys")))


def stand_in(role: str, target: str, arguments: Mapping[str, Any]) -> Any:
    """What is used in the place of a target that is left undone.

    Args:
        role, target: see `Target`.
        arguments: those of a transform, judged and built.
    """
    if role != "transform":
        return Unused(target)
    return _load_image(arguments) if target.endswith("LoadImaged") and "keys" in arguments else SaveImagePart()
