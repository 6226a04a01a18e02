"""Channel mixing of tokens: the MLP of a transformer block and its gated form. Not token mixers; never ablated."""

from typing import Tuple

from torch import Tensor, nn
from torch.nn import functional

from ..contract import Context, Site
from ..layers.common import activation


class MLP(nn.Module):
    """Linear, activation, linear.

    Args:
        site: where it stands.
        ratio: hidden channels per channel.
        act: name of the activation.
    """

    def __init__(self, site: Site, *, ratio: float = 4.0, act: str = "gelu") -> None:
        super().__init__()
        hidden = int(site.width * ratio)
        self.expand = nn.Linear(site.width, hidden)
        self.act = activation(act)
        self.reduce = nn.Linear(hidden, site.width)

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        return self.reduce(self.act(self.expand(x))), context


class SwiGLU(nn.Module):
    """Gated MLP: reduce(silu(gate(x)) * value(x)), without biases.

    Args:
        site: where it stands.
        ratio: hidden channels per channel; 8/3 has as many parameters as an MLP of ratio 4.
    """

    def __init__(self, site: Site, *, ratio: float = 8.0 / 3.0) -> None:
        super().__init__()
        hidden = int(site.width * ratio)
        self.expand = nn.Linear(site.width, 2 * hidden, bias=False)
        self.reduce = nn.Linear(hidden, site.width, bias=False)

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        gate, value = self.expand(x).chunk(2, dim=-1)
        return self.reduce(functional.silu(gate) * value), context
