"""How to predict: what decides the labels, how they are computed, and what a user may ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from medseg.errors import ConfigError, nearest

# Names only, for a check before torch is imported; engines/choice.py and engines/engine.py hold what they stand for.
ENGINES = ("auto", "eager", "compile", "openvino")
PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class LabelSettings:
    """Everything beside weights and preprocessing that decides the labels; a bundle keeps it in inference.json.

    Args:
        roi_size: extent of a window; two values for a two-dimensional network, which then sees slices along Z.
        overlap: shared fraction of neighbouring windows, one for all axes or one per axis.
        mode: `gaussian` or `constant` blending, or `nnunet` for its Gaussian.
        placement: `regular` windows (MONAI's) or `even` ones (nnU-Net's).
        accumulation: `float32`, or `nnunet` to repeat nnU-Net's float16 roundings, for the labels that it would give.
        mirror_axes: spatial axes of test-time mirroring (0 X, 1 Y, 2 Z); none by default, it costs a factor 2 per axis.
        label_values: label of each output of the network; None for 0, 1, 2 ...
        regions: the outputs are overlapping regions; a voxel gets the entry of `label_values` of the last one it lies in.
        combine: how several networks are averaged, `logits` or `probabilities`.
        postprocessing: steps of `medseg.transforms.postprocessing`, applied on the source grid in order.
    """

    roi_size: tuple[int, ...]
    overlap: float | tuple[float, ...] = 0.5
    mode: str = "gaussian"
    placement: str = "regular"
    accumulation: str = "float32"
    mirror_axes: tuple[int, ...] = ()
    label_values: tuple[int, ...] | None = None
    regions: bool = False
    combine: str = "logits"
    postprocessing: tuple[Mapping[str, Any], ...] = field(default=())


@dataclass(frozen=True)
class Execution:
    """Where and how labels are computed; none of it changes them by more than rounding.

    Args:
        device: where the network runs and logits are blended.
        engine: `auto`, `eager`, `compile` or `openvino`; auto times those that can run.
        precision: `fp32`, `bf16`, `fp16`, or None for fp32 on a CPU and bf16 or fp16 on a GPU.
        sw_batch_size: windows per call of the network.
        memory_limit: bytes that prediction may use; default what the machine has free.
        slab_planes: planes of the slab; the smallest that works by default. The labels do not depend on it.
        slab_type: `float32`, `float16`, or `auto`: float16 only when float32 does not fit.
        cases: how many volumes are to come; a slow-to-build engine pays for many.
        keep_probabilities: leave them in `Predictor.probabilities`, (K, X, Y, Z) float16 on the source grid.
        confidence: leave sums per output and the agreement of passes in `Predictor.confidence`.
        temperature: leave a map of the entropy at this temperature in `Predictor.uncertainty`, (X, Y, Z) uint8.
    """

    device: Any = "cpu"
    engine: str = "auto"
    precision: str | None = None
    sw_batch_size: int = 1
    memory_limit: int | None = None
    slab_planes: int | None = None
    slab_type: str = "auto"
    cases: int = 1
    keep_probabilities: bool = False
    confidence: bool = False
    temperature: float | None = None


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
        fold: one fold's network in place of all that the bundle averages.
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
    fold: int | None = None

    def check(self) -> None:
        """Refuse what no model can do, before anything is read.

        Raises:
            ConfigError: naming the option, the value and what is expected.
        """
        if self.overlap is not None and not 0 <= self.overlap < 1:
            raise ConfigError(f"overlap is {self.overlap}; expected at least 0 and below 1, such as --overlap 0.5")
        if self.window_batch is not None and self.window_batch < 1:
            raise ConfigError(f"window_batch is {self.window_batch}; expected at least 1: --window-batch 1")
        if self.max_memory is not None and self.max_memory < 1 << 10:
            raise ConfigError(f"max_memory is {self.max_memory} bytes; expected such as --max-memory 8GB")
        for name, value, known in (("engine", self.engine, ENGINES), ("precision", self.precision, PRECISIONS)):
            if value is not None and value not in known:
                raise ConfigError(f"{name} is {value!r}; expected such as --{name} {known[0]}. {nearest(value, known)}")

    def request(self) -> dict[str, Any]:
        """The settings that decide the labels (not how fast they come), for `--continue`."""
        asked = {"overlap": self.overlap, "mirror": self.mirror, "precision": self.precision, "slab": self.slab_type}
        asked |= {"fast": True} if self.fast else {}
        return asked | ({} if self.fold is None else {"fold": self.fold})
