"""How much memory a prediction needs, decided before it is allocated, and what is given up when there is too little.

Order: a smaller slab (identical labels), one window at a time, 16-bit storage, the CPU (>= 99.9 % equal labels).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from medseg.errors import ConfigError
from medseg.free_memory import free_memory

from .slab import WindowPlan

# Share of the free memory that the slab may take; the rest is for activations, the label map and the neighbours' files.
SLAB_SHARE = 0.6
# A slab up to this size is simply made as large as the volume: one reduction instead of many.
SMALL_BYTES = 256 << 20


@dataclass
class StepDown:
    """The settings that may be lowered, and how far they have been.

    Args:
        device: where the network runs.
        window_batch: windows per call.
        planes: planes of the slab, or None.
        slab_type: `auto`, `float32` or `float16`.
    """

    device: torch.device
    window_batch: int
    planes: int | None
    slab_type: str
    smallest: bool = False

    def __post_init__(self) -> None:
        if self.slab_type not in ("auto", "float32", "float16"):
            raise ConfigError(f"slab_type {self.slab_type!r}: expected auto, float32 or float16")

    def down(self) -> str | None:
        """Give up the next thing; the sentence to tell, or None when nothing is left."""
        if not self.smallest:
            self.smallest, self.planes = True, None
            return "memory is short: the smallest slab is used (identical labels)"
        if self.window_batch > 1:
            self.window_batch = 1
            return "memory is short: one window at a time (labels equal but for near-ties)"
        if self.slab_type == "auto":
            self.slab_type = "float16"
            return "memory is short: logits are stored in 16 bits (at least 99.9 % equal labels)"
        if self.device.type != "cpu":
            self.device = torch.device("cpu")
            return "memory is short: the CPU computes instead of the GPU"
        return None


@dataclass
class Decision:
    """Where the slab lies and how it is stored."""

    planes: int
    dtype: torch.dtype
    device: torch.device
    sentences: list[str] = field(default_factory=list)


def is_shortage(error: BaseException) -> bool:
    """Whether an exception says that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text


def free_bytes(device: torch.device) -> int:
    """Memory that can be had on a device right now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_memory()


def slab_bytes(plan: WindowPlan, classes: int, planes: int | None, dtype: torch.dtype) -> int:
    """Bytes of a slab: K logits and one weight per voxel."""
    return plan.slab_voxels(planes) * (classes * dtype.itemsize + 4)


def plan_memory(plan: WindowPlan, classes: int, step: StepDown, limit: int | None = None) -> Decision:
    """Choose planes, type and place of the slab before anything is allocated.

    Args:
        plan: of the windows.
        classes: K.
        step: what has been given up already.
        limit: bytes that may be used for the slab on the CPU; default a share of what is free.
    """
    device = step.device
    share = 1.0 if limit else SLAB_SHARE
    room = int((limit or free_bytes(device)) * share)
    sentences: list[str] = []
    dtype = torch.float16 if step.slab_type == "float16" else torch.float32
    whole = plan.shape[plan.axis]
    planes = step.planes or (whole if slab_bytes(plan, classes, whole, dtype) <= SMALL_BYTES else plan.least_planes)
    if step.smallest:
        planes = plan.least_planes
    if slab_bytes(plan, classes, planes, dtype) > room and planes > plan.least_planes:
        planes = plan.least_planes
        sentences.append("memory is short: the smallest slab is used (identical labels)")
    if slab_bytes(plan, classes, planes, dtype) > room and step.slab_type == "auto":
        dtype = torch.float16
        sentences.append("memory is short: logits are stored in 16 bits (at least 99.9 % equal labels)")
    if slab_bytes(plan, classes, planes, dtype) > room and device.type != "cpu":
        device = torch.device("cpu")
        sentences.append("memory of the GPU is short: logits are blended on the CPU (at least 99.9 % equal labels)")
        room = int(free_bytes(device) * share)
        if step.slab_type == "auto" and slab_bytes(plan, classes, planes, torch.float32) <= room:
            dtype = torch.float32
    if slab_bytes(plan, classes, planes, dtype) > room:
        need = slab_bytes(plan, classes, planes, dtype)
        raise MemoryError(
            f"{need / 2**20:.1f} MiB are needed for the logits of {classes} classes on {plan.shape} voxels, "
            f"{room / 2**20:.1f} MiB may be used"
        )
    return Decision(planes, dtype, device, sentences)
