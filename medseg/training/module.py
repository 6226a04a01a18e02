"""One Lightning module for every network: image -> logits at several scales -> loss; whole volumes for validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from medseg.errors import ConfigError, MedsegError
from medseg.losses import DeepSupervisionLoss
from medseg.losses.over_ranks import whole_batch
from medseg.networks import no_weight_decay
from medseg.tracking.names import metric_name
from medseg.transforms.classes import class_names, class_values
from medseg.transforms.regions import region_masks

from .budget_keeper import KeepBudget
from .checkpoint_io import steps_inside
from .chosen_parts import Loss, make_loss
from .optimization import make_optimizer, parameter_groups, schedule_factor
from .shares import Share, scales_in_parts
from .step_errors import Place, explain_step, not_finite


class SegmentationModule(pl.LightningModule):
    """Train a segmentation network.

    Args:
        network: `forward_scales(image (B, C, *space))` gives logits (B, K, *space) from fine to coarse; one without it
            gives them, or a list of them, when it is called.
        labels: label value -> name, background included; keys may be text, as JSON has no other.
        inferer: `inferer(inputs, network)` for whole validation volumes.
        regions: overlapping targets as in plan.json ({"name", "labels", "label"}), one output each; empty for plain labels.
        loss: a name of `medseg.losses.LOSSES`, {"name": name, setting: value}, or a module.
        optimizer: a name of `optimization.OPTIMIZERS`, or what makes one of groups of parameters and `lr`.
        learning_rate, weight_decay, schedule, warmup_steps: see `optimization`.
        deep_supervision: weight of a scale's loss relative to the next finer one.
        project: package of the user's own parts, see `medseg.own_parts`.
        micro_batch_size: samples that a device holds at once; a step's share of more is taken in parts, see `shares`.
        seed: reseeds torch before every step, so that drop-path masks depend on (seed, step) alone and a resumed run
            repeats the uninterrupted one bit for bit.

    Raises:
        ConfigError: an unknown loss.
    """

    def __init__(
        self,
        network: nn.Module,
        labels: Mapping[Any, str],
        inferer: Callable[..., Tensor],
        *,
        regions: Sequence[Mapping[str, Any]] = (),
        loss: Loss = "dice_ce",
        optimizer: str | Callable[..., torch.optim.Optimizer] = "adamw",
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        schedule: str = "poly",
        warmup_steps: int = 0,
        deep_supervision: float = 0.5,
        project: str | None = None,
        micro_batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.network = network
        self.labels = class_names(labels)
        number = {value: place for place, value in enumerate(class_values(int(value) for value in labels))}
        self.regions = {str(r["name"]): [number[int(value)] for value in r["labels"]] for r in regions}
        self.inferer = inferer
        self.loss = DeepSupervisionLoss(make_loss(loss, list(self.regions.values()), project), decay=deep_supervision)
        self.optimizer_settings: dict[str, Any] = {
            "name": optimizer,
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
        }
        self.schedule, self.warmup_steps, self.seed = schedule, warmup_steps, seed
        self.micro_batch_size = micro_batch_size
        self.share: Share | None = None  # of this process, once the training has begun; None where a batch is whole
        self._overlaps: list[tuple[str, Tensor]] = []
        self.place: Place | None = None  # of the step that runs
        self.mean_loss = MeanMetric(nan_strategy="disable")  # of the epoch so far

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, K, *space) of images (B, C, *space)."""
        return self.network(image)

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        self.place = Place.of(f"training step {self.global_step}", batch)
        torch.manual_seed(self.step_seed)

    @property
    def step_seed(self) -> int:
        return self.seed * 1_000_003 + self.global_step

    def on_fit_start(self) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            self.share = data.share(self.micro_batch_size)

    def scales(self, network: nn.Module, image: Tensor) -> list[Tensor]:
        """Logits from fine to coarse of this process's samples of a step, part by part where they are more than fit at once."""
        if self.share is None:
            return scales_of(network, image)
        return scales_in_parts(network, image, self.share, scales_of, seed=self.step_seed)

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        scales = self.scales(self.network, batch["image"])
        self._check_outputs(scales[0].shape[1])
        with whole_batch():
            loss = self.loss(scales, batch["label"], batch.get("present"))
        return self.counted(loss, batch)

    def counted(self, loss: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """The loss of a step, once it stands in the mean of the epoch.

        Raises:
            NotFiniteError: it is NaN or infinite; the step and its cases are named.
        """
        if not torch.isfinite(loss):
            place = Place.of(f"training step {self.global_step}", batch)
            raise not_finite(loss.item(), place, float(self.optimizer_settings["learning_rate"]))
        self.mean_loss.update(loss.detach().float())
        self.log("train_loss", self.mean_loss, on_step=False, on_epoch=True)
        return loss

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        self.place = None

    def explain(self, error: BaseException) -> MedsegError | None:
        """An error raised inside a step as one line that names the cases; None where no step was running."""
        return None if self.place is None else explain_step(error, self.place, getattr(self.network, "divisor", ()))

    @contextmanager
    def at(self, what: str, batch: object) -> Iterator[None]:
        """Errors inside are told with the batch's cases."""
        try:
            yield
        except Exception as error:
            told = explain_step(error, Place.of(what, batch), getattr(self.network, "divisor", ()))
            raise told from (None if told is error else error)

    def _check_outputs(self, outputs: int) -> None:
        wanted = len(self.regions) or len(self.labels) + 1
        if outputs != wanted:
            raise ConfigError(
                f"the network has {outputs} outputs, expected {wanted}: one for each "
                + ("region" if self.regions else "label and the background")
                + f"; set network_def::out_channels={wanted}, or plan the dataset again"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The mean of an unfinished epoch goes on where it was; at an epoch's end it is still that epoch's."""
        if steps_inside(checkpoint):
            checkpoint["mean_loss"] = [self.mean_loss.mean_value.clone(), self.mean_loss.weight.clone()]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "mean_loss" in checkpoint:
            total, weight = (value.to(self.device) for value in checkpoint["mean_loss"])
            self.mean_loss.mean_value, self.mean_loss.weight = total, weight

    def on_validation_epoch_start(self) -> None:
        self._overlaps = []

    def on_validation_batch_start(self, batch: object, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.place = Place.of("validation", batch)

    def on_validation_batch_end(self, outputs: object, batch: object, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.place = None

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        if bool(batch["repeat"]):  # stands where this process has no case of its own
            return
        label = batch["label"][:, 0]
        logits = self.inferer(batch["image"], self.network)
        if self.regions:
            targets = list(self.regions.values())
            counts = region_counts(logits[0] > 0, label[0], targets)
        else:
            targets = [[value] for value in self.labels]
            counts = overlap_counts(logits.argmax(dim=1)[0], label[0], list(self.labels))
        if "present" in batch:  # what nobody annotated in this case is neither right nor wrong
            declared = torch.stack([batch["present"][0, values].all() for values in targets]).cpu()
            counts[~declared] = 0
        self._overlaps.append((str(batch["name"][0]), counts.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Log the mean Dice per label, or region, over the cases that hold the label or for which it was predicted."""
        names = list(self.regions or self.labels.values())
        if not self._overlaps and self.trainer.world_size == 1:
            return
        found = [counts for _, counts in self._overlaps]
        counts = torch.stack(found).to(torch.float64) if found else torch.zeros(0, len(names), 3, dtype=torch.float64)
        dice = 2 * counts[..., 0] / (counts[..., 1] + counts[..., 2])
        summed = torch.stack([dice.nansum(dim=0), (~dice.isnan()).sum(dim=0).double()]).to(self.device, torch.float32)
        summed = self.trainer.strategy.reduce(summed, reduce_op="sum")  # processes hold different numbers of cases
        per_label = summed[0] / summed[1]
        for name, value in zip(names, per_label, strict=True):
            self.log(metric_name("val_dice", name, among=names), value)
        self.log("val_dice", per_label.nanmean(), prog_bar=True)

    def configure_optimizers(self) -> dict[str, Any]:
        settings = self.optimizer_settings
        without = {f"network.{name}" for name in no_weight_decay(self.network)}
        groups = parameter_groups(self, float(settings["weight_decay"]), without)
        optimizer = make_optimizer(groups, **settings)  # type: ignore[arg-type]
        total = int(self.trainer.estimated_stepping_batches)
        keepers = [each for each in getattr(self.trainer, "callbacks", []) if isinstance(each, KeepBudget)]
        total = keepers[0].total_steps(total) if keepers else total
        factor = schedule_factor(self.schedule, total_steps=total, warmup_steps=self.warmup_steps)

        def rate(step: int) -> float:
            return factor(keepers[0].stretched(step) if keepers else step)

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def scales_of(network: nn.Module, image: Tensor) -> list[Tensor]:
    """Logits from fine to coarse of any network: ours, or one that gives one tensor, or several, when it is called."""
    if hasattr(network, "forward_scales"):
        return list(network.forward_scales(image))  # type: ignore[operator]
    found = network(image)
    return list(found) if isinstance(found, (list, tuple)) else [found]


def region_counts(prediction: Tensor, reference: Tensor, regions: Sequence[Sequence[int]]) -> Tensor:
    """(R, 3) int64 on the CPU: as `overlap_counts`, for masks (R, *space) that may overlap."""
    valid = reference >= 0
    truth, found = region_masks(reference, regions) & valid, prediction & valid
    counts = [(found & truth), found, truth]
    return torch.stack([mask.flatten(1).sum(dim=1) for mask in counts], dim=1).cpu()


def overlap_counts(prediction: Tensor, reference: Tensor, labels: Sequence[int]) -> Tensor:
    """(len(labels), 3) int64 on the CPU: voxels in both, in the prediction, in the reference; ignored voxels (-1) left out."""
    valid = reference >= 0
    top = max(labels) + 1
    joint = torch.bincount(reference[valid].long() * top + prediction[valid].long(), minlength=top * top).view(top, top)
    return torch.stack([torch.stack([joint[v, v], joint[:, v].sum(), joint[v].sum()]) for v in labels])
