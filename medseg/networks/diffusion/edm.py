"""The scaling around a denoiser (EDM): its input and its target have unit variance at every noise level.

s is the standard deviation of the noise, sd that of the data. D(x; s) = c_skip x + c_out F(c_in x; c_noise). Loss:
weight |D(y + s n; s) - y|^2 with ln s normal. Source: Karras et al. 2022, table 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medseg.errors import ConfigError

from .diffit import Diffit3d, DiffitShape, shape_of

LOG_MEAN, LOG_STD = -1.2, 1.2  # of ln s in training


@dataclass(frozen=True)
class Scales:
    """The five factors at noise level s; see the module's text."""

    skip: Tensor
    out: Tensor
    input: Tensor
    noise: Tensor
    weight: Tensor

    @classmethod
    def at(cls, s: Tensor, sd: float) -> Scales:
        """Of noise levels (B,) and the data's standard deviation."""
        both = (s**2 + sd**2).sqrt()
        return cls(sd**2 / both**2, s * sd / both, 1 / both, s.log() / 4, (both / (s * sd)) ** 2)


class Denoiser(nn.Module):
    """D(x; s, label), with the float32 arithmetic of the scaling around a body of any precision.

    Args:
        body: `body(image, noise, label)` gives (B, Ci, X, Y, Z).
        sigma_data: standard deviation of the training images, measured.
        bound: images are clipped to [-bound, bound], in units of the normalised image.
    """

    def __init__(self, body: Diffit3d, sigma_data: float, bound: float = 4.0) -> None:
        super().__init__()
        if not 0 < sigma_data < bound:
            raise ConfigError(f"diffit: sigma_data is {sigma_data}, bound {bound}; expected 0 < sigma_data < bound")
        self.body, self.sigma_data, self.bound = body, float(sigma_data), float(bound)

    @property
    def divisor(self) -> tuple[int, ...]:
        """What every side of a volume must be a multiple of, per axis."""
        return (self.body.shape.divisor,) * 3

    def forward(self, x: Tensor, s: Tensor, label: Tensor) -> Tensor:
        """The denoised image.

        Args:
            x: (B, Ci, X, Y, Z), image plus noise.
            s: (B,) standard deviation of the noise.
            label: (B, K + 1, X, Y, Z), see `label_channels`.
        """
        kind = torch.float64 if x.dtype == torch.float64 else torch.float32
        scales = Scales.at(s.to(kind), self.sigma_data)
        raw = self.body(per_sample(scales.input) * x.to(kind), scales.noise, label.to(kind))
        return per_sample(scales.skip) * x.to(kind) + per_sample(scales.out) * raw.to(kind)

    def loss(self, image: Tensor, label: Tensor, generator: torch.Generator, *, s: Tensor | None = None) -> Tensor:
        """Mean weighted squared error of denoising images (B, Ci, X, Y, Z); 1 at the start, on data of that spread.

        Args:
            image: clipped already.
            label: channels, see `label_channels`.
            generator: of the noise, on the CPU, so that every device draws the same.
            s: noise levels (B,); drawn where they are not given.
        """
        count = len(image)
        if s is None:
            s = torch.exp(LOG_MEAN + LOG_STD * torch.randn(count, generator=generator)).to(image.device)
        noise = torch.randn(image.shape, generator=generator).to(image)
        weight = Scales.at(s.to(image.dtype), self.sigma_data).weight
        error = self(image + per_sample(s.to(image)) * noise, s, label) - image
        return (per_sample(weight) * error.square()).mean()


def per_sample(values: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1, 1)."""
    return values[:, None, None, None, None]


def label_channels(label: Tensor, classes: int, *, given: Tensor | None = None) -> Tensor:
    """(B, X, Y, Z) class numbers -> (B, K + 1, X, Y, Z): one-hot, and a channel of ones; zeros for samples without a label.

    Args:
        label: below 0 is not annotated: no class there.
        classes: K, background included.
        given: (B,) booleans; None gives all.

    Raises:
        ConfigError: a class that the network does not have.
    """
    top = int(label.max())
    if top >= classes:
        raise ConfigError(f"diffit: found label class {top}; the generator has {classes} classes, 0 to {classes - 1}")
    hot = torch.nn.functional.one_hot(label.clamp_min(0), classes).movedim(-1, 1).float()
    hot = torch.cat([hot * (label >= 0)[:, None], torch.ones_like(hot[:, :1])], 1)
    return hot if given is None else hot * per_sample(given.to(hot))


def build_diffit(
    *, sigma_data: float, bound: float = 4.0, multiples: Any = (1, 2, 2), spatial_dims: int = 3, **sizes: Any
) -> Denoiser:
    """A denoiser of a bundle's train.json.

    Args:
        sigma_data, bound: see `Denoiser`.
        multiples: widths of the levels.
        spatial_dims: 3.
        sizes: other fields of `DiffitShape`.

    Raises:
        ConfigError: sizes that do not fit, or two dimensions.
    """
    if spatial_dims != 3:
        raise ConfigError(f"diffit: spatial_dims is {spatial_dims}; it makes volumes, expected 3")
    return Denoiser(Diffit3d(DiffitShape(multiples=shape_of(multiples), **sizes)), sigma_data, bound)
