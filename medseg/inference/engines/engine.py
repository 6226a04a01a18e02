"""A network, ready to be called with windows; and what each way of running it must be able to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class EngineError(RuntimeError):
    """An engine cannot run this network here; the message says why."""


@dataclass
class Engine:
    """A network, ready to be called with windows.

    Args:
        name: `eager`, `compile` or `openvino`.
        precision: `fp32`, `bf16` or `fp16`.
        device: where it runs.
        run: (B, C, ...) float32 -> (B, K, ...) logits.
        seconds: time per window that was measured, 0 when it was not.
        reason: why this engine was chosen.
    """

    name: str
    precision: str
    device: torch.device
    run: Callable[[torch.Tensor], torch.Tensor]
    seconds: float = 0.0
    reason: str = ""
    refused: dict[str, str] = field(default_factory=dict)

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        return self.run(windows)

    def describe(self) -> dict[str, Any]:
        """JSON-ready facts for the record."""
        return {"name": self.name, "precision": self.precision, "reason": self.reason, "refused": self.refused}


def single_output(output: Any) -> torch.Tensor:
    """The full-resolution logits of a network that returns several."""
    while not isinstance(output, torch.Tensor):
        output = next(iter(output.values())) if isinstance(output, dict) else output[0]
    return output
