"""The ablation of any mixer: tokens stay where they are and the sub-layer adds nothing."""

from typing import Tuple

from torch import Tensor, nn

from ..contract import Context, Site


class Identity(nn.Module):
    """Takes the place of a token mixer; the residual sub-layer around it then returns its input.

    Published work shows that many hybrids lose little when their mixers are replaced by this: the comparison belongs
    to every result. The MLPs of the blocks stay.
    """

    def __init__(self, site: Site) -> None:
        super().__init__()

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        return x, context
