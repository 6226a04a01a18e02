"""Train a denoiser of images for label maps: noise in, the image out; everything around it is the segmentation's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from medseg.errors import ConfigError
from medseg.networks.diffusion.edm import Denoiser, label_channels
from medseg.synthesis.sampler import Steps, noise_of, sample

from .module import SegmentationModule
from .sample_pictures import write_pictures

LEVELS = (0.05, 0.2, 0.8, 3.0)  # noise of validation: the same for every case and epoch
PICTURE_STEPS = 12
PICTURES = 2


class DiffusionModule(SegmentationModule):
    """Train a `Denoiser` on pairs of image and label map.

    Args:
        network: what `medseg.components.build_diffit` gives.
        labels: label value -> name, background included.
        roi_size: voxels of a volume, to which validation volumes are cut or filled too.
        label_dropout: share of samples that learn without their label map, so that guidance has something to guide away from.
        learning_rate, weight_decay, schedule, warmup_steps, optimizer: see `optimization`.
        seed: of every number of a step, together with the step's own.

    Raises:
        ConfigError: another kind of network, or labels that it was not made for.
    """

    def __init__(
        self,
        network: Denoiser,
        labels: Mapping[Any, str],
        roi_size: Any,
        *,
        label_dropout: float = 0.1,
        optimizer: str = "adamw",
        learning_rate: float = 2e-4,
        weight_decay: float = 0.0,
        schedule: str = "constant",
        warmup_steps: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            network, labels, _no_windows, optimizer=optimizer, learning_rate=learning_rate, weight_decay=weight_decay,
            schedule=schedule, warmup_steps=warmup_steps, seed=seed,
        )  # fmt: skip
        if not isinstance(network, Denoiser):
            raise ConfigError(f"train::module: found a {type(network).__name__}, expected what build_diffit gives")
        self.classes = len(self.labels) + 1
        if network.body.shape.classes != self.classes:
            raise ConfigError(
                f"network_def::classes is {network.body.shape.classes}; the data have {self.classes}, background included"
            )
        if not 0 <= label_dropout < 1:
            raise ConfigError(f"label_dropout is {label_dropout}; expected a share from 0 to below 1")
        self.label_dropout, self.roi_size = float(label_dropout), tuple(int(side) for side in roi_size)
        self._errors: list[Tensor] = []
        self._pictured: list[tuple[Tensor, Tensor]] = []  # image and label channels of the first validation cases

    @property
    def denoiser(self) -> Denoiser:
        """The network; `__init__` has refused any other kind."""
        return self.network  # type: ignore[return-value]

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.step_seed * 4096 + self.global_rank)
        label = batch["label"][:, 0]
        given = torch.rand(len(label), generator=generator) >= self.label_dropout
        channels = label_channels(label, self.classes, given=given.to(label.device))
        bound = self.denoiser.bound
        loss: Tensor = self.denoiser.loss(batch["image"].clamp(-bound, bound), channels, generator)
        return self.counted(loss, batch)

    def on_validation_epoch_start(self) -> None:
        self._errors, self._pictured = [], []

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        if bool(batch["repeat"]):
            return
        image = of_size(batch["image"], self.roi_size, 0.0).clamp(-self.denoiser.bound, self.denoiser.bound)
        channels = label_channels(of_size(batch["label"], self.roi_size, 0)[:, 0], self.classes)
        for number, level in enumerate(LEVELS):
            generator = torch.Generator().manual_seed(self.seed * 1009 + batch_idx * 17 + number)
            s = torch.full((1,), level, device=image.device)
            self._errors.append(self.denoiser.loss(image, channels, generator, s=s).float())
        if len(self._pictured) < PICTURES:
            self._pictured.append((image.cpu(), channels.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Log the mean error over cases and noise levels; after the last epoch make pictures too."""
        if self._errors or self.trainer.world_size > 1:
            found = torch.stack(self._errors) if self._errors else torch.zeros(0, device=self.device)
            summed = torch.stack([found.sum(), torch.tensor(float(len(found)), device=found.device)])
            summed = self.trainer.strategy.reduce(summed, reduce_op="sum")
            self.log("val_loss", summed[0] / summed[1])
        if self.trainer.current_epoch + 1 == self.trainer.max_epochs and self.trainer.is_global_zero:
            self._draw()

    def _draw(self) -> None:
        """Samples for the first validation cases' label maps beside those cases, as a picture of the run."""
        pairs = []
        for number, (image, channels) in enumerate(self._pictured):
            label = channels.to(self.device)
            noise = noise_of(self.seed, [number], image.shape[1:]).to(self.device)

            def denoise(x: Tensor, s: float, label: Tensor = label) -> Tensor:
                return self.network(x, torch.full((len(x),), s, device=x.device), label)

            pairs.append((image[0, 0], sample(denoise, noise, Steps(PICTURE_STEPS))[0, 0].float().cpu()))
        path = Path(self.trainer.default_root_dir) / "samples.png"
        if write_pictures(path, pairs) and hasattr(self.trainer.logger, "log_file"):
            self.trainer.logger.log_file(path)


def _no_windows(*_: object, **__: object) -> Tensor:
    raise ConfigError("a generator segments nothing; use medseg synthesize sample")


def of_size(volume: Tensor, size: tuple[int, ...], outside: float) -> Tensor:
    """(..., X, Y, Z) cut or filled about its middle."""
    for axis, wanted in enumerate(size):
        place = volume.dim() - len(size) + axis
        have = volume.shape[place]
        if have > wanted:
            volume = volume.narrow(place, (have - wanted) // 2, wanted)
        elif have < wanted:
            low = (wanted - have) // 2
            pad = [0, 0] * (volume.dim() - 1 - place) + [low, wanted - have - low]
            volume = functional.pad(volume, pad, value=outside)
    return volume
