"""Case in, label map on the case's own grid out: preprocessing, windows, blending, the way back.

    predictor = Predictor(network, preprocessing, LabelSettings(roi_size=(96, 96, 96)))
    label = predictor.predict(read_image("scan.nii.gz"))

The network sees windows; logits of all classes exist only in a slab (see `slab.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medseg.errors import ConfigError, DataError, ResourceError
from medseg.io import Volume
from medseg.transforms.classes import label_dtype
from medseg.transforms.nnunet_preprocessing import NnunetPreprocessing
from medseg.transforms.postprocessing import Postprocessing
from medseg.transforms.preprocessing import Prepared, Preprocessing
from medseg_kernels import NonFiniteLogitsError

from .engines.choice import choose_engine
from .engines.engine import Engine
from .settings import Execution, LabelSettings
from .windows.confidence import LabelSums, UncertaintyMap, Votes, Watcher
from .windows.ensemble import averaged
from .windows.half_slab import HalfSlab
from .windows.heap import give_back_freed_memory, keep_freed_memory
from .windows.memory import StepDown, is_shortage, plan_memory
from .windows.mirroring import mirrored
from .windows.part import Box, Part, part_of_plan
from .windows.places import importance_map, per_axis
from .windows.slab import ProbabilityMap, Slab, Start, Target, WindowPlan, plan_windows, stream_labels

Progress = Callable[[int, int], None]
log = logging.getLogger(__name__)


class Predictor:
    """Segments volumes with one network, or with the mean of several.

    Args:
        network: (B, C, X, Y, Z) -> (B, K, X, Y, Z) logits; or several of these, averaged in one pass over the windows.
        preprocessing: the bundle's recipe, which training used too.
        settings: what decides the labels.
        execution: where and how they are computed; on the CPU by default.

    Raises:
        ConfigError: an unknown accumulation, or one that regions cannot have.
        ValueError: regions without `label_values`.
    """

    def __init__(
        self,
        network: torch.nn.Module | Sequence[torch.nn.Module],
        preprocessing: Preprocessing | NnunetPreprocessing,
        settings: LabelSettings,
        execution: Execution | None = None,
    ) -> None:
        self.networks = [network] if isinstance(network, torch.nn.Module) else list(network)
        self.preprocessing = preprocessing
        execution = execution or Execution()
        self.settings, self.execution = settings, execution
        roi_size = settings.roi_size
        self.flat = len(roi_size) == 2
        self.roi_size = tuple(int(v) for v in roi_size) + ((1,) if self.flat else ())
        shares = per_axis(settings.overlap, len(roi_size), "overlap")
        self.overlap = tuple(float(v) for v in shares) + ((0.0,) if self.flat else ())
        self.mirror_axes = tuple(int(axis) for axis in settings.mirror_axes)
        if settings.regions and settings.label_values is None:
            raise ValueError("regions need label_values, the label that each of them writes")
        self.label_values = _values_unless_plain(settings.label_values, keep=settings.regions)
        self.combine = _checked_combination(settings, len(self.networks))
        self.device = torch.device(execution.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.slab_type = "float16" if settings.accumulation == "nnunet" else execution.slab_type
        self.probabilities: NDArray[np.float16] | None = None
        self.uncertainty: NDArray[np.uint8] | None = None
        self.confidence: dict[str, NDArray[np.float64]] = {}
        self.votes = Votes() if execution.confidence and not settings.regions else None
        self.postprocessing = [Postprocessing(settings.postprocessing)] if settings.postprocessing else []
        self.engines: list[Engine] = []
        self.steps: list[str] = []

    def predict(self, volume: Volume, progress: Progress | None = None) -> NDArray[np.integer]:
        """The label map of a volume.

        Args:
            volume: image (C, X, Y, Z) with affine.
            progress: called with (windows done, windows in all).

        Returns:
            (X, Y, Z) uint8 (uint16, uint32 where labels need it) on the volume's grid.

        Raises:
            DataError: the network answered with NaN or infinity, or the image holds them.
            ResourceError: not enough memory, whatever is given up.
        """
        prepared = self.prepare(volume)
        del volume
        return self.segment(prepared, progress)

    def prepare(self, volume: Volume) -> Prepared:
        """The volume on the network's grid; afterwards the volume itself is not needed any more."""
        return self.preprocessing.apply(volume.array, volume.affine)

    def segment(
        self,
        prepared: Prepared,
        progress: Progress | None = None,
        *,
        box: Box | None = None,
        watchers: Sequence[Watcher] = (),
    ) -> NDArray[np.integer]:
        """The label map of a prepared volume; on shortage of memory it steps down and starts anew.

        Args:
            prepared: of `prepare`.
            progress: called with (windows done, windows in all).
            box: compute only this box of the source array, (first, end) per axis; 0 outside, the same labels inside.
            watchers: told the logits of the source grid, see `windows/confidence.py`.
        """
        plan = plan_windows(prepared.image.shape[1:], self.roi_size, self.overlap, placement=self.settings.placement)
        image = _padded(prepared.image, plan)
        self.steps, part = [], None
        if box is not None:
            part = part_of_plan(plan, prepared.grid, box)
            if part is None:
                raise DataError(f"the box {box} lies outside the part of the image that is not zero")
            plan = part.plan
            image = image[(slice(None), *(slice(f, f + n) for f, n in zip(part.first, plan.shape, strict=True)))]
        step = StepDown(self.device, self.execution.sw_batch_size, self.execution.slab_planes, self.slab_type)
        while True:
            try:
                label = self._run(prepared, image, plan, step, progress, part, watchers)
                break
            except NonFiniteLogitsError as error:
                raise DataError(f"{error}; the weights or the image are damaged, or 16 bits are too few") from error
            except (MemoryError, RuntimeError) as error:
                if not is_shortage(error):
                    raise
                sentence = step.down()
                if sentence is None:
                    raise ResourceError(f"not enough memory for {prepared.image.shape[1:]} voxels: {error}") from error
                self._note(sentence)
            finally:
                give_back_freed_memory()
        for function in self.postprocessing:
            label = function(label, prepared.source_affine)
        return label

    def _run(
        self,
        prepared: Prepared,
        image: torch.Tensor,
        plan: WindowPlan,
        step: StepDown,
        progress: Progress | None,
        part: Part | None,
        watchers: Sequence[Watcher],
    ) -> NDArray[np.integer]:
        # engines are compared on a window of the middle: in pure air a norm divides by next to nothing and shows rounding only
        layer = plan.layers[len(plan.layers) // 2]
        example = _window(image, layer[len(layer) // 2], plan).to(step.device)
        self._ensure_engines(example if not self.flat else example[..., 0], step, plan.count * self.execution.cases)
        run = self._runner(step)
        windows = _Windows(image, plan, run, step.device)
        weights = importance_map(plan.roi, self.settings.mode)
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(done, plan.count)

        def make_slab(classes: int) -> Slab:
            decision = plan_memory(plan, classes, step, self.execution.memory_limit)
            for sentence in decision.sentences:
                self._note(sentence)
            if self.settings.accumulation == "nnunet":
                return HalfSlab(
                    classes, plan, weights, planes=decision.planes, device=decision.device, members=len(self.networks)
                )
            return Slab(
                classes, plan, weights, planes=decision.planes, dtype=decision.dtype, device=decision.device,
                regions=self.settings.regions, absolute=self.combine == "probabilities",
            )  # fmt: skip

        kept, sums, uncertain = self._own_watchers()
        seeing = [*watchers, *(one for one in (kept, sums, uncertain) if one is not None)]
        for one in seeing:
            one.restart()
        if self.votes is not None:
            self.votes.restart()
        with torch.inference_mode():
            label = stream_labels(
                plan,
                Target.whole(prepared.grid, plan) if part is None else Target(prepared.grid, part.tables, part.region),
                windows,
                make_slab,
                window_batch=step.window_batch,
                label_values=self.label_values,
                advance=advance,
                watchers=seeing,
            )
        self.probabilities = None if kept is None else kept.values
        self.uncertainty = None if uncertain is None else uncertain.values
        if sums is not None:
            self.confidence = sums.as_dict() | ({"agreement": self.votes.agreement()} if self.votes else {})
        return label

    def _own_watchers(self) -> tuple[ProbabilityMap | None, LabelSums | None, UncertaintyMap | None]:
        """What the execution asks to be kept beside the labels."""
        regions = self.settings.regions
        shares = len(self.networks) > 1 and self.combine == "probabilities" and not regions
        wanted = self.execution
        return (
            ProbabilityMap(softmax=self.combine != "probabilities", regions=regions)
            if wanted.keep_probabilities
            else None,
            LabelSums(regions=regions, shares=shares) if wanted.confidence else None,
            UncertaintyMap(wanted.temperature, regions=regions, shares=shares) if wanted.temperature else None,
        )

    def _ensure_engines(self, example: torch.Tensor, step: StepDown, windows: int) -> None:
        if self.engines and self.engines[0].device == step.device:
            return
        self.engines = [
            choose_engine(
                network, example, name=self.execution.engine, precision=self.execution.precision, windows=windows
            )
            for network in self.networks
        ]

    def _runner(self, step: StepDown) -> Callable[[torch.Tensor], torch.Tensor]:
        if self.flat:
            runners = [_slicewise(engine) for engine in self.engines]
        else:
            runners = list(self.engines)  # type: ignore[arg-type]
        members = self.votes if len(runners) > 1 and self.combine != "apart" else None
        mean = averaged(runners, self.combine, regions=self.settings.regions, votes=members)
        return mirrored(mean, self.mirror_axes, self.votes if len(runners) == 1 else None)

    def _note(self, sentence: str) -> None:
        if sentence not in self.steps:
            self.steps.append(sentence)
            log.warning("%s", sentence)

    def describe(self) -> dict[str, Any]:
        """What decides the labels and how they were computed, JSON-ready, for the record beside the output."""
        return {
            "roi_size": list(self.roi_size[:2] if self.flat else self.roi_size),
            "overlap": list(self.overlap[:2] if self.flat else self.overlap),
            "sw_batch_size": self.execution.sw_batch_size,
            "mode": self.settings.mode,
            "placement": self.settings.placement,
            "mirror_axes": list(self.mirror_axes),
            "networks": len(self.networks),
            "combine": self.combine,
            "accumulation": self.settings.accumulation,
            "preprocessing": self.preprocessing.to_dict(),
            "engines": [engine.describe() for engine in self.engines],
            "device": str(self.engines[0].device if self.engines else self.device),
            "stepped_down": list(self.steps),
        }


class _Windows:
    """Cuts windows and runs the network. A window of one constant value is computed once and remembered.

    That is provably the same: equal input, equal output. Clipped CT has much air that is constant, and pads are too.
    """

    def __init__(
        self, image: torch.Tensor, plan: WindowPlan, run: Callable[[torch.Tensor], torch.Tensor], device: torch.device
    ) -> None:
        self.image, self.plan, self.run, self.device = image, plan, run, device
        self.constant: tuple[tuple[float, ...], torch.Tensor] | None = None
        self.skipped = 0

    def __call__(self, starts: tuple[Start, ...]) -> torch.Tensor:
        parts = [_window(self.image, start, self.plan) for start in starts]
        values = [_constant_value(part) for part in parts]
        if all(value is not None and value == values[0] for value in values):
            return self._constant_logits(parts[0], values[0]).expand(len(parts), -1, -1, -1, -1)
        return self.run(torch.cat(parts).to(self.device))

    def _constant_logits(self, window: torch.Tensor, value: tuple[float, ...] | None) -> torch.Tensor:
        assert value is not None
        if self.constant is None or self.constant[0] != value:
            self.constant = (value, self.run(window.to(self.device)).clone())
        else:
            self.skipped += 1
        return self.constant[1]


def _constant_value(window: torch.Tensor) -> tuple[float, ...] | None:
    """The value of each channel when all its voxels are equal, else None."""
    corner = window[0, :, 0, 0, 0]
    if bool((window[0, :, -1, -1, -1] != corner).any()):  # nearly every window ends here
        return None
    flat = window[0].flatten(1)
    low, high = flat.amin(dim=1), flat.amax(dim=1)
    return tuple(low.tolist()) if bool((low == high).all()) else None


def _window(image: torch.Tensor, start: Start, plan: WindowPlan) -> torch.Tensor:
    box = tuple(slice(first, first + size) for first, size in zip(start, plan.roi, strict=True))
    return image[(slice(None), *box)][None].contiguous()


def _padded(image: NDArray[np.float32], plan: WindowPlan) -> torch.Tensor:
    """The image as a tensor, zeros added where it is smaller than a window (as MONAI's sliding window does)."""
    missing = [whole - size for whole, size in zip(plan.shape, image.shape[1:], strict=True)]
    if any(missing):
        sides = [(before, gap - before) for before, gap in zip(plan.pads, missing, strict=True)]
        image = np.pad(image, [(0, 0), *sides])
    return torch.from_numpy(image)


def _slicewise(engine: Engine) -> Callable[[torch.Tensor], torch.Tensor]:
    """A two-dimensional network on windows (B, C, X, Y, 1)."""
    return lambda windows: engine(windows[..., 0])[..., None]


def _checked_combination(settings: LabelSettings, networks: int) -> str:
    """How members are combined; nnU-Net blends each member's windows by itself.

    Raises:
        ConfigError: an unknown accumulation, or regions, whose labels nnU-Net's way does not make here.
    """
    if settings.accumulation not in ("float32", "nnunet"):
        raise ConfigError(f"accumulation {settings.accumulation!r}: expected float32 or nnunet")
    if settings.accumulation == "nnunet" and settings.regions:
        raise ConfigError("accumulation 'nnunet' is for classes, not for overlapping regions; use float32")
    return "apart" if settings.accumulation == "nnunet" and networks > 1 else settings.combine


def _values_unless_plain(values: Sequence[int] | None, *, keep: bool = False) -> NDArray[np.integer] | None:
    plain = values is None or (list(values) == list(range(len(values))) and not keep)
    return None if plain or values is None else np.asarray(list(values), dtype=label_dtype(max(values)))
