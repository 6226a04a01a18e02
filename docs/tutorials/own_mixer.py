# %% [markdown]
# # A mixer of your own in a published network
#
# A mixer takes tokens (B, X, Y, Z, C) and a small context, and gives both back; norm, residual and stochastic depth are put around it. Its
# ablation is `identity`: train both, or the figure says nothing about the mixer.
# %%
from typing import Tuple

import torch
from torch import Tensor, nn

from medseg.networks import build_network
from medseg.networks.contract import Context, Site
from medseg.networks.mixers import MIXERS


class MeanMixer(nn.Module):
    """Every token receives a linear map of the mean over the grid."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.project = nn.Linear(site.width, site.width)

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        return self.project(x.mean((1, 2, 3), keepdim=True)).expand(x.shape), context


print(sorted(MIXERS)[:6], "... are there already")
# %% [markdown]
# In a folder with an `__init__.py` that says `MIXERS = {"mean": MeanMixer}` the command line finds it (`project=./my_code`). From Python:
# %%
from pathlib import Path

Path("my_code").mkdir()
_ = Path("my_code/__init__.py").write_text(
    """
from typing import Tuple
from torch import Tensor, nn
from medseg.networks.contract import Context, Site

class MeanMixer(nn.Module):
    def __init__(self, site: Site) -> None:
        super().__init__()
        self.project = nn.Linear(site.width, site.width)

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        return self.project(x.mean((1, 2, 3), keepdim=True)).expand(x.shape), context

MIXERS = {"mean": MeanMixer}
"""
)
size = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "roi_size": [32, 32, 32]}
for mixer in ("mean", "identity"):
    network = build_network("mambavision", mixer=mixer, project="my_code", **size).eval()
    with torch.inference_mode():
        shape = tuple(network(torch.zeros(1, 1, 32, 32, 32)).shape)
    print(mixer, shape, sum(p.numel() for p in network.parameters()))
