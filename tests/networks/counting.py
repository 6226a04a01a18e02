"""Parameters of the parts that published networks share, written down apart from the networks."""

import torch

from medseg.networks import build_network
from medseg.networks.network import SegmentationNetwork

CLASSES = 1000
CHANNELS = 3


def norm(c: int) -> int:
    return 2 * c


def mlp(c: int, ratio: int) -> int:
    return 2 * ratio * c * c + ratio * c + c


def attention(c: int) -> int:
    return 4 * c * c + 4 * c


def classifier(c: int) -> int:
    """Norm and 1000 classes behind a last stage of 8 c channels."""
    return norm(8 * c) + (8 * c + 1) * CLASSES


def mamba(width: int, orders: int, taps: int, *, bias: bool = False, moves: int = 0) -> int:
    """Projections in and out, `orders` sets of convolution, projections, rates and skip; states of 16."""
    inner, rank = 2 * width, -(-width // 16)
    own = inner * (taps + 1) + inner * (rank + 32) + inner * rank + inner + 16 * inner + inner
    return 3 * inner * width + (2 * inner + width if bias else 0) + orders * own + 16 * moves


def on_meta(preset: str, size: str, **options: int) -> SegmentationNetwork:
    with torch.device("meta"):
        return build_network(preset, size=size, **options)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
