"""`SlidingWindowInferer`: a drop-in for MONAI's class, so that inference.json, MONAI Label and training use our windows.

It returns full logits, as its callers expect; `medseg.inference.Predictor` is the way that never holds them all. MONAI is not
imported here, which takes seconds of the start of `medseg fit`: where it is loaded, it is told that the class is one of its own.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.nn import functional

from .accumulator import Accumulator
from .ensemble import AveragedNetwork, averaged
from .half_slab import HalfSlab
from .mirroring import mirrored
from .network_outputs import Outputs, flatten, with_metadata_of
from .places import SIGMA_SCALE, importance_map, padding, per_axis, window_size, window_starts
from .slab import batches, plan_windows


class SlidingWindowInferer:
    """Apply a network window by window and blend the overlaps; equal to MONAI's class to rounding.

    Args:
        roi_size: extent of a window; None or values <= 0 stand for the whole axis. Two values and a volume with three axes:
            the network is one of slices, which it gets one by one along the last axis.
        sw_batch_size: windows per call of the network.
        overlap: shared fraction of neighbouring windows.
        mode: `gaussian` or `constant`, or `nnunet` for its Gaussian.
        sigma_scale: of the Gaussian, as a share of the window.
        padding_mode: of `torch.nn.functional.pad`, where the volume is smaller than the window.
        cval: value of constant padding.
        sw_device: where the network runs (default: where the input is).
        device: where windows are blended (default: where the input is).
        progress: show a progress bar.
        cache_roi_weight_map, cpu_thresh, buffer_steps, buffer_dim, with_coord: as MONAI's. `buffer_steps` needs nothing here:
            one weighted addition per window is all that happens on `device`.
        placement: `regular` windows (MONAI's) or `even` ones (nnU-Net's).
        mirror_axes: spatial axes of test-time mirroring; the mean logits of a window and its mirror images are blended.
        accumulation: `float32`, or `nnunet` to repeat nnU-Net's float16 roundings (inputs with three spatial axes; several
            networks in an `AveragedNetwork` are then blended one by one, as nnU-Net does).

    Example:
        >>> inferer = SlidingWindowInferer((4, 4, 4))
        >>> volume = torch.rand(1, 1, 9, 7, 5)
        >>> torch.testing.assert_close(inferer(volume, lambda window: window), volume)
    """

    def __init__(
        self,
        roi_size: Sequence[int] | int,
        sw_batch_size: int = 1,
        overlap: Sequence[float] | float = 0.5,
        mode: str = "gaussian",
        sigma_scale: Sequence[float] | float = SIGMA_SCALE,
        padding_mode: str = "constant",
        cval: float = 0.0,
        sw_device: torch.device | str | None = None,
        device: torch.device | str | None = None,
        progress: bool = False,
        cache_roi_weight_map: bool = False,
        cpu_thresh: int | None = None,
        buffer_steps: int | None = None,
        buffer_dim: int = -1,
        with_coord: bool = False,
        placement: str = "regular",
        mirror_axes: Sequence[int] = (),
        accumulation: str = "float32",
    ) -> None:
        if placement not in ("regular", "even"):
            raise ValueError(f"placement={placement!r}: expected 'regular' or 'even'")
        if accumulation not in ("float32", "nnunet"):
            raise ValueError(f"accumulation={accumulation!r}: expected 'float32' or 'nnunet'")
        self.blending = str(getattr(mode, "value", mode))
        if self.blending not in ("gaussian", "constant", "nnunet"):
            raise ValueError(f"mode={self.blending!r}: expected 'gaussian', 'constant' or 'nnunet'")
        self.placement, self.accumulation = placement, accumulation
        self.mirror_axes = tuple(int(axis) for axis in mirror_axes)
        self.roi_size, self.sw_batch_size, self.overlap = roi_size, sw_batch_size, overlap
        self.mode = "gaussian" if self.blending == "nnunet" else self.blending  # MONAI's class knows no third word
        self.sigma_scale, self.padding_mode, self.cval = sigma_scale, padding_mode, cval
        self.sw_device, self.device, self.progress, self.cpu_thresh = sw_device, device, progress, cpu_thresh
        self.buffer_steps, self.buffer_dim, self.with_coord = buffer_steps, buffer_dim, with_coord
        self.roi_weight_map = None
        inferers = sys.modules.get("monai.inferers")
        if inferers is not None:
            inferers.SlidingWindowInferer.register(SlidingWindowInferer)

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., Outputs], *args: Any, **kwargs: Any
    ) -> torch.Tensor | tuple[torch.Tensor, ...] | dict[Any, torch.Tensor]:
        """Logits of the whole volume.

        Args:
            inputs: (B, C, X, Y, Z), or (B, C, X, Y).
            network: window batch -> tensor, sequence or dictionary of tensors; a scaled output stays scaled.
            args, kwargs: passed on to the network; `condition` (shape of `inputs`) is cut into windows alongside.

        Returns:
            What the network returns, for the whole volume; type, dtype and metadata follow `inputs`.
        """
        axes = inputs.ndim - 2
        if isinstance(self.roi_size, Sequence) and len(self.roi_size) == 2 and axes == 3:
            return self._for_slices()(inputs, _slicewise(network), *args, **kwargs)
        if isinstance(self.roi_size, Sequence) and len(self.roi_size) != axes:
            raise ValueError(
                f"inputs of shape {tuple(inputs.shape)} have {axes} spatial axes, roi_size {self.roi_size} names "
                f"{len(self.roi_size)}; inputs are (B, C, spatial axes ...), channel-first"
            )
        device = kwargs.pop("device", self.device)
        kwargs.pop("buffer_steps", None), kwargs.pop("buffer_dim", None)
        if device is None and self.cpu_thresh is not None and inputs.shape[2:].numel() > self.cpu_thresh:
            device = "cpu"
        condition = kwargs.pop("condition", None)
        if condition is not None and condition.shape != inputs.shape:
            raise ValueError(
                f"condition of shape {tuple(condition.shape)}: expected that of inputs {tuple(inputs.shape)}"
            )
        plain = inputs.as_subclass(torch.Tensor)
        target = torch.device(device or inputs.device)
        if self.accumulation == "nnunet":
            merged, keys = [self._rounded(plain, network, target, args, kwargs)], "tensor"
        else:
            runner = _mirrored(network, self.mirror_axes) if self.mirror_axes else network
            merged, keys = self._merge(plain, condition, runner, target, args, kwargs)
        merged = [with_metadata_of(inputs, one) for one in merged]
        if isinstance(keys, str):
            return merged[0]
        return tuple(merged) if keys is None else dict(zip(keys, merged, strict=True))

    def _for_slices(self) -> SlidingWindowInferer:
        """The same for windows (X, Y, 1)."""
        assert isinstance(self.roi_size, Sequence)
        overlap = (*per_axis(self.overlap, 2, "overlap"), 0.0)
        return SlidingWindowInferer(
            (*self.roi_size, 1), self.sw_batch_size, overlap, self.blending,
            padding_mode=self.padding_mode, cval=self.cval, sw_device=self.sw_device, device=self.device,
            progress=self.progress, cpu_thresh=self.cpu_thresh, placement=self.placement, mirror_axes=self.mirror_axes,
            accumulation=self.accumulation,
        )  # fmt: skip

    def _rounded(
        self,
        inputs: torch.Tensor,
        network: Callable[..., Outputs],
        device: torch.device,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> torch.Tensor:
        """Logits as nnU-Net's float16 sums give them; windows in the order in which `Predictor` visits them.

        Raises:
            ValueError: inputs without three spatial axes.
        """
        if inputs.ndim != 5:
            raise ValueError(
                f"accumulation='nnunet' needs inputs (B, C, X, Y, Z) or a roi_size of two values, found {tuple(inputs.shape)}"
            )
        members = list(network.networks) if isinstance(network, AveragedNetwork) else [network]
        runner = mirrored(
            averaged([functools.partial(_plain, one, args, kwargs) for one in members], "apart"), self.mirror_axes
        )
        shape = tuple(inputs.shape[2:])
        plan = plan_windows(
            shape,
            window_size(self.roi_size, shape),
            per_axis(self.overlap, 3, "overlap"),
            placement=self.placement,  # type: ignore[arg-type]
        )
        padded = self._padded(inputs, padding(shape, plan.roi))
        weights = importance_map(plan.roi, self.blending, self.sigma_scale)
        inner = [slice(before, before + size) for before, size in zip(plan.pads, shape, strict=True)]
        found = []
        for sample in range(inputs.shape[0]):
            slab: HalfSlab | None = None
            for starts in (group for layer in plan.layers for group in batches(plan, layer, self.sw_batch_size)):
                windows = self._cut(padded, [(sample, start) for start in starts], plan.roi)
                logits = runner(windows)
                if slab is None:
                    planes = plan.shape[plan.axis]
                    slab = HalfSlab(logits.shape[1], plan, weights, planes=planes, device=device, members=len(members))
                for window, start in zip(logits, starts, strict=True):
                    slab.add(window, start)
            assert slab is not None
            slab.complete(plan.shape[plan.axis])
            found.append(slab.values[: slab.classes][(slice(None), *inner)].to(inputs.dtype))
        return torch.stack(found)

    def _merge(
        self,
        inputs: torch.Tensor,
        condition: torch.Tensor | None,
        network: Callable[..., Outputs],
        device: torch.device,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[list[torch.Tensor], Any]:
        shape = tuple(inputs.shape[2:])
        roi = window_size(self.roi_size, shape)  # type: ignore[arg-type]
        pads = padding(shape, roi)
        inputs = self._padded(inputs, pads)
        condition = None if condition is None else self._padded(condition, pads)
        shares = per_axis(self.overlap, len(shape), "overlap")
        starts = window_starts(inputs.shape[2:], roi, shares, placement=self.placement)
        weights = importance_map(roi, self.blending, self.sigma_scale)
        accumulators: list[Accumulator] = []
        keys: Any = None
        for places in self._batches(starts, inputs.shape[0]):
            windows = self._cut(inputs, places, roi)
            extra = dict(kwargs) if condition is None else {**kwargs, "condition": self._cut(condition, places, roi)}
            if self.with_coord:
                args_here: tuple[Any, ...] = ([self._slices(inputs, place, roi) for place in places], *args)
            else:
                args_here = args
            keys, outputs = flatten(network(windows, *args_here, **extra))
            if not accumulators:
                batch = inputs.shape[0]
                accumulators = [Accumulator(out, batch, inputs.shape[2:], roi, weights, device) for out in outputs]
            for accumulator, output in zip(accumulators, outputs, strict=True):
                accumulator.add(output, places)
        return [accumulator.finish(starts, pads, shape, inputs.dtype) for accumulator in accumulators], keys

    def _padded(self, values: torch.Tensor, pads: list[tuple[int, int]]) -> torch.Tensor:
        if not any(before or after for before, after in pads):
            return values
        flat = [side for pair in reversed(pads) for side in pair]
        mode = str(getattr(self.padding_mode, "value", self.padding_mode))
        return functional.pad(values, flat, mode=mode, value=self.cval if mode == "constant" else None)

    def _batches(self, starts: list[tuple[int, ...]], batch: int) -> Iterator[list[tuple[int, tuple[int, ...]]]]:
        places = [(sample, start) for sample in range(batch) for start in starts]
        chunks: Any = [places[i : i + self.sw_batch_size] for i in range(0, len(places), self.sw_batch_size)]
        if self.progress:
            from tqdm import tqdm

            chunks = tqdm(chunks)
        yield from chunks

    @staticmethod
    def _slices(inputs: torch.Tensor, place: tuple[int, tuple[int, ...]], roi: tuple[int, ...]) -> list[slice]:
        sample, start = place
        box = [slice(first, first + size) for first, size in zip(start, roi, strict=True)]
        return [slice(sample, sample + 1), slice(None), *box]

    def _cut(
        self, values: torch.Tensor, places: list[tuple[int, tuple[int, ...]]], roi: tuple[int, ...]
    ) -> torch.Tensor:
        parts = [values[tuple(self._slices(values, place, roi))] for place in places]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).to(self.sw_device or values.device)


def _plain(
    network: Callable[..., Outputs], args: tuple[Any, ...], kwargs: dict[str, Any], windows: torch.Tensor
) -> torch.Tensor:
    """One network's logits; what is not one tensor cannot be mirrored or rounded.

    Raises:
        ValueError: the network returns several outputs.
    """
    logits = network(windows, *args, **kwargs)
    if not isinstance(logits, torch.Tensor):
        raise ValueError(
            f"mirroring and accumulation='nnunet' need one tensor of logits, found {type(logits).__name__}"
        )
    return logits


def _mirrored(network: Callable[..., Outputs], axes: Sequence[int]) -> Callable[..., torch.Tensor]:
    """The network's mean logits over mirror images along spatial axes."""

    def run(windows: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        return mirrored(functools.partial(_plain, network, args, kwargs), axes)(windows)

    return run


class _Slicewise(torch.nn.Module):
    """A network of slices as one of windows (B, C, X, Y, 1)."""

    def __init__(self, network: Callable[..., Outputs]) -> None:
        super().__init__()
        self.network = network

    def forward(self, windows: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        logits = self.network(windows[..., 0], *args, **kwargs)
        assert isinstance(logits, torch.Tensor)
        return logits[..., None]


def _slicewise(network: Callable[..., Outputs]) -> torch.nn.Module:
    """A network of slices, or the mean of several, as one of windows (B, C, X, Y, 1)."""
    if isinstance(network, AveragedNetwork):
        return AveragedNetwork([_Slicewise(member) for member in network.networks])
    return _Slicewise(network)
