"""Another scanner's look of a crop, from a seed: random shallow convolutions (gin) and intensities painted on labels (paint).

Every random number is drawn by numpy's Philox from the seed, so that a CPU and a GPU make the same picture.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

LAYERS = (1, 4)  # least and most convolutions of a gin
HIDDEN = 2  # channels between them
SLOPE = 0.01  # of the leaky ReLU between them
# parts that a label, and the background, may be cut into by their intensities
PARTS_OF_A_LABEL, PARTS_OF_THE_BACKGROUND = (1, 2), (2, 6)
BACKGROUND = 0


def gin(channel: Tensor, seed: int) -> None:
    """Global intensity non-linearity of (X, Y, Z), in place.

    One to four convolutions with kernels of 1 or 3, random weights and leaky ReLUs between, blended with the channel by a
    random weight and scaled so that mean and standard deviation, and with them the Frobenius norm, stay. A constant channel
    stays as it is. Source: Ouyang et al. 2021, as described by DG-TTA (arXiv 2312.06275), where only the norm is kept.
    """
    random = np.random.Generator(np.random.Philox(seed))
    mean = channel.mean()
    centred = channel - mean
    norm = torch.linalg.vector_norm(centred)
    if not norm > 0:
        return
    layers = int(random.integers(LAYERS[0], LAYERS[1] + 1))
    share = float(random.random())
    x, width = channel[None, None], 1
    for number in range(layers):
        out = 1 if number == layers - 1 else HIDDEN
        side = (1, 3)[int(random.integers(2))]
        weights = torch.from_numpy(random.standard_normal((out, width, side, side, side), dtype=np.float32))
        shift = torch.from_numpy(random.standard_normal(out, dtype=np.float32))
        weights = weights / (width * side**3) ** 0.5
        x = functional.conv3d(x, weights.to(channel), shift.to(channel), padding=side // 2)
        if number < layers - 1:
            x = functional.leaky_relu(x, SLOPE)
        width = out
    # a shift would otherwise take most of the norm, and leave a flat picture
    changed = x[0, 0] - x[0, 0].mean()
    changed = changed * (norm / torch.linalg.vector_norm(changed).clamp_min(1e-12))
    mixed = share * changed + (1 - share) * centred
    length = torch.linalg.vector_norm(mixed)
    if length > 1e-3 * norm:  # else the two cancel, and what is left is rounding
        channel.copy_(mixed * (norm / length) + mean)


def paint(channel: Tensor, label: Tensor, seed: int) -> None:
    """Fill (X, Y, Z) with random intensities, one for each part of each label, in place.

    A label is cut into one or two parts by its own intensities, the background into two to six: edges inside a label stay
    where they are, what is bright and what is dark is drawn anew. Mean and noise of each part are random; mean 0 and standard
    deviation 1 over the crop. As in domain randomisation (SynthSeg, Billot et al. 2023).

    Args:
        channel: float32.
        label: (X, Y, Z) integers; below 0 is not annotated, and is painted as background.
        seed: of every number.
    """
    random = np.random.Generator(np.random.Philox(seed))
    noise = torch.from_numpy(random.standard_normal(tuple(channel.shape), dtype=np.float32)).to(channel)
    source, classes = channel.clone(), label.clamp_min(BACKGROUND)
    for value in torch.unique(classes).tolist():
        least, most = PARTS_OF_THE_BACKGROUND if value == BACKGROUND else PARTS_OF_A_LABEL
        # a stream of its own for each label: which labels a crop holds moves no other's colour
        own = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed % 2**32, int(value)])))
        parts = int(own.integers(least, most + 1))
        inside = classes == value
        shades, spreads = own.uniform(-2, 2, parts), own.uniform(0.02, 0.3, parts)
        edges = torch.quantile(_at_most(source[inside]), torch.linspace(0, 1, parts + 1)[1:-1].to(channel))
        part = torch.bucketize(source, edges)
        table = torch.tensor(np.stack([shades, spreads]), dtype=channel.dtype, device=channel.device)
        painted = table[0][part] + table[1][part] * noise
        channel.copy_(torch.where(inside, painted, channel))
    spread = channel.std()
    if spread > 0:
        channel.sub_(channel.mean()).div_(spread)


def _at_most(values: Tensor, most: int = 1 << 18) -> Tensor:
    """Evenly taken values, since torch takes quantiles of a few million numbers only."""
    step = -(-values.numel() // most)
    return values[::step]
