"""How much of an image can be rebuilt from features: a network is trained on some patients' pairs and tried on others.

The attacker is one that has images of its own kind and can ask the site's encoder (black box).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.metrics.regression import compute_ssim_and_cs
from torch import Tensor, nn
from torch.nn import functional

from .cut import Defence
from .image_site import ImageSite

BATCH = 4
WIDTH = 32


@dataclass(frozen=True)
class Attack:
    """How hard is tried.

    Args:
        steps: of training the inversion network.
        seeds: repetitions, whose mean is reported.
        crops: per patient.
        repeats: times that one crop is asked for by the attacker that averages.
        levels: only these; None for all, also those that do not leave the site.
    """

    steps: int = 200
    seeds: int = 3
    crops: int = 4
    repeats: int = 16
    levels: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Leak:
    """What came of one attack; means over seeds, crops of unseen patients, and channels.

    Args:
        site, level, sent: whose features, of which level, and whether it leaves the site.
        defence: in words.
        correlation: of rebuilt and true image.
        ssim: of both; `above_mean` less that of the constant mean image.
        repeated: the correlation of an attacker that averages repeated answers, in learning and in rebuilding.
        original, rebuilt: the middle slice of one unseen crop.
        by_seed: the correlation of each seed of the attack.
    """

    site: str
    level: int
    sent: bool
    defence: str
    correlation: float
    ssim: float
    above_mean: float
    repeated: float
    original: Any
    rebuilt: Any
    by_seed: tuple[float, ...] = ()

    def row(self) -> list[object]:
        """Of the table."""
        sent = "sent" if self.sent else "kept"
        return [self.site, self.level, sent, self.defence, self.correlation, self.ssim, self.above_mean, self.repeated]


HEADER = [
    "site",
    "level",
    "",
    "defence",
    "correlation",
    "SSIM",
    "SSIM above the mean image",
    "correlation, repeated queries",
]


def attack_site(party: ImageSite, known: Sequence[str], unseen: Sequence[str], attack: Attack) -> list[Leak]:
    """One row for each level of a site, under the site's own defence and, where it has one, without.

    Args:
        party: the site, its half loaded, its patients brought to their grids.
        known: patients whose images the attacker has.
        unseen: patients whose images are to be rebuilt.
        attack: see `Attack`.
    """
    party.encoder.eval()
    defences = [Defence()] if party.defence == Defence() else [Defence(), party.defence]
    levels = attack.levels or range(party.settings.network().encoder.levels)  # type: ignore[arg-type, union-attr]
    return [_attacked(party, level, defence, known, unseen, attack) for defence in defences for level in levels]


def _attacked(
    party: ImageSite, level: int, defence: Defence, known: Sequence[str], unseen: Sequence[str], attack: Attack
) -> Leak:
    train, test = (_crops(party, names, attack.crops) for names in (known, unseen))
    answers = torch.Generator().manual_seed(level)
    known_once, once = (_ask(party, level, defence, crops, answers) for crops in (train, test))
    known_mean, mean = known_once, once
    if defence.random:  # who may ask again and again learns from averaged answers too
        known_mean, mean = (
            torch.stack([_ask(party, level, defence, crops, answers) for _ in range(attack.repeats)]).mean(dim=0)
            for crops in (train, test)
        )
    found: list[tuple[float, float, float]] = []
    pictures: list[Tensor] = []
    for seed in range(attack.seeds):
        rebuilt = _rebuild(known_once, train, once, attack.steps, seed)
        averaged = _rebuild(known_mean, train, mean, attack.steps, seed) if defence.random else rebuilt
        pictures.append(rebuilt)
        found.append((correlation(rebuilt, test), similarity(rebuilt, test), correlation(averaged, test)))
    flat = train.mean(dim=(0, 2, 3, 4), keepdim=True).expand_as(test)
    mean_image = similarity(flat, test)
    corr, ssim, repeated = (statistics.fmean(values) for values in zip(*found, strict=True))
    middle = test.shape[-1] // 2
    return Leak(
        party.name, level, level in party.levels, defence.words(), corr, ssim, ssim - mean_image, repeated,
        test[0, 0, :, :, middle].numpy(), pictures[0][0, 0, :, :, middle].numpy(),
        tuple(values[0] for values in found),
    )  # fmt: skip


def _crops(party: ImageSite, names: Sequence[str], count: int) -> Tensor:
    """(N, C, *roi) at places drawn anew for each patient, the same on every call."""
    roi = party.settings.roi_size
    draw = torch.Generator().manual_seed(len(names))
    chosen = []
    for name in names:
        shape = party.images.arrays[name].shape[1:]
        room = [max(0, extent - size) for extent, size in zip(shape, roi, strict=True)]
        starts = [[int(torch.randint(0, r + 1, (), generator=draw)) for r in room] for _ in range(count)]
        chosen.append(party.images.windows(name, starts, roi))
    return torch.cat(chosen)


def _ask(party: ImageSite, level: int, defence: Defence, crops: Tensor, generator: torch.Generator) -> Tensor:
    """Features (N, C, *space) of one level as they leave the site: clipped together with the other levels that do."""
    together = list(party.levels) if level in party.levels else [level]
    with torch.no_grad():
        found = [party.encoder(part) for part in crops.split(BATCH)]
        parts = [defence.apply([one[number] for number in together], generator) for one in found]
    return torch.cat([part[together.index(level)] for part in parts])


def _rebuild(features: Tensor, images: Tensor, unseen: Tensor, steps: int, seed: int) -> Tensor:
    """Images of unseen features by a network that learns to rebuild `images`; scaled as the attacker can."""
    middle = features.mean(dim=(0, 2, 3, 4), keepdim=True)
    scale = features.std(dim=(0, 2, 3, 4), keepdim=True).clamp_min(1e-6)
    inverse = _train((features - middle) / scale, images, steps, seed)
    with torch.no_grad():
        return torch.cat([inverse(part) for part in ((unseen - middle) / scale).split(BATCH)])


def _train(features: Tensor, images: Tensor, steps: int, seed: int) -> nn.Module:
    """A network of three convolutions, trained to give images back."""
    torch.manual_seed(seed)
    inverse = _Inverse(features.shape[1], images.shape[1], images.shape[2:])
    optimizer = torch.optim.Adam(inverse.parameters(), lr=4e-3)
    for _ in range(steps):
        chosen = torch.randint(0, len(images), (min(BATCH, len(images)),))
        loss = functional.mse_loss(inverse(features[chosen]), images[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return inverse.eval()


class _Inverse(nn.Module):
    def __init__(self, channels: int, out_channels: int, size: Sequence[int]) -> None:
        super().__init__()
        self.size = tuple(size)
        self.first = nn.Conv3d(channels, WIDTH, 3, padding=1)
        self.second = nn.Conv3d(WIDTH, WIDTH, 3, padding=1)
        self.last = nn.Conv3d(WIDTH, out_channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        x = functional.leaky_relu(self.first(features))
        x = functional.interpolate(x, size=self.size, mode="trilinear")
        return self.last(functional.leaky_relu(self.second(x)))


def correlation(found: Tensor, wanted: Tensor) -> float:
    """Pearson's, mean over items and channels (N, C, *space); 0 where an image is constant."""
    a, b = (x.flatten(2) - x.flatten(2).mean(dim=2, keepdim=True) for x in (found, wanted))
    return float(((a * b).sum(dim=2) / (a.norm(dim=2) * b.norm(dim=2)).clamp_min(1e-12)).mean())


def similarity(found: Tensor, wanted: Tensor) -> float:
    """SSIM (MONAI's, Gaussian kernel of 7 voxels), on the range of the true images."""
    span = float(wanted.max() - wanted.min()) or 1.0
    kernel = [min(7, size - 1 + size % 2) for size in wanted.shape[2:]]
    full, _ = compute_ssim_and_cs(found.contiguous(), wanted, 3, kernel, [1.5] * 3, data_range=span)
    return float(full.mean())
