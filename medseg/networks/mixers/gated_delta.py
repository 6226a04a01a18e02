"""Gated DeltaNet's mixer: a matrix state per head that forgets, and overwrites what it already answers.

B batch, X Y Z grid, H heads. Source: Yang, Kautz and Hatamizadeh 2024 (arXiv 2412.06464).
"""

from typing import List, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg_kernels import gated_delta_rule

from ..contract import Context, Site
from .masking import hide
from .parts import HeadNorm, LocalMix, check_heads, initial_step_bias, keep_from_decay, share_heads, split_heads, wide


class GatedDelta(nn.Module):
    """S_t = a_t (I - b_t k k^T) S_(t-1) + b_t k v^T, read by q; RMS norm per head, then a SiLU gate.

    Args:
        site: where it stands.
        expand_k, expand_v: key and value channels per channel of the tokens.
        traversals: orders over the grid. One is the published form; several are shared out over the heads.
        local_mix: `causal` (published) or `grid`.
        beta_bias: whether the strength's projection has a bias (the original layer has, the later library has not).
    """

    def __init__(self, site: Site, *, expand_k: float = 0.75, expand_v: float = 1.5,
                 traversals: tuple[str, ...] = ("raster",), local_mix: str = "causal",
                 beta_bias: bool = True) -> None:  # fmt: skip
        super().__init__()
        check_heads(site, "gated_delta")
        heads, width = site.num_heads, site.width
        keys = round(width * expand_k / heads) * heads
        values = round(width * expand_v / heads) * heads
        self.num_heads = heads
        self.traversals: List[str] = share_heads(traversals)
        self.query, self.key = nn.Linear(width, keys, bias=False), nn.Linear(width, keys, bias=False)
        self.value = nn.Linear(width, values, bias=False)
        self.mix_query = LocalMix(site, keys, kind=local_mix, traversals=traversals)
        self.mix_key = LocalMix(site, keys, kind=local_mix, traversals=traversals)
        self.mix_value = LocalMix(site, values, kind=local_mix, traversals=traversals)
        self.decay = nn.Linear(width, heads, bias=False)
        self.strength = nn.Linear(width, heads, bias=beta_bias)
        self.log_rate = keep_from_decay(nn.Parameter(torch.empty(heads).uniform_(1e-3, 16.0).log()))
        self.step_bias = keep_from_decay(nn.Parameter(initial_step_bias(heads)))
        self.gate = nn.Linear(width, values, bias=False)
        self.norm = HeadNorm(values // heads)
        self.project = nn.Linear(values, width, bias=False)

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        valid = context.valid
        x = hide(x, valid)
        q = functional.normalize(wide(split_heads(self.mix_query(self.query(x)), self.num_heads)), dim=-1)
        k = functional.normalize(wide(split_heads(self.mix_key(self.key(x)), self.num_heads)), dim=-1)
        v = split_heads(self.mix_value(self.value(x)), self.num_heads)
        # float32 under autocast: a decay of 0.999 rounds to 1 in 16 bits and the state would never fade
        rate = -torch.exp(wide(self.log_rate))
        log_decay = rate * functional.softplus(wide(self.decay(x)) + wide(self.step_bias))
        log_decay = hide(log_decay, valid)  # padding is passed over: nothing fades, nothing is written
        strength = hide(wide(self.strength(x)).sigmoid(), valid)
        y, _ = gated_delta_rule(q, k, v, log_decay, strength, traversals=self.traversals)
        gated = self.norm(y) * functional.silu(wide(split_heads(self.gate(x), self.num_heads)))
        return self.project(gated.to(x.dtype).flatten(-2)), context
