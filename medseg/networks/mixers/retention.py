"""Vision retention (ViR): linear attention whose every head forgets at a constant rate, in 1D or octant order.

B batch, X Y Z grid, H heads, E per-head channels, P tokens of a plane (Y * Z).
Source: Hatamizadeh et al. 2023 (arXiv 2310.19731); the equations, not the softmax of the released parallel path, which
makes its three forms differ. The octant order carries the paper's 2D mask into 3D.
"""

import math
from typing import List, Tuple

import torch
from torch import Tensor, nn

from medseg.errors import ConfigError
from medseg.networks.context import Context, Site
from medseg_kernels import retention

from .parts import HeadNorm, check_heads

ORDERS = ("raster", "octant", "octant_pair")
NORMS = ("none", "head")


class Retention(nn.Module):
    """o_n = q_n sum_m g^distance(n, m) k_m^T v_m over the tokens m that come before n.

    Args:
        site: where it stands; its index chooses the corner from which octant orders start, so that blocks take turns.
        order: `raster` (before = earlier in memory order, distance in steps), `octant` (before = not beyond n on any
            axis, distance along the axes) or `octant_pair` (an octant and the opposite one, each token counted once).
        out_norm: `head` (root mean square per head) or `none` (as released; leans on a small layer scale).
    """

    log_decay: Tensor
    flips: List[int]
    opposite: List[int]

    def __init__(self, site: Site, *, order: str = "octant", out_norm: str = "head") -> None:
        super().__init__()
        check_heads(site, "retention")
        if order not in ORDERS or out_norm not in NORMS:
            raise ConfigError(
                f"retention: found order {order!r} and out_norm {out_norm!r}, expected {ORDERS} and {NORMS}"
            )
        self.num_heads, self.order = site.num_heads, order
        self.scale = (site.width // site.num_heads) ** -0.5
        turn = site.index % 8
        self.flips = [axis + 1 for axis in range(3) if turn >> axis & 1]
        self.opposite = [axis for axis in (1, 2, 3) if axis not in self.flips]
        self.traversals: List[str] = ["reversed raster" if site.index % 2 else "raster"]
        self.qkv = nn.Linear(site.width, 3 * site.width)
        self.norm: nn.Module = HeadNorm(site.width // site.num_heads) if out_norm == "head" else nn.Identity()
        self.project = nn.Linear(site.width, site.width)
        self.register_buffer("log_decay", log_decays(site.num_heads), persistent=False)

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        q, k, v = self.qkv(x).unflatten(-1, [3, self.num_heads, -1]).unbind(-3)
        if self.order == "raster":
            y, _ = retention(q, k, v, self.log_decay, scale=self.scale, traversals=self.traversals)
        else:
            q, k, v = q.float() * self.scale, k.float(), v.float()
            y = octant(q, k, v, self.log_decay, self.flips)
            if self.order == "octant_pair":
                itself = (q * k).sum(-1, keepdim=True) * v
                y = y + octant(q, k, v, self.log_decay, self.opposite) - itself
        return self.project(self.norm(y).to(x.dtype).flatten(-2)), context


def log_decays(num_heads: int) -> Tensor:
    """log(1 - exp(u)), u equally spaced from log(1/32) to log(1/512): decays from 0.96875 to 0.998047."""
    return torch.log1p(-torch.exp(torch.linspace(math.log(1 / 32), math.log(1 / 512), num_heads)))


def octant(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, flips: List[int]) -> Tensor:
    """Retention from one corner of the grid, in time and memory linear in the number of planes.

        S[x, y, z] = sum over x' <= x, y' <= y, z' <= z of g^(x - x' + y - y' + z - z') k^T v,   o = q S

    Inside a plane the masked product is taken in full; from the planes before comes a state per token of a plane.

    Args:
        q, k, v: (B, X, Y, Z, H, E) in float32, q scaled.
        log_decay: (H,) log g.
        flips: axes of the tensors (1 to 3) along which the order runs backwards.
    """
    shape = v.shape
    q, k, v = q.flip(flips), k.flip(flips), v.flip(flips)
    mask = plane_mask(q.shape[2], q.shape[3], log_decay)
    q, k, v = planes(q), planes(k), planes(v)
    decay = log_decay.exp().reshape([-1, 1, 1])
    state = torch.zeros(0)
    outputs: List[Tensor] = []
    for x in range(q.shape[0]):
        y = ((q[x] @ k[x].transpose(-1, -2)) * mask) @ v[x]
        written = (k[x].unsqueeze(-1) * v[x].unsqueeze(-2)).flatten(-2)
        spread = mask @ written
        if x > 0:
            past = state.unflatten(-1, [q.shape[-1], v.shape[-1]])
            y = y + decay * (q[x].unsqueeze(-2) @ past).squeeze(-2)
            spread = spread + decay * state
        state = spread
        outputs.append(y)
    return torch.stack(outputs).permute(1, 0, 3, 2, 4).reshape(shape).flip(flips)


def planes(x: Tensor) -> Tensor:
    """(B, X, Y, Z, H, E) -> (X, B, H, P, E)."""
    return x.flatten(2, 3).permute(1, 0, 3, 2, 4)


def plane_mask(size_y: int, size_z: int, log_decay: Tensor) -> Tensor:
    """(H, P, P): g^(distance along the axes) where neither axis lies ahead, else 0."""
    y = torch.arange(size_y, device=log_decay.device).repeat_interleave(size_z)
    z = torch.arange(size_z, device=log_decay.device).repeat(size_y)
    dy, dz = y.unsqueeze(1) - y, z.unsqueeze(1) - z
    distance = (dy + dz).to(log_decay.dtype)
    mask = torch.exp(distance.clamp(min=0) * log_decay.reshape([-1, 1, 1]))
    return mask * ((dy >= 0) & (dz >= 0)).to(mask.dtype)
