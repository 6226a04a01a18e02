"""How to predict: what a user may ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PredictOptions:
    """How to predict; None takes the bundle's own value.

    Args:
        device: auto, cpu, cuda, cuda:N, mps.
        overlap: shared fraction of neighbouring windows.
        window_batch: windows per call of the network.
        mirror: mirror along these axes (0 X, 1 Y, 2 Z); () for none, None for the bundle's.
        engine: auto, eager, compile, openvino.
        precision: fp32, bf16, fp16.
        max_memory: bytes for the logits.
        slab_type: auto, float32, float16.
        fast: let the bundle's low-resolution network find the box in which the full-resolution one works.
    """

    device: str = "auto"
    overlap: float | None = None
    window_batch: int | None = None
    mirror: tuple[int, ...] | None = None
    engine: str = "auto"
    precision: str | None = None
    max_memory: int | None = None
    slab_type: str = "auto"
    fast: bool = False

    def request(self) -> dict[str, Any]:
        """The settings that decide the labels (not how fast they come), for `--continue`."""
        asked = {"overlap": self.overlap, "mirror": self.mirror, "precision": self.precision, "slab": self.slab_type}
        return asked | ({"fast": True} if self.fast else {})
