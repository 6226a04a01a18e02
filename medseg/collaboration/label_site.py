"""The site of a split network that has the labels and the decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medseg.errors import DataError
from medseg.io.datalist import Case
from medseg.io.store import StoredArrays
from medseg.losses import DeepSupervisionLoss
from medseg.training.chosen_parts import make_loss
from medseg.training.prepare import preprocess_case
from medseg.transforms.classes import class_values
from medseg.transforms.crops.sampling import SampleKey, draw_case, draw_center

from .cut import from_wire, to_wire
from .half import Half, read_half, write_half
from .site_images import Crop, reference_of
from .split_settings import SplitSettings, encoders_of


class LabelSite:
    """The site with the labels: its own encoder, the decoder and the loss.

    Args:
        cases: its labelled patients, by name.
        settings: see `SplitSettings`.
        training: names of the patients that train.
        wire, folder: as for `ImageSite`.
    """

    def __init__(
        self,
        cases: Mapping[str, Case],
        settings: SplitSettings,
        training: Sequence[str],
        *,
        wire: str = "float32",
        folder: Path | None = None,
    ) -> None:
        self.name, self.settings, self.wire = settings.label_site, settings, wire
        without = [name for name in training if name not in cases or cases[name].label is None]
        if without:
            raise DataError(f"the label site {self.name!r} has no labels of patient {without[0]!r}; add a label map")
        self.cases, self.training = dict(cases), list(training)
        self.place = settings.place(self.name)
        self.arrays: dict[str, StoredArrays] = {}
        network = settings.network()
        for other in [name for name in settings.sites if name != self.name]:
            del encoders_of(network)[other]
        self.network = network
        self.half = Half(network, settings, folder)
        config = settings.config
        values = class_values(int(value) for value in config["labels"])
        regions = [[values.index(int(v)) for v in region["labels"]] for region in config.get("regions", [])]
        self.loss = DeepSupervisionLoss(make_loss(config["train"]["module"].get("loss", "dice_ce"), regions))
        self.losses: list[float] = []

    def prepare(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Preprocess patients; returns the geometries to be told to the other sites."""
        labels = {int(value): name for value, name in self.settings.config["labels"].items()}
        ignore = self.settings.config["train"]["dataset"].get("ignore_label")
        build = preprocess_case(self.place.preprocessing, labels, ignore_label=ignore)
        for name in names:
            if name not in self.arrays:
                self.arrays[name] = build(self.cases[name])
        return self.references(names)

    def references(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Shape and affine of patients' images here. Raises DataError for one that is not here."""
        unknown = [name for name in names if name not in self.cases]
        if unknown:
            raise DataError(f"the label site {self.name!r} has no patient {unknown[0]!r}")
        return [reference_of(self.cases[name]) for name in names]

    def crops(self, step: int) -> list[Crop]:
        """Which crops a step takes; a third of them are centred on a labelled voxel, as in `medseg fit`."""
        settings, chosen = self.settings, []
        for number in range(step * settings.batch_size, (step + 1) * settings.batch_size):
            epoch, index = divmod(number, settings.epoch_length)
            key = SampleKey(settings.seed, epoch, index)
            case = self.training[draw_case(key, len(self.training), settings.epoch_length)]
            arrays = self.arrays[case]
            center = draw_center(key, arrays.image.shape[1:], settings.roi_size, arrays.foreground)
            chosen.append(Crop(case, epoch, index, tuple(float(value) for value in center)))
        return chosen

    def batch(self, crops: Sequence[Crop]) -> tuple[Tensor, Tensor]:
        """(B, C, *roi) of its own channels, and classes (B, 1, *roi)."""
        pairs = [self.place.cut(self.arrays[crop.case].image, self.arrays[crop.case].label, crop) for crop in crops]
        return torch.stack([image for image, _ in pairs]), torch.stack(
            [label[None] for _, label in pairs if label is not None]
        )

    def step(self, step: int, crops: Sequence[Crop], features: Mapping[str, list[Tensor]]) -> dict[str, list[Tensor]]:
        """One step: loss, its own weights' update; returns for each site the gradients of what it sent."""
        self.network.train()
        torch.manual_seed(self.settings.seed * 1_000_003 + step)
        image, label = self.batch(crops)
        received = {name: [x.requires_grad_() for x in from_wire_copies(cut)] for name, cut in features.items()}
        loss = self.loss(self.network.decode_scales(self.joined(image, received)), label, None)
        if not torch.isfinite(loss):
            raise DataError(f"step {step}: the loss is {loss.item()}; lower train::module::learning_rate")
        loss.backward()
        replies = {
            name: to_wire([torch.zeros_like(x) if x.grad is None else x.grad for x in cut], self.wire)
            for name, cut in received.items()
        }
        self.losses.append(float(loss.detach()))
        self.half.update(step)
        self.half.keep(losses=list(self.losses))
        return replies

    def joined(self, image: Tensor, received: Mapping[str, Sequence[Tensor]]) -> list[Tensor]:
        """Joined features per level, of the own image and of what came."""
        own = encoders_of(self.network)[self.name](image)
        found: list[Any] = []
        for name in self.settings.sites:
            levels = self.settings.sent[name]
            found.append(own if name == self.name else dict(zip(levels, received[name], strict=True)))
        return list(self.network.encoder.join(found))  # type: ignore[operator]

    def restore(self, step: int) -> None:
        """Go back to the state after so many steps."""
        state = self.half.restore(step)
        self.losses = [float(value) for value in state.get("losses", [])]

    def load(self) -> None:
        """Take the trained half."""
        assert self.half.folder is not None
        state, self.half.done = read_half(self.half.folder)
        self.network.load_state_dict(state)

    def finish(self) -> None:
        """Write this site's half: its encoder, the decoder and the heads."""
        if self.half.folder is not None:
            write_half(self.half.folder, self.network.state_dict(), self.half.done)


def from_wire_copies(cut: Sequence[Tensor]) -> list[Tensor]:
    """Leaves of a graph of their own."""
    return [tensor.detach().clone() for tensor in from_wire(cut)]
